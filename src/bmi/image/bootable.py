"""Turns a disk image into what its clones boot with over the network: its own kernel and an initramfs of ours."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bmi.image.disk import FileSystem, file_systems
from bmi.image.initramfs import REQUIRED_MODULES, build_initramfs
from bmi.image.kernel_modules import ModuleIndex, module_directory, read_index

_KERNEL_LIMIT_BYTES = 128 << 20

# GRUB's name of a file system -> Linux's. ext4's driver serves all of ext.
_ROOT_KINDS = {"ext*": "ext4", "xfs": "xfs", "btrfs": "btrfs"}
# Subvolumes in which installers put the root: none, Ubuntu and openSUSE, Debian, Fedora.
_BTRFS_TOPS = ("", "/@", "/@rootfs", "/root")
_INITS = ("/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd")

_KERNEL_NAME = re.compile(r"[A-Za-z0-9][\w.+~-]*")
_VOLUME_NAME = re.compile(r"[\w+.][\w+.-]*")
# Arguments that are about the machine or the system, not about finding the root; in characters that mean
# nothing to a shell or to iPXE, since they come from an untrusted image.
_KEPT_ARGUMENT = re.compile(
    r"(?:console|net\.ifnames|biosdevname|selinux|enforcing|security|apparmor|mitigations|systemd\.[a-z_]+)"
    r"=[A-Za-z0-9._,:/-]+"
)
_PRETTY_NAME = re.compile(r"""^PRETTY_NAME=["']?([^"'\n]{1,100})""", re.MULTILINE)


@dataclass(frozen=True)
class BootArtefacts:
    """How clones of an image boot; `dataclasses.asdict` gives plain JSON values.

    `method` "kernel": the files `kernel` and `initrd` were built. "sanboot": they were not, for the
    `reason` given, and the firmware starts the disk's own boot loader.
    `root_spec` is how the initramfs finds the root on the volume: `partition:N`, `lvm:GROUP/VOLUME`
    or `disk`; `root_fs` is the kernel's name of the file system, `root_flags` its mount options.
    """

    method: Literal["kernel", "sanboot"]
    reason: str = ""
    kernel_version: str = ""
    kernel_args: str = ""
    os_name: str = ""
    root_spec: str = ""
    root_fs: str = ""
    root_flags: str = ""
    root_uuid: str = ""


@dataclass(frozen=True)
class _Kernel:
    """A kernel that can boot this image: where its file lies, and its modules."""

    version: str
    holder: FileSystem
    path: str
    config: str
    modules: ModuleIndex


def build_boot(raw_disk: Path, out_dir: Path, *, work_dir: Path) -> BootArtefacts:
    """Builds `out_dir/kernel` and `out_dir/initrd` from a raw disk image; a second call replaces them.

    The newest kernel is used that can boot from iSCSI. A disk without one is not an error: it says
    "sanboot" and leaves an empty `out_dir`. `work_dir` takes about 200 MB for a few seconds. Raises
    InvalidImageError for an image with damaged files, DriverError when a reader of it fails or hangs.
    """
    found = file_systems(raw_disk)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="boot-", dir=work_dir) as work,
        tempfile.TemporaryDirectory(prefix=".boot-", dir=out_dir.parent) as aside,
    ):
        built = Path(aside) / "new"
        built.mkdir(mode=0o755)
        artefacts = _build(found, built, Path(work))
        if out_dir.exists():
            out_dir.rename(Path(aside) / "old")
        built.rename(out_dir)
    return artefacts


def _build(found: Sequence[FileSystem], built: Path, work: Path) -> BootArtefacts:
    root = find_root(found)
    if root is None:
        held = (
            ", ".join(sorted({file_system.kind for file_system in found}))
            or "no file system that can be read"
        )
        return BootArtefacts(
            "sanboot", f"No Linux root file system was found on the disk (it holds: {held})."
        )
    named = _os_name(root)
    spec = _root_spec(root)
    if spec is None:
        return BootArtefacts(
            "sanboot", f"The root lies on {root.device}, which BMI cannot find at boot.", os_name=named
        )
    fs = _ROOT_KINDS[root.kind]
    kernel, reason = _newest_usable(root, found, fs)
    if kernel is None:
        return BootArtefacts("sanboot", reason, os_name=named)
    kernel.holder.copy(kernel.path, built / "kernel", limit_bytes=_KERNEL_LIMIT_BYTES)
    flags = f"subvol={root.top}" if root.top else ""
    build_initramfs(
        built / "initrd",
        root=root,
        kernel=kernel.version,
        modules=kernel.modules,
        root_modules=[fs, "dm_mod"] if spec.startswith("lvm:") else [fs],
        image_env={"BMI_ROOT": spec, "BMI_ROOT_FS": fs, "BMI_ROOT_FLAGS": flags},
        zstd="CONFIG_RD_ZSTD=y" in kernel.config,
        work_dir=work,
    )
    for name in ("kernel", "initrd"):
        (built / name).chmod(0o644)
    return BootArtefacts(
        "kernel",
        kernel_version=kernel.version,
        kernel_args=_kernel_args(root, found, kernel),
        os_name=named,
        root_spec=spec,
        root_fs=fs,
        root_flags=flags,
        root_uuid=root.uuid,
    )


