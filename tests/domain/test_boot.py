"""What a machine is told at boot, word for word, and that nothing can say more than it should."""

import json
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmi.config import BootSettings
from bmi.domain.boot import (
    Boot,
    boot_env,
    ipxe_script,
    iscsi_uri,
    meta_data,
    nothing_script,
    trouble_script,
    user_data,
)
from bmi.errors import InternalError
from tests.netboot.desk import KERNEL_BOOT

BASE = "http://10.96.0.1/boot/t-0"

KERNEL_SCRIPT = """\
#!ipxe
echo BMI: n1 boots iqn.2024-07.internal.bmi:volume-v1
set initiator-iqn iqn.2024-07.internal.bmi:node-n1
set username v1
set password chap-s3cret
set reverse-username v1-target
set reverse-password target-s3cret
set stage sanhook
sanhook --drive 0x80 iscsi:10.96.0.1:tcp:3260:1:iqn.2024-07.internal.bmi:volume-v1 || goto failed
set stage kernel
kernel --timeout 30000 http://10.96.0.1/boot/t-0/kernel console=ttyS0,115200n8 || goto failed
set stage initrd
initrd --timeout 30000 http://10.96.0.1/boot/t-0/initrd || goto failed
initrd --timeout 30000 http://10.96.0.1/boot/t-0/boot.env /etc/bmi/boot.env mode=0600 || goto failed
initrd --timeout 30000 http://10.96.0.1/boot/t-0/meta-data /etc/bmi/seed/meta-data mode=0600 || goto failed
initrd --timeout 30000 http://10.96.0.1/boot/t-0/user-data /etc/bmi/seed/user-data mode=0600 || goto failed
set stage boot
boot || goto failed
:failed
set code ${errno}
echo BMI: ${stage} failed (${code}), trying again in 10 s
imgfetch --timeout 3000 http://10.96.0.1/boot/t-0/failed?stage=${stage}&errno=${code} ||
imgfree
sanunhook --drive 0x80 ||
:again
sleep 10
ifconf --configurator dhcp netX && chain --replace --timeout 30000 ${netX/filename} || goto again
"""

SANBOOT_SCRIPT = """\
#!ipxe
echo BMI: n1 boots iqn.2024-07.internal.bmi:volume-v1
set initiator-iqn iqn.2024-07.internal.bmi:node-n1
set username v1
set password chap-s3cret
set reverse-username v1-target
set reverse-password target-s3cret
set stage sanboot
sanboot --drive 0x80 iscsi:10.96.0.1:tcp:3260:1:iqn.2024-07.internal.bmi:volume-v1 || goto failed
:failed
set code ${errno}
echo BMI: ${stage} failed (${code}), trying again in 10 s
imgfetch --timeout 3000 http://10.96.0.1/boot/t-0/failed?stage=${stage}&errno=${code} ||
imgfree
sanunhook --drive 0x80 ||
:again
sleep 10
ifconf --configurator dhcp netX && chain --replace --timeout 30000 ${netX/filename} || goto again
"""

WAIT_SCRIPT = """\
#!ipxe
echo BMI: n1 waits for its volume
:again
sleep 2
chain --replace --timeout 30000 http://10.96.0.1/boot/t-0/ipxe || \
ifconf --configurator dhcp netX && chain --replace --timeout 30000 ${netX/filename} || goto again
"""

NOTHING_SCRIPT = """\
#!ipxe
echo BMI: this machine has nothing to boot on this network, provision it first
:again
sleep 30
ifconf --configurator dhcp netX && chain --replace --timeout 30000 ${netX/filename} || goto again
"""

TROUBLE_SCRIPT = """\
#!ipxe
echo BMI: the boot server is in trouble, its log says why
:again
sleep 10
ifconf --configurator dhcp netX && chain --replace --timeout 30000 ${netX/filename} || goto again
"""


@pytest.mark.parametrize(
    ("boot", "script"),
    [
        (KERNEL_BOOT, KERNEL_SCRIPT),
        (replace(KERNEL_BOOT, method="sanboot"), SANBOOT_SCRIPT),
        (Boot("wait", "n1"), WAIT_SCRIPT),
    ],
    ids=["kernel", "sanboot", "wait"],
)
def test_the_script_of_each_way_to_boot(boot: Boot, script: str) -> None:
    assert ipxe_script(boot, BASE) == script


def test_the_script_for_a_machine_with_nothing_to_boot() -> None:
    assert nothing_script() == NOTHING_SCRIPT


def test_the_script_for_a_machine_that_is_to_ask_again() -> None:
    assert trouble_script() == TROUBLE_SCRIPT


def test_a_kernel_without_arguments_leaves_no_gap() -> None:
    script = ipxe_script(replace(KERNEL_BOOT, kernel_args=""), BASE)
    assert f"\nkernel --timeout 30000 {BASE}/kernel || goto failed\n" in script


def test_the_kernel_command_line_holds_no_secret() -> None:
    [kernel] = [line for line in KERNEL_SCRIPT.splitlines() if line.startswith("kernel ")]
    assert KERNEL_BOOT.chap_secret not in kernel
    assert KERNEL_BOOT.chap_user not in kernel.replace(BASE, "").split()


