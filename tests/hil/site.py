"""A whole BMI whose nodes are HIL's: claimed there, switched there, powered there."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bmi.config import ImageSettings, IsolationSettings, ServerSettings, Settings
from bmi.domain.nouns import Nic, Node, Port
from bmi.domain.operations import Operation
from bmi.drivers import load
from bmi.drivers.bmc import Bmc, BmcAccess, PowerState
from bmi.service import allocation, nodes, operations, projects
from bmi.service.core import OperationView
from bmi.service.inventory import sync_nodes
from bmi.store import operations as journal
from bmi.store import ports, records
from bmi.store.database import Database, connect
from bmi.workflow import inventory
from bmi.workflow.engine import Engine
from bmi.workflow.steps import OUTCOMES, STEPS
from tests.hil.bench import Bench
from tests.installation import SITE, Site

# Long enough for what goes well, short enough to wait for what does not.
PATIENCE_S = 4


class _Booting:
    """HIL's power, and somebody who sees which node it turns on."""

    def __init__(self, bmc: Bmc, powered_on: Callable[[str], None]) -> None:
        self._bmc = bmc
        self._powered_on = powered_on

    def power_state(self, access: BmcAccess) -> PowerState:
        return self._bmc.power_state(access)

    def power_on(self, access: BmcAccess) -> None:
        self._bmc.power_on(access)
        self._powered_on(access.address.rpartition("/")[2])

    def power_off(self, access: BmcAccess) -> None:
        self._bmc.power_off(access)

    def boot_network_once(self, access: BmcAccess) -> None:
        self._bmc.boot_network_once(access)

    def check(self, access: BmcAccess) -> str:
        return self._bmc.check(access)


class HilSite(Site):
    """Projects red (`red` in HIL as well) and blue (`indigo` there), and an image for all."""

    def __init__(self, database: Database, directory: Path, bench: Bench) -> None:
        super().__init__(database, directory)
        assert bench.server is not None
        self.bench, self.hil = bench, bench.server
        settings = Settings(
            server=ServerSettings(data_dir=directory),
            image=ImageSettings(max_size_gib=1),
            isolation=IsolationSettings(driver="hil", options=bench.options),
        )
        self.core = replace(self.core, settings=settings)
        options = bench.options | {"timeout_s": 2}
        power = _Booting(load("bmc", "hil")(**options, off_timeout_s=1), self._powered_on)
        switch = load("switch", "hil")(**options, poll_s=0.02, action_timeout_s=1)
        self.tools = replace(
            self._tools(settings),
            isolation=load("isolation", "hil")(**options),
            bmc=lambda _name: power,
            switch=lambda _name, _options: switch,
            boot_timeout_s=PATIENCE_S,
        )
        self.engine = Engine(database, STEPS, OUTCOMES, self.tools, owner="test", threads=4)

    def sync(self) -> Mapping[str, Any]:
        """Takes HIL's nodes over; what the step found."""
        operation = sync_nodes(self.core, SITE).operation
        self.settle()
        return self.result(operation.id, "sync_nodes")

    def look(self) -> None:
        """What the sweep does now and then, and what the port keeper makes of it."""
        inventory.look(self.tools)
        self.keep_ports()

    def keep_ports(self) -> None:
        """Lets the keeper see to what is due, without an operation that waits for it."""
        deadline = time.monotonic() + PATIENCE_S
        with self.keeping():
            while time.monotonic() < deadline and self._unsettled():
                time.sleep(0.01)

    def _unsettled(self) -> bool:
        with self.database.read() as tx:
            return bool(records.ports.list(tx, ports.UNSETTLED))

    def result(self, operation_id: str, step: str) -> Mapping[str, Any]:
        """What a step found."""
        with self.database.read() as tx:
            steps = journal.steps_of(tx, operation_id)
        return next(found.result or {} for found in steps if found.name == step)

    def node(self, name: str = "n1") -> Node:
        with self.database.read() as tx:
            found = records.nodes.find(tx, name=name)
        assert found is not None
        return found

    def nics(self, name: str = "n1") -> list[Nic]:
        with self.database.read() as tx:
            return records.nics.list(tx, node_id=self.node(name).id, order="name")

    def ports(self, name: str = "n1") -> list[Port]:
        with self.database.read() as tx:
            return ports.of_node(tx, self.node(name).id)

    def vlan(self, project: str = "red") -> int:
        with self.database.read() as tx:
            found = records.networks.find(tx, name=project)
        assert found is not None
        return found.vlan

    # ---- what people do -----------------------------------------------------------------------------

    def allocate(self, project: str = "red") -> Operation:
        """One node of the pool; the operation as it ended."""
        [begun] = allocation.allocate_nodes(self.core, SITE, 1, project=project).operations
        return self.ended(begun)

    def provisioned(self, name: str = "n1", *, boots: bool = True) -> Operation:
        """The node with an OS, for whoever has it, or for red."""
        order = nodes.Order(image="debian-12", project="red")
        begun = nodes.provision_node(self.core, SITE, name, order)
        return self.ended(begun, *([name] if boots else []))

    def released(self, name: str = "n1") -> Operation:
        return self.ended(nodes.release_node(self.core, SITE, name))

    def freed(self, name: str = "n1") -> Operation:
        return self.ended(allocation.free_node(self.core, SITE, name))

    def powered(self, action: str, name: str = "n1") -> Operation:
        return self.ended(nodes.power_node(self.core, SITE, name, action), name)

    def retried(self, operation: Operation) -> Operation:
        return self.ended(operations.retry_operation(self.core, SITE, operation.id))

    def ended(self, begun: OperationView, *came_up: str) -> Operation:
        """What is late with ports is tried at once, and not when the keeper's patience says so."""
        with self.database.write() as tx:
            records.ports.update(tx, values={"due_at": 0, "attempts": 0})
        self.settle(*came_up)
        return self.operation(begun.operation.id)


@contextmanager
def opened(directory: Path, migrated: Path, bench: Bench) -> Iterator[HilSite]:
    """With HIL's nodes n1 and n2, which are free."""
    shutil.copy(migrated, directory / "bmi.sqlite")
    engine = connect(f"sqlite:///{directory / 'bmi.sqlite'}")
    site = HilSite(Database(engine), directory, bench)
    try:
        site.project("red")
        projects.create_project(site.core, SITE, "blue", claims_as="indigo")
        site.settle()
        site.add_image("debian-12", public=True)
        yield site
    finally:
        site.close()
        engine.dispose()
