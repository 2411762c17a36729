"""A real Ceph cluster of one machine for tests, the demo and the curious: loopback only, up in seconds.

    python -m bmi.lab.ceph up|down|status [--dir DIR]        (script/ceph-lab is the same)

Everything is below the directory: `ceph.conf` and `keyring` (the administrator's), one keyring a user, the
daemons' data, logs and process ids. One monitor, one OSD, one pool that keeps a single copy: nothing here is
meant to be kept. `memstore` holds the data in memory and starts fastest; `bluestore` is what production uses,
on a sparse file, with its cache held small.
"""

import argparse
import base64
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import click

from bmi.errors import BmiError, ConfigError, TimedOutError
from bmi.lab import processes
from bmi.process import run

Store = Literal["memstore", "bluestore"]
Daemon = Literal["mon", "mgr", "osd"]

DEFAULT_DIRECTORY = Path("/var/lib/bmi-ceph")
POOL = "bmi"
_IDS: dict[Daemon, str] = {"mon": "a", "mgr": "x", "osd": "0"}
_SHOWN_CHARACTERS = 500
_START_TIMEOUT_S = 60
_END_TIMEOUT_S = 10
_MON_PORTS = range(16789, 26789)  # below the ephemeral ports, so that a stopped monitor finds its port free
_CAPS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "mgr": "allow *", "osd": "allow *"},
    "mgr.x": {"mon": "allow profile mgr", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"},
}


