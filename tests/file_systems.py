"""Small file systems of a wanted kind, for tests of what a file system can or cannot do."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAKE = {
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q"],
    "ext4": ["mkfs.ext4", "-q", "-F"],
}


@contextmanager
def mounted(directory: Path, kind: str, size_mib: int = 4096) -> Iterator[Path]:
    """A new file system of `kind` in a sparse file below `directory`, mounted; gone afterwards."""
    image, mount_point = directory / f"{kind}.img", directory / kind
    mount_point.mkdir()
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    subprocess.run([*MAKE[kind], image], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", image, mount_point], check=True)
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", mount_point], check=True)
        image.unlink()
