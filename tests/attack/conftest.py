"""Two projects on a real switch, machines on its ports, and the table of what the attackers tried.

Everything of BMI is real: the server, its DHCP, HTTP and TFTP, its tgtd, Open vSwitch. What is not are the machines:
each is a network namespace on a port, whose BMC does nothing.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bmi import process
from bmi.client import Client
from bmi.drivers import netns
from bmi.drivers.ovsdb import CLOSED, OvsDatabase
from bmi.lab.site import Site, finished
from bmi.store import records
from bmi.wiring import open_core
from tests.attack.machine import NIC, Machine

_IMAGE_BYTES = 4 << 20
_TRIED, _SEEN = "tried", "seen"


@dataclass
class Attempt:
    """What an attacker tries, and what comes of it: a line of the table."""

    request: pytest.FixtureRequest

    def tried(self, text: str) -> None:
        self.request.node.user_properties.append((_TRIED, text))

    def seen(self, text: str) -> None:
        self.request.node.user_properties.append((_SEEN, text))


@pytest.fixture
def attempt(request: pytest.FixtureRequest) -> Attempt:
    return Attempt(request)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each attack. Under xdist nobody prints it: only the workers have read this file."""
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            said = [text for key, text in report.user_properties if key == _TRIED]
            seen = "; ".join(text for key, text in report.user_properties if key == _SEEN)
            if said:
                verdict = "FAILED AS IT SHOULD" if outcome == "passed" else "NOT AS IT SHOULD"
                terminalreporter.write_line(f"{verdict}: {said[0]}. Seen: {seen or 'see above'}.")


@dataclass
class Battlefield:
    """n1, the attacker, and n2 and n3 are red's, n4 and n5 blue's; n6 and n7 are nobody's, their ports closed. n3 and
    n5 stand before their boot, the others of a project are up.
    """

    site: Site
    machines: list[Machine]
    images: Path

    @property
    def admin(self) -> Client:
        return self.site.client()

    @property
    def attacker(self) -> Machine:
        return self.machines[0]

    def __getitem__(self, name: str) -> Machine:
        return next(machine for machine in self.machines if machine.name == name)

    def foot(self, project: str) -> Machine:
        """BMI's own end of a project's network."""
        network = self.admin.get_project(project)["network"]
        assert network
        name = self.site.netns_of(project)
        mac = netns.links(name)["boot0"]["address"]
        return Machine(
            f"BMI in {project}", name, mac, nic="boot0", address=network["address"].partition("/")[0]
        )

    def vlan(self, project: str) -> int:
        network = self.admin.get_project(project)["network"]
        assert network
        return int(network["vlan"])

    def stages(self, node: str) -> list[str]:
        return [event["stage"] for event in self.admin.list_events(node)]

    @contextmanager
    def ears(self, *machines: Machine) -> Iterator[list[socket.socket]]:
        """Sockets that hear all that comes to these machines."""
        with ExitStack() as stack:
            yield [stack.enter_context(machine.wire()) for machine in machines]


def _plug(site: Site) -> list[Machine]:
    """Puts a machine in the place of each node's tap."""
    lab = site.lab
    switch = OvsDatabase(lab.switch_db, 10)
    machines = []
    for node in lab.nodes:
        machine = Machine(node.name, f"{site.netns_prefix}-{node.name}", node.mac)
        port = node.switch_port
        netns.ensure(machine.netns)
        process.run(["sysctl", "-eqw", "net.ipv6.conf.default.accept_dad=0"], netns=machine.netns)
        switch.run("del-port", port)
        netns.ip(lab.netns, "link", "delete", port)
        peer = ("peer", "name", NIC, "address", node.mac, "netns", machine.netns)
        netns.ip(None, "link", "add", port, "netns", lab.netns, "type", "veth", *peer)
        for place, end in ((lab.netns, port), (machine.netns, NIC)):
            process.run(["ethtool", "-K", end, "tx", "off"], netns=place)
            netns.ip(place, "link", "set", end, "up")
        switch.run("add-port", lab.bridge, port, "--", "set", "Port", port, *CLOSED)
        machines.append(machine)
    return machines


def _furnish(site: Site, image: Path) -> None:
    admin, lab = site.client(), site.lab
    admin.register_switch("tor1", driver="ovs", options={"bridge": lab.bridge, "db": lab.switch_db})
    waiting = [admin.create_project(name) for name in ("red", "blue")]
    waiting.append(admin.import_image("system", image, public=True))
    waiting += [
        admin.register_node(
            node.name, mac=node.mac, bmc=f"fake+https://bmc/{node.name}", switch="tor1", port=node.switch_port
        )
        for node in lab.nodes
    ]
    for operation in waiting:
        finished(admin, operation, timeout_s=60)
    _give_kernel(site)


def _give_kernel(site: Site) -> None:
    """Makes the image one that boots by its own kernel, so that its nodes report."""
    core = open_core(site.settings)
    with core.database.write() as tx:
        [image] = records.images.list(tx, name="system")
        records.images.update(tx, id=image.id, values={"boot": {"method": "kernel", "kernel_args": ""}})
    core.database.engine.dispose()
    home = site.directory / "data" / "boot" / image.id
    home.mkdir(parents=True, exist_ok=True)
    for name in ("kernel", "initrd"):
        (home / name).write_bytes(name.encode() * 1000)


def _boot(field: Battlefield, up: Sequence[str], standing: Sequence[str]) -> None:
    admin = field.admin
    operations = {
        name: admin.provision_node(
            name,
            image="system",
            project="red" if name in {"n1", "n2", "n3"} else "blue",
            user_data=f"#cloud-config\n# secret-of-{name}\n",
        )
        for name in (*up, *standing)
    }
    for name in up:
        field[name].boot()
        finished(admin, operations[name], timeout_s=60)
    for name in standing:
        field[name].boot(up=False)


@pytest.fixture(scope="session")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Battlefield]:
    directory = tmp_path_factory.mktemp("attack")
    image = directory / "system.raw"
    image.write_bytes(bytes(_IMAGE_BYTES))
    process.run(["sfdisk", "--quiet", image], stdin="label: dos\n,,83,*\n")
    # Under xdist each worker has a field of its own.
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    site = Site(directory / "site", f"attack-{worker}")
    try:
        site.up(nodes=7, port=7570 + int(worker.removeprefix("gw")))
        made = Battlefield(site, _plug(site), directory)
        _furnish(site, image)
        _boot(made, up=("n1", "n2", "n4"), standing=("n3", "n5"))
        yield made
    except BaseException:
        print(site.log_path.read_text()[-5000:])
        raise
    finally:
        site.down()
        for number in range(1, 8):
            netns.remove(f"{site.netns_prefix}-n{number}")
    assert site.leftovers() == []


@pytest.fixture
def red(field: Battlefield) -> Machine:
    """The attacker."""
    return field.attacker