@dataclass(frozen=True)
class CephCluster:
    """A cluster by its directory, running or not."""

    directory: Path
    pool: str = POOL

    @property
    def conf(self) -> Path:
        return self.directory / "ceph.conf"

    @property
    def keyring(self) -> Path:
        """The administrator's."""
        return self.directory / "keyring"

    @classmethod
    def up(
        cls,
        directory: Path,
        *,
        store: Store = "memstore",
        size_gib: int = 20,
        mgr: bool = False,
        watch_timeout_s: int = 30,
    ) -> Self:
        """Makes a cluster in `directory` (or starts again the one that is there) and waits until its pool
        can be used. `size_gib` is how much it holds; `mgr` adds the manager, without which the cluster's
        statistics read zero; `watch_timeout_s` is for how long a client that died is waited for (30 is
        Ceph's default).
        """
        _bindings()
        cluster = cls(directory.absolute())
        if not cluster.conf.exists():
            try:
                cluster._make(store, size_gib, mgr, watch_timeout_s)
            except BaseException:
                cluster.down()
                raise
            return cluster
        for daemon in cluster._made():
            cluster.start(daemon)
        cluster._await("osd dump", lambda answer: answer["osds"][0]["up"] == 1)
        return cluster

    def down(self) -> None:
        """Ends the cluster's processes, whatever state a crash left them in, and removes all its data."""
        for daemon in _IDS:
            self.stop(daemon)
        shutil.rmtree(self.directory, ignore_errors=True)

    def running(self) -> dict[Daemon, int]:
        """The process ids of the daemons that live."""
        found = {daemon: processes.running(self._pid_file(daemon), str(self.conf)) for daemon in _IDS}
        return {daemon: pid for daemon, pid in found.items() if pid is not None}

    def stop(self, daemon: Daemon, *, kindly: bool = False) -> None:
        """Kills a daemon; one that is not there is a success. An OSD on memstore that is not ended `kindly`
        (SIGTERM) has lost its data and does not start again.
        """
        pid = self.running().get(daemon)
        if pid is None:
            return
        if kindly:
            handle = os.pidfd_open(pid)
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            processes.await_end(handle, _END_TIMEOUT_S)
            os.close(handle)
        processes.end(pid, marker=str(self.conf))

    @contextlib.contextmanager
    def frozen(self, daemon: Daemon) -> Iterator[None]:
        """A daemon that keeps its connections and does not answer (SIGSTOP), as long as the context lasts."""
        pid = self.running()[daemon]
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def start(self, daemon: Daemon) -> None:
        """Starts a daemon unless it runs, and does not wait for it."""
        if daemon in self.running():
            return
        with self._log(daemon).open("ab") as log:
            process = subprocess.Popen(
                [f"ceph-{daemon}", "-f", "-i", _IDS[daemon], "-c", self.conf],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.directory,
            )
        self._pid_file(daemon).write_text(str(process.pid), encoding="ascii")
        # The cluster outlives us, and its end is seen by `running`: nobody is to wait for this child.
        process.returncode = 0

    def command(self, prefix: str, **arguments: Any) -> Any:
        """An administrator's command to the monitor; returns its JSON answer."""
        with self.connected() as cluster:
            return _command(cluster, prefix, arguments)

    def make_user(self, name: str, caps: Mapping[str, str]) -> Path:
        """Makes client.<name> with just these capabilities, or gives it these; returns its keyring."""
        with self.connected() as cluster:
            pairs = [part for pair in caps.items() for part in pair]
            key = _command(cluster, "auth get-or-create", {"entity": f"client.{name}"})[0]["key"]
            _command(cluster, "auth caps", {"entity": f"client.{name}", "caps": pairs})
        path = self.directory / f"client.{name}.keyring"
        path.touch(mode=0o600)
        path.write_text(f"[client.{name}]\n\tkey = {key}\n", encoding="ascii")
        return path

    def make_pool(self, name: str) -> None:
        """Makes a pool of one copy for block devices."""
        with self.connected() as cluster:
            _make_pool(cluster, name)

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        """An administrator's connection (a `rados.Rados`)."""
        cluster = _bindings().Rados(
            conffile=str(self.conf),
            name="client.admin",
            conf={"client_mount_timeout": "30", "rados_mon_op_timeout": "30", "rados_osd_op_timeout": "30"},
        )
        cluster.connect()
        try:
            yield cluster
        finally:
            cluster.shutdown()

    def _make(self, store: Store, size_gib: int, mgr: bool, watch_timeout_s: int) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in ("mon", "mgr", "osd", "log"):
            (self.directory / part).mkdir(exist_ok=True)
        fsid, port = str(uuid.uuid4()), _free_port()
        self.keyring.touch(mode=0o600)
        self.keyring.write_text("".join(map(_keyring_entry, _CAPS.items())), encoding="ascii")
        self.conf.write_text(
            _conf(self.directory, fsid, port, store, size_gib, watch_timeout_s), encoding="utf-8"
        )
        self._make_monitor(fsid, port)
        self.start("mon")
        if mgr:
            self.start("mgr")
        else:
            (self.directory / "mgr").rmdir()
        with self.connected() as cluster:
            _command(cluster, "osd new", {"uuid": (osd := str(uuid.uuid4())), "id": 0})
            run(["ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd, "-c", self.conf], timeout_s=60)
            self.start("osd")
            self._await("osd dump", lambda answer: answer["osds"][0]["up"] == 1)
            _make_pool(cluster, self.pool)

    def _make_monitor(self, fsid: str, port: int) -> None:
        monmap = self.directory / "monmap"
        run(["monmaptool", "--create", "--addv", "a", f"[v1:127.0.0.1:{port}]", "--fsid", fsid, monmap])
        run(["ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", self.keyring, "-c", self.conf])

    def _made(self) -> Sequence[Daemon]:
        return [daemon for daemon in _IDS if (self.directory / daemon).is_dir()]

    def _pid_file(self, daemon: Daemon) -> Path:
        return self.directory / f"{daemon}.pid"

    def _log(self, daemon: Daemon) -> Path:
        return self.directory / "log" / f"{daemon}.out"

    def _await(self, prefix: str, wanted: Any) -> None:
        """A daemon that ends meanwhile is started once more: on a busy machine one may lose a race for a port."""
        deadline, again = time.monotonic() + _START_TIMEOUT_S, True
        with self.connected() as cluster:
            while not wanted(_command(cluster, prefix, {})):
                missing = sorted(set(self._made()) - set(self.running()))
                if missing and again:
                    again = False
                    for daemon in missing:
                        self.start(daemon)
                elif missing or time.monotonic() > deadline:
                    raise TimedOutError(
                        f"The Ceph cluster in {self.directory} did not come up "
                        f"({self._last_words(missing) or 'slow'}).",
                        remedy=f"Its logs are in {self.directory / 'log'}.",
                    )
                time.sleep(0.02)

    def _last_words(self, daemons: Sequence[Daemon]) -> str:
        said = {
            daemon: self._log(daemon).read_text(errors="replace")[-_SHOWN_CHARACTERS:] for daemon in daemons
        }
        return "; ".join(f"{daemon} ended: {words.strip()}" for daemon, words in said.items())


def _bindings() -> Any:
    """The Python bindings of RADOS, which Debian ships for its own Python alone."""
    try:
        import rados  # noqa: PLC0415  # the rest of the lab works without Ceph
    except ImportError as error:
        raise ConfigError(
            "The Python bindings of Ceph are not installed.",
            remedy="Run script/setup; it installs Debian's python3-rbd and shows it to the environment.",
        ) from error
    return rados


def _command(cluster: Any, prefix: str, arguments: Mapping[str, Any]) -> Any:
    request = json.dumps({"prefix": prefix, "format": "json", **arguments})
    code, answer, said = cluster.mon_command(request, b"", timeout=30)
    if code != 0:
        raise ConfigError(f"`ceph {prefix}` failed: {said or os.strerror(-code)}.")
    return json.loads(answer) if answer.strip() else None


def _make_pool(cluster: Any, name: str) -> None:
    import rbd  # noqa: PLC0415  # comes with rados

    _command(cluster, "osd pool create", {"pool": name, "pg_num": 16, "pgp_num": 16})
    _command(cluster, "osd pool set", {"pool": name, "var": "size", "val": "1", "yes_i_really_mean_it": True})
    with cluster.open_ioctx(name) as pool:
        rbd.RBD().pool_init(pool, force=False)


def _free_port() -> int:
    for port in random.sample(_MON_PORTS, len(_MON_PORTS)):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise ConfigError("No port of the loopback interface is free for a monitor.")


def _keyring_entry(entity: tuple[str, Mapping[str, str]]) -> str:
    """A section of a keyring with a fresh key (layout: type 1 = AES, time of making, length, 16 bytes)."""
    name, caps = entity
    key = base64.b64encode(struct.pack("<HIIH", 1, int(time.time()), 0, 16) + os.urandom(16)).decode()
    lines = "".join(f'\tcaps {daemon} = "{cap}"\n' for daemon, cap in caps.items())
    return f"[{name}]\n\tkey = {key}\n{lines}"


def _conf(directory: Path, fsid: str, port: int, store: Store, size_gib: int, watch_timeout_s: int) -> str:
    size_bytes = size_gib << 30
    return f"""\
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{port}
public addr = 127.0.0.1
ms bind msgr2 = false
keyring = {directory}/keyring
auth allow insecure global id reclaim = false
run dir = {directory}
admin socket =
# One machine, one copy.
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd pool default pg autoscale mode = off
mon allow pool size one = true
# Decides at once instead of gathering for a second: most of the time that a start takes.
paxos propose interval = 0.02
paxos min wait = 0.01

[mon]
log file = {directory}/log/mon.log
mon data = {directory}/mon
mon data avail warn = 1
mon data avail crit = 1
mon cluster log file = {directory}/log/cluster.log
mon allow pool delete = true

[mgr]
log file = {directory}/log/mgr.log
mgr data = {directory}/mgr
mgr initial modules =

[osd]
log file = {directory}/log/osd.log
osd data = {directory}/osd
osd client watch timeout = {watch_timeout_s}
osd objectstore = {store}
osd memory target = 939524096
osd memory cache min = 67108864
memstore device bytes = {size_bytes}
bluestore block size = {size_bytes}
bluestore block create = true
bluestore block db create = false
bluestore block wal create = false
bluestore cache autotune = false
bluestore cache size = 134217728
bluestore fsck quick fix on mount = false
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; see the top of this file."""
    parser = argparse.ArgumentParser(prog="ceph-lab", description="A Ceph cluster on loopback.")
    parser.add_argument("action", choices=["up", "down", "status"])
    parser.add_argument("--dir", type=Path, default=DEFAULT_DIRECTORY, help="where everything of it is")
    parser.add_argument("--store", choices=["memstore", "bluestore"], default="bluestore")
    parser.add_argument("--size-gib", type=int, default=20, help="how much it holds")
    chosen = parser.parse_args(arguments)
    cluster = CephCluster(chosen.dir.absolute())
    try:
        match chosen.action:
            case "up":
                began = time.monotonic()
                CephCluster.up(chosen.dir, store=chosen.store, size_gib=chosen.size_gib, mgr=True)
                click.echo(f"Ceph is up after {time.monotonic() - began:.1f} s; its pool is {POOL!r}.")
                click.echo(f"Try: rbd --conf {cluster.conf} ls {POOL}")
            case "down":
                cluster.down()
            case "status":
                living = cluster.running()
                for daemon in _IDS:
                    click.echo(
                        f"{daemon}: {f'process {living[daemon]}' if daemon in living else 'not running'}"
                    )
                return 0 if {"mon", "osd"} <= set(living) else 1
    except BmiError as error:
        click.echo(f"ceph-lab: {error}", err=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
