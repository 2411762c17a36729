"""What the export tests are made of: network namespaces, volumes in files, and iSCSI clients."""

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from bmi.drivers.export import Portal, Target
from bmi.drivers.export.tgt import TgtExport
from bmi.drivers.storage import Backing, Ref
from bmi.drivers.storage.ceph import CephStorage

ADDRESS = "192.0.2.1"  # TEST-NET-1 (RFC 5737)
SIZE_BYTES = 16 << 20
# The only initiator name that `qemu-img bench` can have.
QEMU = "iqn.2008-11.org.linux-kvm"

_numbers = count()


@contextmanager
def namespace(name: str = "") -> Iterator[str]:
    """A network namespace of its own (called `name`) with ADDRESS on its loopback."""
    name = name or f"bmi-export-{os.getpid()}-{next(_numbers)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "-n", name, "addr", "add", f"{ADDRESS}/24", "dev", "lo"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def volume(folder: Path, number: int, initiator: str = "iqn.2024-07.internal.bmi:node-7") -> Target:
    """A target over a sparse file whose every sector says which volume it is."""
    path = folder / f"volume{number}.raw"
    if not path.exists():
        path.write_bytes(f"volume {number}".encode().ljust(512, b"."))
        os.truncate(path, SIZE_BYTES)
    return Target(
        iqn=f"iqn.2024-07.internal.bmi:volume-{number}",
        backing=Backing("file", str(path)),
        initiator=initiator,
        chap_user=f"user{number}",
        chap_secret=f"secret-of-{number}-0123",
        target_user=f"target{number}",
        target_secret=f"target-secret-of-{number}",
    )


def rbd_volume(store: CephStorage, number: int, initiator: str = "iqn.2024-07.internal.bmi:node-7") -> Target:
    """A target over a volume of a Ceph store whose first sector says which volume it is; twice as large as its
    image.
    """
    image, name = Ref("image", f"image{number}"), str(number)
    staged = store.staging_path(image.id)
    staged.write_bytes(f"volume {number}".encode().ljust(512, b"."))
    os.truncate(staged, SIZE_BYTES)
    store.commit_image(image.id)
    store.clone(image, name, size_bytes=2 * SIZE_BYTES)
    return Target(
        iqn=f"iqn.2024-07.internal.bmi:volume-{number}",
        backing=store.backing(name),
        initiator=initiator,
        chap_user=f"user{number}",
        chap_secret=f"secret-of-{number}-0123",
        target_user=f"target{number}",
        target_secret=f"target-secret-of-{number}",
        fence=partial(store.fence, name),
    )


class Client:
    """An initiator on the portal's network."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    def discover(self, initiator: str) -> Sequence[str]:
        """The target names that a discovery session shows to this initiator name."""
        shown = self._run(["iscsi-ls", "-i", initiator, f"iscsi://{self._at}"], {})
        return sorted(line.split()[0].removeprefix("Target:") for line in shown.stdout.splitlines())

    def read(self, target: Target, *, initiator: str = "", user: str = "", secret: str = "") -> bytes | None:
        """The first sector's text, or None when the login is refused; `user` "-" logs in without CHAP."""
        credentials = {
            "LIBISCSI_CHAP_USERNAME": user or target.chap_user,
            "LIBISCSI_CHAP_PASSWORD": secret or target.chap_secret,
        }
        url = f"iscsi://{self._at}/{target.iqn}/1"
        command = ["iscsi-inq", "-i", initiator or target.initiator, url]
        if self._run(command, {} if user == "-" else credentials).returncode:
            return None
        # iscsi-inq has proved the login; the data comes through qemu, which takes the same credentials.
        return self.qemu_io(target, "read -v 0 512", initiator=initiator or target.initiator)

    def trusts(self, target: Target) -> bool:
        """Whether a login succeeds that asks the target to prove itself, too."""
        credentials = {
            "LIBISCSI_CHAP_USERNAME": target.chap_user,
            "LIBISCSI_CHAP_PASSWORD": target.chap_secret,
            "LIBISCSI_CHAP_TARGET_USERNAME": target.target_user,
            "LIBISCSI_CHAP_TARGET_PASSWORD": target.target_secret,
        }
        command = ["iscsi-inq", "-i", target.initiator, f"iscsi://{self._at}/{target.iqn}/1"]
        return self._run(command, credentials).returncode == 0

    def qemu_io(self, target: Target, command: str, *, initiator: str = "") -> bytes:
        """Runs one qemu-io command on the target's disk and returns what it printed, decoded if a dump."""
        with self._qemu_io(target, command, initiator) as process:
            said, complaint = process.communicate(timeout=60)
        assert process.returncode == 0, said + complaint
        dump = [line.split("  ")[1] for line in said.splitlines() if line[8:9] == ":"]
        return bytes.fromhex("".join(dump)).rstrip(b".") if dump else said.encode()

    @contextmanager
    def writing(self, target: Target, command: str) -> Iterator[subprocess.Popen[str]]:
        """The qemu-io command while it runs."""
        with self._qemu_io(target, command, "") as process:
            yield process

    @contextmanager
    def _qemu_io(self, target: Target, command: str, initiator: str) -> Iterator[subprocess.Popen[str]]:
        disk = (
            f"driver=iscsi,transport=tcp,portal={self._at},target={target.iqn},lun=1,"
            f"initiator-name={initiator or target.initiator},user={target.chap_user},password-secret=chap"
        )
        with tempfile.NamedTemporaryFile("w") as secret:
            secret.write(target.chap_secret)
            secret.flush()
            chap = f"secret,id=chap,file={secret.name}"
            process = subprocess.Popen(
                self._inside(["qemu-io", "--object", chap, "--image-opts", disk, "-c", command]),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                yield process
            finally:
                process.kill()
                process.communicate()

    def physical_block_bytes(self, target: Target) -> int:
        """What the disk says of itself (READ CAPACITY (16), SBC-3, 5.16)."""
        command = ["iscsi-readcapacity16", "-i", target.initiator, f"iscsi://{self._at}/{target.iqn}/1"]
        credentials = {
            "LIBISCSI_CHAP_USERNAME": target.chap_user,
            "LIBISCSI_CHAP_PASSWORD": target.chap_secret,
        }
        shown = self._run(command, credentials).stdout
        found = re.search(r"PHYSICAL BLOCK EXPONENT:(\d+)", shown)
        assert found, shown
        return 512 << int(found[1])

    @contextmanager
    def endless_reading(self, target: Target) -> Iterator[subprocess.Popen[str]]:
        """Reads until it is ended; the target's initiator must be QEMU."""
        url = f"iscsi://{target.chap_user}%{target.chap_secret}@{self._at}/{target.iqn}/1"
        bench = ["qemu-img", "bench", "-t", "none", "-c", "1000000000", "-d", "32", "-s", "262144", url]
        process = subprocess.Popen(
            self._inside(bench), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    @property
    def _at(self) -> str:
        return f"{self._portal.address}:{self._portal.port}"

    def _inside(self, command: Sequence[str]) -> Sequence[str]:
        return ["nsenter", f"--net=/run/netns/{self._portal.netns}", "--", *command]

    def _run(self, command: Sequence[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._inside(command),
            env={"PATH": os.environ["PATH"]} | env,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )


def pid_of(export: TgtExport, portal: Portal) -> int:
    """The tgtd behind a portal."""
    pid = export._daemon(portal).pid()
    assert pid is not None
    return pid


def kill(export: TgtExport, portal: Portal) -> None:
    """Kill -9 of the portal's tgtd; returns when it is gone."""
    os.kill(pid_of(export, portal), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while export._daemon(portal).pid() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
