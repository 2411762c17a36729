"""A whole BMI installation on top of a lab: for the demo, the benchmarks, the system tests and the curious."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bmi.client import Client, succeeded
from bmi.client.documents import Event, Operation
from bmi.config import Settings
from bmi.config import load as load_settings
from bmi.drivers import netns
from bmi.drivers.export.tgt_daemon import TgtDaemon
from bmi.drivers.storage.local import unmount
from bmi.errors import BmiError, ConfigError, TimedOutError, UnavailableError
from bmi.lab import processes
from bmi.lab.ceph import CephCluster
from bmi.lab.lab import Lab
from bmi.process import Result, run

_SERVER_START_S = 30
_SERVER_STOP_S = 30
_CEPH_GIB = 20
_SSH = (
    "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
    "-o", "ConnectTimeout=10", "-o", "BatchMode=yes",
)  # fmt: skip


@dataclass(frozen=True)
class Login:
    """A way into a running node, through BMI's foot in its network."""

    netns: str
    address: str
    key: Path
    user: str = "debian"

    @property
    def command(self) -> list[str]:
        """What a person types, as an argument list."""
        enter = ["nsenter", f"--net=/run/netns/{self.netns}", "--"]
        return [*enter, "ssh", "-i", str(self.key), *_SSH, f"{self.user}@{self.address}"]

    def run(self, script: str, *, timeout_s: float = 60, ok_codes: Sequence[int] = (0,)) -> Result:
        """Runs a shell script in the node; raises DriverError when it fails."""
        return run([*self.command, script], timeout_s=timeout_s, ok_codes=ok_codes)