def test_a_boot_shows_its_secrets_to_nobody() -> None:
    shown = repr(replace(KERNEL_BOOT, meta_data="key-in-metadata", user_data="password-in-userdata"))
    for secret in ("chap-s3cret", "target-s3cret", "key-in-metadata", "password-in-userdata"):
        assert secret not in shown


# Everything, and more often what means something to iPXE.
TEXTS = st.text() | st.text("aZ0.-= \t\r\n$#;|&{}'\"")
WORDS = [
    "node",
    "portal",
    "iqn",
    "initiator",
    "chap_user",
    "chap_secret",
    "target_user",
    "target_secret",
    "kernel_args",
]


@given(method=st.sampled_from(["kernel", "sanboot", "wait"]), name=st.sampled_from(WORDS), text=TEXTS)
def test_no_value_changes_what_a_script_does(method: str, name: str, text: str) -> None:
    boot = replace(KERNEL_BOOT, method=method, **{name: text})  # type: ignore[arg-type]  # one of the literals
    try:
        script = ipxe_script(boot, BASE)
    except InternalError:
        return
    usual = ipxe_script(replace(KERNEL_BOOT, method=method), BASE)  # type: ignore[arg-type]  # likewise
    assert len(script.splitlines()) == len(usual.splitlines())
    for line, expected in zip(script.splitlines(), usual.splitlines(), strict=True):
        assert line.isascii()
        assert line.isprintable()
        assert line.split()[0] == expected.split()[0]
        for special in ("$", ";", "#", "||", "&"):
            assert line.count(special) == expected.count(special)


@pytest.mark.parametrize("evil", ["a b", "a\nreboot", "${password}", "a||shell", "a;b", "#", "a&b", "", "ä"])
@pytest.mark.parametrize(
    "name", ["node", "portal", "iqn", "initiator", "chap_user", "chap_secret", "target_user", "target_secret"]
)
def test_a_word_that_ipxe_would_not_take_as_one_is_refused(name: str, evil: str) -> None:
    with pytest.raises(InternalError, match=f"The {name} cannot stand in a boot script."):
        ipxe_script(replace(KERNEL_BOOT, **{name: evil}), BASE)  # type: ignore[arg-type]  # all are text


@pytest.mark.parametrize("name", WORDS)
def test_a_refused_value_is_not_repeated(name: str) -> None:
    with pytest.raises(InternalError) as refused:
        ipxe_script(replace(KERNEL_BOOT, **{name: "s3cret; shell"}), BASE)  # type: ignore[arg-type]  # likewise
    assert "s3cret" not in f"{refused.value} {refused.value.remedy} {refused.value.facts}"


@given(st.text("aZ09._:/@%+,=~[]- $#;|&\\n'\"\\\\ä", max_size=6))
def test_the_setting_of_kernel_arguments_takes_what_the_script_takes(text: str) -> None:
    def settable() -> bool:
        try:
            BootSettings(kernel_args=text)
        except ValueError:
            return False
        return True

    def scriptable() -> bool:
        try:
            ipxe_script(replace(KERNEL_BOOT, kernel_args=" ".join(filter(None, text.split(" ")))), BASE)
        except InternalError:
            return False
        return True

    assert settable() == scriptable()


@pytest.mark.parametrize(
    "evil", ["a  b", " a", "quiet\nreboot", "quiet || shell", "a=${password}", "# x", "a;b"]
)
def test_kernel_arguments_stay_arguments(evil: str) -> None:
    with pytest.raises(InternalError):
        ipxe_script(replace(KERNEL_BOOT, kernel_args=evil), BASE)


def test_the_root_path_is_that_of_rfc_4173() -> None:
    assert iscsi_uri(KERNEL_BOOT) == "iscsi:10.96.0.1:tcp:3260:1:iqn.2024-07.internal.bmi:volume-v1"


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.from_regex(r"BMI_[A-Z_]{1,10}", fullmatch=True),
        st.text(st.characters(exclude_characters="\0", codec="utf-8")),
        min_size=1,
        max_size=5,
    )
)
def test_a_shell_reads_back_what_boot_env_wrote(values: dict[str, str]) -> None:
    script = boot_env(values) + "".join(f'printf "%s\\0" "${name}"\n' for name in values)
    done = subprocess.run(["sh"], input=script.encode(), capture_output=True, check=True, env={})
    assert done.stderr == b""
    assert done.stdout.decode().split("\0")[:-1] == list(values.values())


@given(hostname=st.text(min_size=1), keys=st.lists(st.text()))
def test_meta_data_is_json(hostname: str, keys: list[str]) -> None:
    assert json.loads(meta_data("v1", {"hostname": hostname, "ssh_keys": keys})) == {
        "instance-id": "v1",
        "hostname": hostname,
        "local-hostname": hostname,
        "public-keys": keys,
    }


def test_user_data_is_the_users_own_or_changes_nothing() -> None:
    assert user_data({"user_data": "#!/bin/sh\ntrue\n"}) == "#!/bin/sh\ntrue\n"
    assert user_data({"user_data": ""}) == "#cloud-config\n{}\n"