def find_root(found: Sequence[FileSystem]) -> FileSystem | None:
    """The first file system that looks like the root of an operating system; None when there is none."""
    for file_system in found:
        if file_system.kind not in _ROOT_KINDS:
            continue
        for top in _BTRFS_TOPS if file_system.kind == "btrfs" else ("",):
            candidate = replace(file_system, top=top)
            if candidate.list("/etc") and any(candidate.find(init) for init in _INITS):
                return candidate
    return None


def os_name(raw_disk: Path) -> str | None:
    """What the operating system on a raw disk calls itself (PRETTY_NAME of os-release); None when nothing does."""
    root = find_root(file_systems(raw_disk))
    return _os_name(root) or None if root else None


def _root_spec(root: FileSystem) -> str | None:
    if root.partition is not None:
        return f"partition:{root.partition}"
    if root.is_whole_disk:
        return "disk"
    names = root.logical_volume
    if names and all(_VOLUME_NAME.fullmatch(name) for name in names):
        return f"lvm:{names[0]}/{names[1]}"
    return None


def _os_name(root: FileSystem) -> str:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        if match := _PRETTY_NAME.search(root.read_text(path)):
            return "".join(c for c in match[1] if c.isprintable())
    return ""


def _newest_usable(root: FileSystem, found: Sequence[FileSystem], fs: str) -> tuple[_Kernel | None, str]:
    """The newest kernel that can boot from iSCSI onto this root, or the reason why there is none."""
    versions = [
        e.name for e in root.list("/lib/modules") if e.is_directory and _KERNEL_NAME.fullmatch(e.name)
    ]
    reason = "No Linux kernel with its modules was found on the disk."
    for version in sorted(versions, key=version_key, reverse=True):
        place = next(_kernel_files(root, found, version), None)
        if place is None:
            continue
        modules = read_index(root, version)
        missing = [name for name in (*REQUIRED_MODULES, fs) if not modules.has(name)]
        if not missing:
            return _Kernel(version, *place, modules), ""
        reason = f"The kernel {version} cannot boot from iSCSI: it lacks {', '.join(missing)}."
    return None, reason


def version_key(version: str) -> list[tuple[int, int, str]]:
    """Sorts kernel versions as people read them: 6.1.0-9 before 6.1.0-10."""
    return [(1, int(p), "") if p.isdigit() else (0, 0, p) for p in re.findall(r"\d+|[^\d.+~-]+", version)]


def _kernel_files(
    root: FileSystem, found: Sequence[FileSystem], version: str
) -> Iterator[tuple[FileSystem, str, str]]:
    """Where a kernel of this version lies (file system, path), with the text of its configuration."""
    boot_partitions = [replace(fs, top="") for fs in found if fs.device != root.device]
    places = [(root, "/boot"), *((holder, "") for holder in boot_partitions)]
    for holder, directory in places:
        if holder.has_file(f"{directory}/vmlinuz-{version}"):
            config = holder.read_text(f"{directory}/config-{version}")
            yield holder, f"{directory}/vmlinuz-{version}", config or _config_beside_modules(root, version)
    if root.has_file(beside := f"{module_directory(version)}/vmlinuz"):
        yield root, beside, _config_beside_modules(root, version)


def _config_beside_modules(root: FileSystem, version: str) -> str:
    return root.read_text(f"{module_directory(version)}/config")


def _kernel_args(root: FileSystem, found: Sequence[FileSystem], kernel: _Kernel) -> str:
    """What is worth keeping of the arguments the image boots itself with: the first configuration found."""
    for line in _boot_lines(root, found, kernel.version):
        kept = [word for word in line.replace('"', " ").split() if _KEPT_ARGUMENT.fullmatch(word)]
        if kept:
            return " ".join(dict.fromkeys(kept))
    return ""


def _boot_lines(root: FileSystem, found: Sequence[FileSystem], version: str) -> Iterator[str]:
    yield root.read_text("/etc/kernel/cmdline")
    boots = [(root, "/boot"), *((replace(fs, top=""), "") for fs in found if fs.device != root.device)]
    for holder, boot in boots:
        for entry in holder.list(f"{boot}/loader/entries"):
            text = holder.read_text(f"{boot}/loader/entries/{entry.name}")
            yield from re.findall(r"^options\s+(.*)$", text, re.MULTILINE) if version in text else ()
        for name in ("grub", "grub2"):
            lines = re.findall(
                r"^\s*linux\w*\s+(.*)$", holder.read_text(f"{boot}/{name}/grub.cfg"), re.MULTILINE
            )
            yield from sorted(lines, key=lambda line: version not in line)
    yield " ".join(
        re.findall(r"^GRUB_CMDLINE_LINUX\w*=(.*)$", root.read_text("/etc/default/grub"), re.MULTILINE)
    )