class Site:
    """Lab, server and their directory; everything that it starts is below `directory` or named after it."""

    def __init__(self, directory: Path, name: str, *, storage: str = "local") -> None:
        """`storage` is the driver, `local` or `ceph`; the latter with a cluster of its own."""
        self.directory = directory.absolute()
        self.name = name
        self.storage = storage
        self.config_path = self.directory / "bmi.toml"
        self.log_path = self.directory / "server.log"
        self.key_path = self.directory / "ssh-key"
        self._lab: Lab | None = None
        self._clients: dict[str, Client] = {}
        self._server: subprocess.Popen[bytes] | None = None

    # ---- up and down ----------------------------------------------------------------------------

    def up(self, *, nodes: int, port: int, memory_mib: int = 1024, disk_gib: int = 0) -> None:
        """Brings the lab up and starts a server on it. What an earlier run left there is removed."""
        self.down()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._mark.touch()
        self._lab = Lab.up(
            self.directory / "lab", nodes=nodes, name=self.name, memory_mib=memory_mib, disk_gib=disk_gib
        )
        self.config_path.write_text(self._config(port) + self._storage_config(), encoding="utf-8")
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key_path])
        self.start_server()

    def _config(self, port: int) -> str:
        def quoted(value: object) -> str:
            return json.dumps(str(value))

        return f"""\
[server]
data_dir = {quoted(self.directory / "data")}
run_dir = {quoted(self.directory / "run")}
port = {port}

[uplink]
driver = "ovs"
options = {{ bridge = {quoted(self.lab.bridge)}, db = {quoted(self.lab.switch_db)}, netns = {quoted(self.lab.netns)} }}

[networks]
netns_prefix = {quoted(self.netns_prefix)}
"""

    def _storage_config(self) -> str:
        """For Ceph, with a cluster that is started for it: BlueStore, as in production, its cache held small."""
        if self.storage == "local":
            return ""
        cluster = CephCluster.up(self.ceph.directory, store="bluestore", size_gib=_CEPH_GIB, mgr=True)
        keyring = cluster.make_user("bmi", {"mon": "profile rbd", "osd": f"profile rbd pool={cluster.pool}"})
        options = f'conf = "{cluster.conf}", user = "bmi", keyring = "{keyring}", pool = "{cluster.pool}"'
        return f"""
[storage]
driver = "ceph"
options = {{ {options} }}
"""

    @property
    def ceph(self) -> CephCluster:
        """The cluster that holds the images where `storage` is `ceph`."""
        return CephCluster(self.directory / "ceph")

    @property
    def lab(self) -> Lab:
        if self._lab is None:
            self._lab = Lab.open(self.directory / "lab")
        return self._lab

    @property
    def netns_prefix(self) -> str:
        return f"bmi-{self.name}"

    @property
    def settings(self) -> Settings:
        return load_settings(self.config_path)

    def start_server(self) -> None:
        """Starts `bmi server run` and returns when it answers; raises UnavailableError with its last words."""
        program = Path(sys.executable).with_name("bmi")
        environment = os.environ | {"BMI_CONFIG": str(self.config_path)}
        with self.log_path.open("ab") as log:
            self._server = subprocess.Popen(
                [program, "server", "run"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._pid_file.write_text(str(self._server.pid), encoding="ascii")
        deadline = time.monotonic() + _SERVER_START_S
        while True:
            try:
                self.client().health()
            except (BmiError, FileNotFoundError) as error:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    words = self.log_path.read_text(encoding="utf-8", errors="replace")[-2000:]
                    raise UnavailableError(f"The server did not start: {words}") from error
                time.sleep(0.1)
            else:
                return

    def stop_server(self) -> None:
        """Ends the server as an administrator would; the nodes do not notice."""
        pid = processes.running(self._pid_file, "server run")
        if pid is not None:
            handle = os.pidfd_open(pid)
            os.kill(pid, signal.SIGTERM)
            if self._server is not None:
                self._server.wait(_SERVER_STOP_S)
            elif not processes.await_end(handle, _SERVER_STOP_S):
                processes.end(pid, "server run")
            os.close(handle)
        self._server = None
        while self._clients:
            self._clients.popitem()[1].close()
        self._pid_file.unlink(missing_ok=True)

    def crash_server(self) -> None:
        """Kills the server as a crash would: no clean-up, no goodbye."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    @property
    def _pid_file(self) -> Path:
        return self.directory / "server.pid"

    def down(self) -> None:
        """Ends and removes everything, in whatever state it is."""
        if not self._is_ours():
            return
        self.stop_server()
        for home in (self.directory / "run" / "tgt").glob("*"):
            TgtDaemon(home, timeout_s=1).end()
        for name in self._feet():
            for pid in netns.processes(name):
                processes.end(pid)
        if (self.directory / "lab").exists():
            self.lab.down()
        self._lab = None
        self.ceph.down()
        unmount(self.directory / "data" / "storage")
        shutil.rmtree(self.directory)

    @property
    def _mark(self) -> Path:
        """The file that says that this directory is a site's, to be removed with all that is in it."""
        return self.directory / "this-is-a-bmi-site"

    def _is_ours(self) -> bool:
        if not self.directory.exists() or not any(self.directory.iterdir()):
            return False
        if not self._mark.exists():
            raise ConfigError(
                f"The directory {self.directory} holds something else.",
                remedy="Name one that is empty or new.",
            )
        return True

    def _feet(self) -> list[str]:
        return [name for name in netns.names() if name.startswith(f"{self.netns_prefix}-")]

    def leftovers(self) -> list[str]:
        """What of this site is still on the machine: processes, namespaces, mounts, loop devices, files."""
        found = [f"namespace {name}" for name in (*self._feet(), f"bmilab-{self.name}") if netns.exists(name)]
        here = str(self.directory)
        found += [
            f"process {pid}: {processes.command_line(pid)[:100]}"
            for pid in {*processes.mentioning(self.directory), *processes.working_in(self.directory)}
        ]
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        found += [f"mount {line.split()[1]}" for line in mounts if here in line]
        loops = run(["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"]).stdout
        found += [f"loop device {line}" for line in loops.splitlines() if here in line]
        if self.directory.exists():
            found.append(f"directory {here}")
        return found

    # ---- using it -------------------------------------------------------------------------------

    def client(self, token: str | None = None) -> Client:
        """A client with this token, or the administrator's."""
        settings = self.settings
        secret = token or settings.admin_token_path.read_text(encoding="ascii").strip()
        if secret not in self._clients:
            self._clients[secret] = Client(f"http://{settings.server.host}:{settings.server.port}", secret)
        return self._clients[secret]

    def add_project(self, name: str, *, nodes: int = 1) -> Client:
        """Makes a project with its network and so many of the free nodes; returns its member's client."""
        admin = self.client()
        finished(admin, admin.create_project(name))
        member = self.client(admin.create_token(f"{name}-demo", project=name)["secret"])
        member.allocate_nodes(nodes)
        return member

    def register_nodes(self) -> None:
        """Registers the lab's switch and all its nodes."""
        admin = self.client()
        lab = self.lab
        admin.register_switch("tor1", driver="ovs", options={"bridge": lab.bridge, "db": lab.switch_db})
        password = lab.bmc_password_file.read_text(encoding="utf-8").strip()
        operations = [
            admin.register_node(
                node.name,
                mac=node.mac,
                bmc=node.bmc_url,
                bmc_username=lab.bmc_username,
                bmc_password=password,
                switch="tor1",
                port=node.switch_port,
            )
            for node in lab.nodes
        ]
        for operation in operations:
            finished(admin, operation)

    def public_key(self) -> str:
        return self.key_path.with_suffix(".pub").read_text(encoding="ascii").strip()

    def netns_of(self, project: str) -> str:
        """The namespace of BMI's foot in a project's network."""
        network = self.client().get_project(project)["network"]
        return f"{self.netns_prefix}-{network['vlan'] if network else 0}"

    def login(self, node: str) -> Login:
        """A way into a node that is active."""
        shown = self.client().get_node(node)
        return Login(self.netns_of(str(shown["project"])), str(shown["address"]), self.key_path)

    def console_tail(self, node: str, lines: int = 20) -> str:
        """The last lines that a node printed."""
        path = self.directory / "lab" / "nodes" / node / "console.log"
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def tgtd_of(self, project: str) -> int:
        """The process that exports a project's volumes."""
        shown = run(["ss", "-Hltnp"], netns=self.netns_of(project)).stdout
        if found := re.search(r'\("tgtd",pid=(\d+)', shown):
            return int(found[1])
        raise UnavailableError(f"No tgtd serves project {project}.")


def finished(client: Client, operation: Operation, *, timeout_s: float = 900) -> Operation:
    """The operation at its end; raises its problem when it did not succeed."""
    return succeeded(client.wait(operation["id"], timeout_s=timeout_s, poll_s=0.1))


def await_event(client: Client, node: str, stage: str, *, after: int, timeout_s: float) -> Event:
    """The first event of this stage with an id above `after`; raises TimedOutError."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for event in client.list_events(node):
            if event["id"] > after and event["stage"] == stage:
                return event
        time.sleep(0.5)
    raise TimedOutError(f"Node {node} did not reach stage {stage!r} within {timeout_s:g} s.")


@contextmanager
def running_site(
    directory: Path,
    name: str,
    *,
    nodes: int,
    port: int,
    memory_mib: int = 1024,
    disk_gib: int = 0,
    storage: str = "local",
) -> Iterator[Site]:
    """A site for the length of a block, with its nodes registered; nothing stays behind."""
    site = Site(directory, name, storage=storage)
    try:
        site.up(nodes=nodes, port=port, memory_mib=memory_mib, disk_gib=disk_gib)
        site.register_nodes()
        yield site
    finally:
        site.down()
