"""An RBD image as a file of this machine, for tools that know files alone: read only, without a copy."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bmi.errors import DriverError, TimedOutError
from bmi.process import run

_REMEDY = "`ceph -s` says what is wrong with the cluster."
_BEGINNING = "open-"
_END_TIMEOUT_S = 10


@contextmanager
def as_file(directory: Path, image: dict[str, str], *, timeout_s: float) -> Iterator[Path]:
    """A file below `directory` that shows the image as long as the context lasts.

    `image` is what QEMU calls a block device of the driver `rbd` (pool, namespace, image, conf, user). Behind
    the file is a qemu-storage-daemon that ends with this process.
    """
    place = Path(tempfile.mkdtemp(prefix=f"{_BEGINNING}{os.getpid()}-", dir=directory))
    file, ready, said = place / "disk.raw", place / "ready", place / "said"
    file.touch(mode=0o400)
    device = {"driver": "rbd", "node-name": "disk", "read-only": True, **image}
    export = {
        "type": "fuse",
        "id": "disk",
        "node-name": "disk",
        "mountpoint": str(file),
        "writable": False,
    }
    command: list[str | Path] = ["setpriv", "--pdeathsig", "KILL", "qemu-storage-daemon", "--pidfile", ready]
    command += ["--blockdev", json.dumps(device), "--export", json.dumps(export)]
    try:
        with (
            said.open("wb") as log,
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            ) as daemon,
        ):
            try:
                _await(ready, daemon, said, timeout_s)
                yield file
            finally:
                daemon.terminate()
                try:
                    daemon.wait(_END_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    daemon.kill()
    finally:
        _remove(place)


def remove_left_over(directory: Path) -> None:
    """Removes what processes have left that died with a view open: mounts with nobody behind them."""
    for place in directory.glob(f"{_BEGINNING}*"):
        if not Path("/proc", place.name.split("-")[1]).exists():
            _remove(place)


def _remove(place: Path) -> None:
    # A mount whose daemon was killed stays; "not mounted" is exit code 32 (mount(8)).
    run(["umount", "--lazy", "--quiet", place / "disk.raw"], ok_codes=(0, 1, 32))
    shutil.rmtree(place, ignore_errors=True)


def _await(ready: Path, daemon: "subprocess.Popen[bytes]", said: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready.exists():
        if daemon.poll() is not None:
            reason = said.read_text(errors="replace").strip()[-500:]
            raise DriverError(f"The image could not be shown as a file: {reason}.", remedy=_REMEDY)
        if time.monotonic() > deadline:
            raise TimedOutError(
                "The image could not be shown as a file: Ceph did not answer in time.", remedy=_REMEDY
            )
        time.sleep(0.005)
