"""Reads partitions and files out of a disk image without letting the kernel mount it.

The image is untrusted: its owner may have shaped every byte. GRUB's readers for file systems, partition
tables and LVM do the work, in a short-lived process of their own (grub-fstest of grub-common) that is confined.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from bmi.errors import DriverError, InvalidImageError
from bmi.image.confined import INPUT, OUTPUT, run_confined

_TIMEOUT_S = 60
_TEXT_LIMIT_BYTES = 8 << 20

# A line of GRUB's `ls -l`: "Device loop0: …" or "\tPartition loop0,gpt2: Filesystem type ext* - …, UUID …".
_DEVICE_LINE = re.compile(
    r"^\s*(?:Device|Partition) (?P<device>[^\s:]+): Filesystem type (?P<kind>[^\s,]+)(?P<rest>.*)$",
    re.MULTILINE,
)
_UUID = re.compile(r"UUID ([0-9A-Fa-f-]+)")
_PARTITION = re.compile(r"loop0,(?:gpt|msdos)(\d+)")
_LOGICAL_VOLUME = re.compile(r"lvm/(?P<group>(?:[\w+.]|--)+)-(?P<volume>(?:[\w+.]|--)+)")
# A line of GRUB's `ls -l DIRECTORY`: size or DIR, time stamp, name with a slash behind directories.
_FILE_LINE = re.compile(r"^(?P<size>\d+|DIR) +\d* (?P<name>.+?)/?$", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """One name in a directory; `size_bytes` is that of the file a symbolic link leads to."""

    name: str
    is_directory: bool
    size_bytes: int


@dataclass(frozen=True)
class FileSystem:
    """One file system of a disk image, readable by path; paths are absolute inside it.

    `kind` is GRUB's name for it (`ext*`, `xfs`, `btrfs`, `fat` …); `top` is put before each path, for
    a root that lies in a btrfs subvolume.
    """

    image: Path
    device: str
    kind: str
    uuid: str = ""
    top: str = ""

    @property
    def partition(self) -> int | None:
        """The number of its partition, as Linux counts; None when it lies elsewhere."""
        match = _PARTITION.fullmatch(self.device)
        return int(match[1]) if match else None

    @property
    def is_whole_disk(self) -> bool:
        return self.device == "loop0"

    @property
    def logical_volume(self) -> tuple[str, str] | None:
        """The LVM volume group and logical volume it lies on; None when it lies elsewhere."""
        match = _LOGICAL_VOLUME.fullmatch(self.device)
        return (match["group"].replace("--", "-"), match["volume"].replace("--", "-")) if match else None

    def list(self, directory: str) -> list[Entry]:
        """What a directory holds, sorted by name; nothing when there is no such directory."""
        try:
            shown = _grub(self.image, "ls", "-l", self._path(directory.rstrip("/") + "/"))
        except DriverError as error:
            if error.facts.get("returncode") == 1:  # GRUB's answer to a damaged directory
                return []
            raise
        found = [
            Entry(line["name"], line["size"] == "DIR", 0 if line["size"] == "DIR" else int(line["size"]))
            for line in _FILE_LINE.finditer(shown)
        ]
        return sorted(found, key=lambda entry: entry.name)

    def find(self, path: str) -> Entry | None:
        """The entry at a path; None when there is none."""
        directory, _, name = path.rpartition("/")
        return next((entry for entry in self.list(directory) if entry.name == name), None)

    def has_file(self, path: str) -> bool:
        entry = self.find(path)
        return entry is not None and not entry.is_directory

    def read_text(self, path: str) -> str:
        """The text of a small file; empty when there is none. Raises InvalidImageError when it is huge."""
        entry = self.find(path)
        if entry is None or entry.is_directory:
            return ""
        if entry.size_bytes > _TEXT_LIMIT_BYTES:
            raise InvalidImageError(f"The file {path} in the image is larger than any such file should be.")
        return _grub(self.image, "cat", self._path(path))

    def copy(self, path: str, target: Path, *, limit_bytes: int) -> None:
        """Copies a file out of the image. Raises InvalidImageError when it is absent or too large."""
        entry = self.find(path)
        if entry is None or entry.is_directory or entry.size_bytes > limit_bytes:
            problem = (
                "is missing"
                if entry is None or entry.is_directory
                else f"is larger than {limit_bytes >> 20} MiB"
            )
            raise InvalidImageError(f"The file {path} in the image {problem}.")
        target.touch(mode=0o600)
        _grub(self.image, "cp", self._path(path), OUTPUT, writes=target, written_bytes=limit_bytes)

    def _path(self, path: str) -> str:
        return f"({self.device}){self.top}{path}"


def file_systems(image: Path) -> list[FileSystem]:
    """All file systems in a raw disk image: on partitions, LVM volumes or the bare disk, in that order."""
    shown = _grub(image, "ls", "-l")
    found = {
        line["device"]: FileSystem(
            image, line["device"], line["kind"], uuid[1] if (uuid := _UUID.search(line["rest"])) else ""
        )
        for line in _DEVICE_LINE.finditer(shown)
        if line["device"] not in ("proc", "host")
    }
    return sorted(found.values(), key=_natural_order)


def _natural_order(file_system: FileSystem) -> tuple[int, str]:
    number = file_system.partition
    return (1 << 20 if number is None else number, file_system.device)


def _grub(
    image: Path, command: str, *arguments: str, writes: Path | None = None, written_bytes: int = 0
) -> str:
    program = ["grub-fstest", INPUT, "--", command, *arguments]
    return run_confined(
        program, reads=image, writes=writes, written_bytes=written_bytes, timeout_s=_TIMEOUT_S
    ).stdout
