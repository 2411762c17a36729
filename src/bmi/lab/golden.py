"""The golden image of the lab: an ordinary Debian with cloud-init, built once from a recipe and kept."""

import fcntl
import hashlib
import inspect
import os
import re
import shutil
import struct
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bmi.errors import ConfigError
from bmi.process import run

DEFAULT_CACHE = Path("/var/cache/bmi")

CODENAME = "bookworm"
_PACKAGES = (
    "linux-image-amd64,systemd-sysv,udev,dbus,openssh-server,cloud-init,cloud-guest-utils,"
    "iproute2,iputils-ping,netbase,libnss-myhostname,procps,sudo,kmod"
)
# Nothing on a lab node reads manuals or speaks another language; copyright files stay, as Debian asks.
_DPKG_OPTIONS = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)
_KERNEL_ARGS = "console=tty0 console=ttyS0,115200"

# What a lab node asks of cloud-init, and no more: each module costs an emulated processor a second.
# growpart (cloud-guest-utils) and resizefs let the root file system fill a volume larger than the image.
_CLOUD_INIT = """\
datasource_list: [NoCloud, None]
ssh_genkeytypes: [ed25519]
no_ssh_fingerprints: true
cloud_init_modules: [bootcmd, write-files, growpart, resizefs, set_hostname, update_hostname, users-groups, ssh]
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts-user, final-message]
"""

_DISK_BYTES = 4 << 30
_SECTOR = 512
_BIOS_BOOT_SECTOR = 2048  # 1 MiB: where GRUB's core lives on a GPT disk
_ROOT_SECTOR = 4096
_GPT_TAIL_SECTORS = 34 + 2014  # the backup table, and up to a whole MiB
_ROOT_SECTORS = _DISK_BYTES // _SECTOR - _ROOT_SECTOR - _GPT_TAIL_SECTORS

_BUILD_TIMEOUT_S = 3600
_APT_SOURCE = re.compile(r"^deb(?:\s+\[[^\]]*\])?\s+\S+\s+(?P<suites>\S+)\s+(?P<components>.+)$")


def ensure_golden(cache_dir: Path, *, progress: Callable[[str], None]) -> Path:
    """Returns the golden image (qcow2) in `cache_dir`, building it first when there is none of this recipe.

    Takes minutes the first time and needs root (file owners) and Debian's package archive, as this
    machine's apt is set up to reach it. A second caller waits for the first. Raises ConfigError
    without root or usable apt sources, DriverError when a program fails; nothing half-built stays.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    golden = cache_dir / f"debian-12-{recipe_digest()}.qcow2"
    if golden.exists():
        return golden
    if os.geteuid() != 0:
        raise ConfigError("Building the golden image needs root.", remedy="Run this as root once.")
    with _only_builder(cache_dir / "golden.lock", progress):
        if not golden.exists():
            with tempfile.TemporaryDirectory(prefix="golden-", dir=cache_dir) as work:
                _build(Path(work), progress).rename(golden)
    return golden


def recipe_digest() -> str:
    """Names the recipe, so that any change to what goes into the image makes a new one."""
    values = (CODENAME, _PACKAGES, _DPKG_OPTIONS, _KERNEL_ARGS, _CLOUD_INIT, _DISK_BYTES, _ROOT_SECTOR)
    code = [inspect.getsource(part) for part in (_install, _configure, _write_disk, _write_boot_loader)]
    return hashlib.sha256(repr((values, code)).encode()).hexdigest()[:12]


@contextmanager
def _only_builder(lock: Path, progress: Callable[[str], None]) -> Iterator[None]:
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another build of the golden image")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _build(work: Path, progress: Callable[[str], None]) -> Path:
    tree, disk, image = work / "tree", work / "disk.raw", work / "disk.qcow2"
    root_uuid = str(uuid.uuid4())
    progress("installing Debian packages (a few minutes, once)")
    _install(tree, work / "apt.sources")
    progress("configuring the system")
    _configure(tree, root_uuid)
    progress("writing the disk")
    _write_disk(tree, disk, root_uuid)
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, image], timeout_s=_BUILD_TIMEOUT_S)
    return image


def _install(tree: Path, sources: Path) -> None:
    sources.write_text(find_apt_sources(Path("/etc/apt")), encoding="utf-8")
    options = [f"--dpkgopt={option}" for option in _DPKG_OPTIONS]
    options += [f"--aptopt={option}" for option in _apt_transport_options()]
    passed_on = {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")}
    run(
        ["mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}", *options, CODENAME, tree, sources],
        timeout_s=_BUILD_TIMEOUT_S,
        env=passed_on | {"DEBIAN_FRONTEND": "noninteractive", "TMPDIR": str(sources.parent)},
    )


def find_apt_sources(apt: Path) -> str:
    """Finds this machine's own sources of the release, leaving out other repositories it may use."""
    stanzas = []
    for file in sorted([apt / "sources.list", *(apt / "sources.list.d").glob("*")]):
        if not file.is_file():
            continue
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".sources":
            stanzas += [s for s in re.split(r"\n\s*\n", text) if _is_ours_deb822(s)]
        elif file.suffix == ".list":
            stanzas += [_as_deb822(line) for line in text.splitlines() if _is_ours_line(line)]
    if not stanzas:
        raise ConfigError(
            f"apt on this machine has no source of Debian {CODENAME} main.",
            remedy=f"Add Debian {CODENAME} to /etc/apt/sources.list and try again.",
        )
    return "\n\n".join(stanza.strip() for stanza in stanzas) + "\n"


