"""Builds the initramfs that lets an image's own kernel boot from the network."""

import gzip
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from bmi.errors import ConfigError
from bmi.image.cpio import write_cpio
from bmi.image.disk import FileSystem
from bmi.image.kernel_modules import ModuleIndex, copy_modules
from bmi.process import run

# Without these a kernel cannot boot from iSCSI at all.
REQUIRED_MODULES = ("iscsi_ibft", "iscsi_tcp", "sd_mod")

# NICs that servers, desktops and virtual machines of the last twenty years boot from, with their buses and PHYs.
# fmt: off
_NETWORK_MODULES = (
    "virtio_pci", "virtio_net", "vmxnet3", "hv_netvsc", "xen_netfront", "ena", "gve",
    "e100", "e1000", "e1000e", "igb", "igbvf", "igc", "ixgbe", "ixgbevf", "i40e", "iavf", "ice",
    "bnx2", "bnx2x", "bnxt_en", "tg3", "broadcom", "b44", "mlx4_core", "mlx4_en", "mlx5_core",
    "r8169", "realtek", "8139cp", "8139too", "pcnet32", "forcedeth", "sky2", "skge", "marvell",
    "atlantic", "be2net", "cxgb4", "enic", "ionic", "qede", "qlcnic", "sfc", "nfp",
)
# fmt: on
_FILESYSTEM_MODULES = ("crc32c_generic", "crc32c_intel", "libcrc32c")

# How long I/O waits for a lost target before it fails: a root file system does not survive failed writes, and the
# server may be under repair for hours; but a node whose volume is gone for good must end some day.
_ISCSID_CONF = """\
node.session.timeo.replacement_timeout = 86400
node.session.initial_login_retry_max = 3
node.conn[0].timeo.login_timeout = 10
node.conn[0].timeo.logout_timeout = 5
"""
# iscsid looks up who asks it, itself included, and refuses users without a name.
_USERS = "root:x:0:0:root:/:/bin/sh\n"

# The path under which iscsid is installed decides the process name it runs by; init says why the @.
_HOST_PROGRAMS = {"iscsiadm": "sbin/iscsiadm", "iscsid": "sbin/@iscsid"}
_LIBRARY = re.compile(r"(?:^|=> )\s*(/\S+) \(0x", re.MULTILINE)
_COMPRESS_TIMEOUT_S = 300


def build_initramfs(
    target: Path,
    *,
    root: FileSystem,
    kernel: str,
    modules: ModuleIndex,
    root_modules: Sequence[str],
    image_env: Mapping[str, str],
    zstd: bool,
    work_dir: Path,
) -> None:
    """Writes the compressed initramfs `target` for one kernel of the image whose root is `root`.

    `root_modules` are what its root file system needs, `image_env` what init must know of the image;
    `zstd` says that the kernel can unpack that, else gzip is used. Raises ConfigError when this
    machine lacks a program that goes into it, InvalidImageError for damaged modules.
    """
    tree = work_dir / "initramfs"
    _add_programs(tree, with_lvm=image_env["BMI_ROOT"].startswith("lvm:"))
    environment = "".join(f"{name}={shlex.quote(value)}\n" for name, value in sorted(image_env.items()))
    _write(tree / "etc/bmi/image.env", environment)
    (tree / "etc/bmi/seed").mkdir()
    wanted = [*REQUIRED_MODULES, *_NETWORK_MODULES, *_FILESYSTEM_MODULES, *root_modules]
    copy_modules(root, kernel, modules, modules.closure(wanted), tree)
    archive = work_dir / "initramfs.cpio"
    with archive.open("wb") as out:
        write_cpio(tree, out)
    _compress(archive, target, zstd=zstd)
    archive.unlink()
    shutil.rmtree(tree)


def _add_programs(tree: Path, *, with_lvm: bool) -> None:
    data = resources.files("bmi.image")
    _write(tree / "init", data.joinpath("init").read_text(encoding="utf-8"), mode=0o755)
    _write(tree / "bmi/report-up", data.joinpath("report-up").read_text(encoding="utf-8"))
    _write(tree / "bmi/etc/iscsi/iscsid.conf", _ISCSID_CONF)
    _write(tree / "bmi/etc/passwd", _USERS)
    busybox = _program("busybox")
    if _libraries(busybox):
        raise ConfigError(
            "The busybox of this machine is not a static program.",
            remedy="Install the package busybox-static.",
        )
    _install(busybox, tree / "bin/busybox")
    for name, place in (_HOST_PROGRAMS | ({"lvm": "sbin/lvm"} if with_lvm else {})).items():
        program = _program(name)
        _install(program, tree / "bmi" / place)
        for library in _libraries(program):
            _install(library, tree / "bmi" / str(library).lstrip("/"))
    # init's interpreter, and what the kernel itself calls when it wants a module
    for link in ("bin/sh", "sbin/modprobe"):
        (tree / link).parent.mkdir(exist_ok=True)
        (tree / link).symlink_to("/bin/busybox")


def _program(name: str) -> Path:
    found = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        raise ConfigError(
            f"The program {name}, which network boots need, is not installed.",
            remedy=f"Install the package that holds {name} (script/setup installs all of them).",
        )
    return Path(found)


def _libraries(program: Path) -> list[Path]:
    """The shared libraries of one of this machine's own programs, its loader included."""
    listed = run(["ldd", program], ok_codes=(0, 1)).stdout  # 1: not a dynamic program
    return [Path(path) for path in _LIBRARY.findall(listed)]


def _install(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    target.chmod(0o755)


def _write(path: Path, text: str, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def _compress(archive: Path, target: Path, *, zstd: bool) -> None:
    if zstd:
        run(["zstd", "-q", "-f", "-9", archive, "-o", target], timeout_s=_COMPRESS_TIMEOUT_S)
        return
    # No name and no time inside: the same image gives the same bytes.
    with (
        archive.open("rb") as plain,
        target.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
    ):
        shutil.copyfileobj(plain, packed)
