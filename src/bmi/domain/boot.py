"""What a booting machine is told: its address, and an iPXE script. Pure text and records.

iPXE commands as in Debian 12's build (2019): HTTP and iSCSI with CHAP, `sanhook`, several initrds.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bmi.domain.nouns import Json
from bmi.errors import InternalError

Firmware = Literal["ipxe", "bios", "uefi64", "os"]

# Visible ASCII without what iPXE would expand (`$`), end a command with (`#`, `;`, `&`, `|`) or quote.
_WORD = re.compile(r"[A-Za-z0-9._:/@%+,=~\[\]-]+")
# The setting `boot.kernel_args` takes the same characters.
_WORDS = re.compile(rf"({_WORD.pattern}( {_WORD.pattern})*)?")

_WAIT_S = 2
_RETRY_S = 10
_NOTHING_S = 30
_DRIVE = "0x80"  # where the BIOS has its first hard disk


@dataclass(frozen=True)
class Foot:
    """A network that is served: where BMI's interface in it is, and its address (CIDR notation)."""

    network_id: str
    netns: str
    interface: str
    address: str


@dataclass(frozen=True)
class Offer:
    """An address for a NIC: its own one, for ever, or for a firmware that has nothing to boot here one for
    `lease_s`, to be told so. `boot_token` is None for that, and for a running OS.
    """

    address: str
    boot_token: str | None
    lease_s: int = 0xFFFFFFFF  # RFC 2131, section 3.3: infinity


@dataclass(frozen=True)
class Boot:
    """Everything that one live boot may read. `method` "wait" means that the volume is not offered yet."""

    method: Literal["kernel", "sanboot", "wait"]
    node: str
    portal: str = ""
    portal_port: int = 3260
    iqn: str = ""
    initiator: str = ""
    chap_user: str = ""
    chap_secret: str = field(default="", repr=False)
    target_user: str = ""
    target_secret: str = field(default="", repr=False)
    kernel_args: str = ""
    image_id: str = ""
    hostname: str = ""
    meta_data: str = field(default="", repr=False)
    user_data: str = field(default="", repr=False)


def _word(name: str, value: str) -> str:
    """The value, when it is one word to iPXE. The error names it only: it may be a secret."""
    if not _WORD.fullmatch(value):
        raise InternalError(f"The {name} cannot stand in a boot script.")
    return value


def iscsi_uri(boot: Boot) -> str:
    """The root path of the volume (RFC 4173): `iscsi:<server>:<protocol>:<port>:<LUN>:<target>`."""
    return f"iscsi:{_word('portal', boot.portal)}:tcp:{boot.portal_port}:1:{_word('iqn', boot.iqn)}"


# Without progress for so many milliseconds, a download is given up: iPXE by itself waits for ever.
_PATIENCE = "--timeout 30000"
# Asking DHCP anew finds a fresh token, and another network when the switch port has moved meanwhile.
# On the NIC in use (netX) and for IPv4 alone: `dhcp` first waits for every NIC before it.
_START_OVER = (
    f"ifconf --configurator dhcp netX && chain --replace {_PATIENCE} ${{netX/filename}} || goto again"
)


def ipxe_script(boot: Boot, base_url: str) -> str:
    """The script of one boot; everything that it fetches is below `base_url`.

    Secrets reach Linux in the iBFT that `sanhook` leaves behind, none on the kernel's command line.
    Whatever fails is said on the console, reported, and tried again from the start, for ever: nobody
    stands beside a node to turn it off and on.
    """
    base = _word("base_url", base_url)
    lines = _waiting(boot, base) if boot.method == "wait" else [*_attempt(boot, base), *_after_failure(base)]
    return "".join(f"{line}\n" for line in ("#!ipxe", *lines))


def _waiting(boot: Boot, base: str) -> list[str]:
    return [
        f"echo BMI: {_word('node', boot.node)} waits for its volume",
        ":again",
        f"sleep {_WAIT_S}",
        f"chain --replace {_PATIENCE} {base}/ipxe || {_START_OVER}",
    ]


