"""Picks kernel modules out of an image: those asked for, all they depend on, and the firmware they name."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bmi.errors import InvalidImageError
from bmi.image.disk import FileSystem
from bmi.image.formats import Compression
from bmi.image.unpack import unpacked

_MODULE_LIMIT_BYTES = 64 << 20
_FIRMWARE_LIMIT_BYTES = 32 << 20
_UNPACK_TIMEOUT_S = 60

_PACKINGS: dict[str, Compression] = {"gz": "gzip", "xz": "xz", "zst": "zstd"}
_SAFE_PATH = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w.,+/-]*")
_MODULE_FILE = re.compile(r"(?P<name>[\w-]+)\.ko(?:\.(?P<packing>gz|xz|zst))?")
_FIRMWARE_TAG = re.compile(rb"\0firmware=([\x21-\x7e]+)\0")


@dataclass(frozen=True)
class ModuleIndex:
    """What depmod wrote about one kernel's modules. Names are as the kernel shows them, with underscores.

    `files` holds paths below the kernel's module directory, `needs` what must be loaded before (all of
    it, in depmod's order), `asks` what a module may ask the kernel for while it loads (softdep).
    """

    files: dict[str, str]
    needs: dict[str, list[str]]
    asks: dict[str, list[str]]
    aliases: list[tuple[str, str]]
    built_in: frozenset[str]

    def has(self, name: str) -> bool:
        return name in self.files or name in self.built_in

    def closure(self, wanted: Iterable[str]) -> list[str]:
        """The wanted modules that exist as files, and all they need; sorted by name."""
        found: set[str] = set()
        waiting = list(wanted)
        while waiting:
            name = waiting.pop()
            if name in self.files and name not in found:
                found.add(name)
                waiting += self.needs.get(name, []) + self.asks.get(name, [])
        return sorted(found)


def module_directory(kernel: str) -> str:
    return f"/lib/modules/{kernel}"


def read_index(root: FileSystem, kernel: str) -> ModuleIndex:
    """Reads modules.dep, .softdep, .alias and .builtin of a kernel; all empty when the image has none."""
    directory = module_directory(kernel)
    files: dict[str, str] = {}
    needs: dict[str, list[str]] = {}
    for line in root.read_text(f"{directory}/modules.dep").splitlines():
        path, colon, dependencies = line.partition(":")
        relative = path.removeprefix(f"{directory}/")
        if colon and _SAFE_PATH.fullmatch(relative) and (name := _module_name(path)):
            files[name] = relative
            needs[name] = [n for d in dependencies.split() if (n := _module_name(d))]
    aliases = [
        (words[1], _canonical(words[2]))
        for line in root.read_text(f"{directory}/modules.alias").splitlines()
        if len(words := line.split()) == 3 and words[0] == "alias"
    ]
    exact: dict[str, list[str]] = {}
    for alias, name in aliases:
        if not set("*?[") & set(alias):
            exact.setdefault(_canonical(alias), []).append(name)
    asks: dict[str, list[str]] = {}
    for line in root.read_text(f"{directory}/modules.softdep").splitlines():
        words = [_canonical(word) for word in line.split() if word not in ("pre:", "post:")]
        if len(words) > 2 and words[0] == "softdep":
            asks.setdefault(words[1], []).extend(n for a in words[2:] for n in [a, *exact.get(a, [])])
    built_in = root.read_text(f"{directory}/modules.builtin").split()
    return ModuleIndex(files, needs, asks, aliases, frozenset(_module_name(path) for path in built_in))


def copy_modules(root: FileSystem, kernel: str, index: ModuleIndex, names: Iterable[str], tree: Path) -> None:
    """Puts modules (unpacked), the files modprobe needs, and the modules' firmware into an initramfs tree.

    Modules end up side by side in `lib/modules/KERNEL`. Raises InvalidImageError for a damaged module.
    """
    target = tree / module_directory(kernel).lstrip("/")
    target.mkdir(parents=True)
    chosen = set(names)
    firmware: set[str] = set()
    for name in sorted(chosen):
        content = _read_module(root, f"{module_directory(kernel)}/{index.files[name]}", target)
        (target / f"{name}.ko").write_bytes(content)
        firmware |= {tag.decode() for tag in _FIRMWARE_TAG.findall(content)}
    lines = [f"{name}.ko: {' '.join(f'{need}.ko' for need in index.needs[name])}" for name in sorted(chosen)]
    (target / "modules.dep").write_text("\n".join(lines) + "\n", encoding="utf-8")
    aliases = [f"alias {alias} {name}" for alias, name in index.aliases if name in chosen]
    (target / "modules.alias").write_text("\n".join(aliases) + "\n", encoding="utf-8")
    _copy_firmware(root, sorted(firmware), tree)


def _read_module(root: FileSystem, path: str, work: Path) -> bytes:
    packed = work / "packed"
    root.copy(path, packed, limit_bytes=_MODULE_LIMIT_BYTES)
    try:
        return _unpacked(packed, path.rpartition(".")[2])
    finally:
        packed.unlink()


def _unpacked(packed: Path, suffix: str) -> bytes:
    """The content of a module file; never more than the limit, whatever a crafted file unpacks to."""
    compression = _PACKINGS.get(suffix)
    if compression is None:
        return packed.read_bytes()
    try:
        with unpacked(packed, compression, timeout_s=_UNPACK_TIMEOUT_S) as stream:
            content = stream.read(_MODULE_LIMIT_BYTES + 1)
            if len(content) > _MODULE_LIMIT_BYTES:
                raise InvalidImageError("it is larger than any module should be.")
    except InvalidImageError as error:
        raise InvalidImageError(f"A kernel module in the image is damaged: {error.detail}") from error
    return content


def _copy_firmware(root: FileSystem, names: Iterable[str], tree: Path) -> None:
    for name in names:
        if not _SAFE_PATH.fullmatch(name):
            continue
        # The kernel looks for the compressed forms by itself (CONFIG_FW_LOADER_COMPRESS).
        for source in (f"/lib/firmware/{name}{suffix}" for suffix in ("", ".xz", ".zst")):
            if root.has_file(source):
                target = tree / source.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                root.copy(source, target, limit_bytes=_FIRMWARE_LIMIT_BYTES)
                break


def _module_name(path: str) -> str:
    match = _MODULE_FILE.fullmatch(path.rpartition("/")[2])
    return _canonical(match["name"]) if match else ""


def _canonical(name: str) -> str:
    return name.replace("-", "_")