def _is_release(suites: str, components: str) -> bool:
    return "main" in components.split() and any(
        suite == CODENAME or suite.startswith(f"{CODENAME}-") for suite in suites.split()
    )


def _is_ours_deb822(stanza: str) -> bool:
    fields = dict(re.findall(r"^(\w[\w-]*):[ \t]*(.*)$", stanza, re.MULTILINE))
    enabled = fields.get("Enabled", "yes").lower() != "no" and "deb" in fields.get("Types", "").split()
    return enabled and _is_release(fields.get("Suites", ""), fields.get("Components", ""))


def _is_ours_line(line: str) -> bool:
    match = _APT_SOURCE.match(line.strip())
    return match is not None and _is_release(match["suites"], match["components"])


def _as_deb822(line: str) -> str:
    # mmdebstrap takes one file of one style; options in brackets (arch, signed-by) are left to it.
    words = re.sub(r"\[[^\]]*\]", "", line).split()
    return f"Types: deb\nURIs: {words[1]}\nSuites: {words[2]}\nComponents: {' '.join(words[3:])}"


def _apt_transport_options() -> list[str]:
    """How this machine's apt reaches its mirrors (proxies, date checks): settings of Acquire that matter."""
    dump = run(["apt-config", "dump"]).stdout.splitlines()
    wanted = re.compile(r'Acquire::(?:https?::(?!User-Agent)|Check-(?:Date|Valid-Until)|Retries)[^ ]* "[^"]')
    return [line.removesuffix(";") for line in dump if wanted.match(line)]


def _configure(tree: Path, root_uuid: str) -> None:
    grub = f"""\
set timeout=0
set default=0
search --no-floppy --fs-uuid --set=root {root_uuid}
menuentry "Debian" {{
    linux /vmlinuz root=UUID={root_uuid} ro {_KERNEL_ARGS}
    initrd /initrd.img
}}
"""
    dhcp = "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n"
    files = {
        "etc/fstab": f"UUID={root_uuid} / ext4 errors=remount-ro 0 1\n",
        "etc/machine-id": "",
        "boot/grub/grub.cfg": grub,
        "etc/cloud/cloud.cfg.d/90_lab.cfg": _CLOUD_INIT,
        "etc/cloud/ds-identify.cfg": "policy: enabled\n",  # no search of the hardware for a cloud
        "etc/systemd/network/80-dhcp.network": dhcp,
    }
    for name, content in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    # What belongs to the building machine, or to one node only, is not part of an image.
    leftovers = ["etc/hostname", "etc/resolv.conf", "etc/apt/apt.conf.d/99mmdebstrap", "etc/apt/sources.list"]
    for name in [*leftovers, *(str(key.relative_to(tree)) for key in tree.glob("etc/ssh/ssh_host_*"))]:
        (tree / name).unlink(missing_ok=True)
    for listing in (tree / "etc/apt/sources.list.d").glob("*"):
        listing.unlink()
    shutil.rmtree(tree / "var/lib/apt/lists", ignore_errors=True)
    # The image's own systemctl: a machine that builds images need not run systemd.
    run(["chroot", tree, "systemctl", "enable", "systemd-networkd"])
    # A lab network leads nowhere and a lab node lives for minutes: these would only keep it busy.
    idle = ["apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_reap.service", "e2scrub_all.timer"]
    run(["chroot", tree, "systemctl", "disable", *idle])


def _write_disk(tree: Path, disk: Path, root_uuid: str) -> None:
    with disk.open("wb") as file:
        file.truncate(_DISK_BYTES)
    table = (
        "label: gpt\n"
        f"start={_BIOS_BOOT_SECTOR}, size={_ROOT_SECTOR - _BIOS_BOOT_SECTOR}, "
        "type=21686148-6449-6E6F-744E-656564454649, name=bios-boot\n"
        f"start={_ROOT_SECTOR}, size={_ROOT_SECTORS}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root\n"
    )
    run(["sfdisk", "--quiet", disk], stdin=table)
    options = ["-q", "-F", "-L", "root", "-U", root_uuid, "-E", f"offset={_ROOT_SECTOR * _SECTOR}"]
    run(
        ["mkfs.ext4", *options, "-d", tree, disk, f"{_ROOT_SECTORS // 2}k"],
        timeout_s=_BUILD_TIMEOUT_S,
    )
    _write_boot_loader(disk)


def _write_boot_loader(disk: Path) -> None:
    """Puts GRUB on the disk, so that it also boots by itself, as a disk somebody installed does.

    By hand, because grub-bios-setup wants a block device. GRUB's boot/i386/pc/boot.S and diskboot.S
    fix the two places to fill in: boot.img holds the sector of core.img at 0x5c, and the last block
    list entry of core.img's first sector, at 0x1f4, where its rest begins.
    """
    modules = Path("/usr/lib/grub/i386-pc")
    core_file = disk.with_name("core.img")
    grub_modules = ["biosdisk", "part_gpt", "ext2", "normal", "search", "search_fs_uuid", "linux", "test"]
    run(["grub-mkimage", "-O", "i386-pc", "-o", core_file, "-p", "(hd0,gpt2)/boot/grub", *grub_modules])
    boot = bytearray((modules / "boot.img").read_bytes())
    core = bytearray(core_file.read_bytes())
    struct.pack_into("<Q", boot, 0x5C, _BIOS_BOOT_SECTOR)
    struct.pack_into("<Q", core, 0x1F4, _BIOS_BOOT_SECTOR + 1)
    with disk.open("r+b") as file:
        file.write(boot[:440])  # what follows is the protective partition table
        file.seek(_BIOS_BOOT_SECTOR * _SECTOR)
        file.write(core)