def _attempt(boot: Boot, base: str) -> list[str]:
    attach = "sanboot" if boot.method == "sanboot" else "sanhook"
    lines = [
        f"echo BMI: {_word('node', boot.node)} boots {_word('iqn', boot.iqn)}",
        f"set initiator-iqn {_word('initiator', boot.initiator)}",
        f"set username {_word('chap_user', boot.chap_user)}",
        f"set password {_word('chap_secret', boot.chap_secret)}",
        # With these, iPXE and, by the iBFT, Linux ask the target to prove itself, too.
        f"set reverse-username {_word('target_user', boot.target_user)}",
        f"set reverse-password {_word('target_secret', boot.target_secret)}",
        f"set stage {attach}",
        f"{attach} --drive {_DRIVE} {iscsi_uri(boot)} || goto failed",
    ]
    if boot.method == "sanboot":
        return lines
    if not _WORDS.fullmatch(boot.kernel_args):
        raise InternalError("The kernel_args cannot stand in a boot script.")
    return [
        *lines,
        "set stage kernel",
        f"kernel {_PATIENCE} {base}/kernel {boot.kernel_args}".rstrip() + " || goto failed",
        "set stage initrd",
        f"initrd {_PATIENCE} {base}/initrd || goto failed",
        # A name after the URL makes iPXE wrap the file into a cpio archive of its own.
        f"initrd {_PATIENCE} {base}/boot.env /etc/bmi/boot.env mode=0600 || goto failed",
        f"initrd {_PATIENCE} {base}/meta-data /etc/bmi/seed/meta-data mode=0600 || goto failed",
        f"initrd {_PATIENCE} {base}/user-data /etc/bmi/seed/user-data mode=0600 || goto failed",
        "set stage boot",
        "boot || goto failed",
    ]


def _after_failure(base: str) -> list[str]:
    return [
        ":failed",
        "set code ${errno}",
        f"echo BMI: ${{stage}} failed (${{code}}), trying again in {_RETRY_S} s",
        f"imgfetch --timeout 3000 {base}/failed?stage=${{stage}}&errno=${{code}} ||",
        "imgfree",
        f"sanunhook --drive {_DRIVE} ||",
        ":again",
        f"sleep {_RETRY_S}",
        _START_OVER,
    ]


def nothing_script() -> str:
    """For a machine that has nothing to boot: says so on its console and asks again, slowly."""
    return _asking_again("this machine has nothing to boot on this network, provision it first", _NOTHING_S)


def trouble_script() -> str:
    """For a machine that is to boot once a trouble of ours is over. An HTTP error in place of its first
    script would end iPXE, and nobody would start it again.
    """
    return _asking_again("the boot server is in trouble, its log says why", _RETRY_S)


def _asking_again(said: str, pause_s: int) -> str:
    lines = ("#!ipxe", f"echo BMI: {said}", ":again", f"sleep {pause_s}", _START_OVER)
    return "".join(f"{line}\n" for line in lines)


def boot_env(values: Mapping[str, str]) -> str:
    """Shell assignments that any POSIX shell reads back as the same values."""
    return "".join("{}='{}'\n".format(name, value.replace("'", "'\\''")) for name, value in values.items())


def meta_data(instance_id: str, seed: Json) -> str:
    """cloud-init's NoCloud meta-data. JSON is YAML; a new volume is a new instance."""
    name = seed["hostname"]
    return json.dumps(
        {
            "instance-id": instance_id,
            "hostname": name,
            "local-hostname": name,
            "public-keys": seed["ssh_keys"],
        }
    )


def user_data(seed: Json) -> str:
    """The user's own user-data, as it is; an empty one is a cloud-config that changes nothing."""
    return seed["user_data"] or "#cloud-config\n{}\n"
