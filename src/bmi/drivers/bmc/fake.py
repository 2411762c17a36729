"""BMCs that exist in a directory only."""

from bmi.drivers.bmc import BmcAccess, PowerState
from bmi.drivers.faults import FakeWorld, Table
from bmi.errors import DriverError

_NODES = "nodes"


class FakeBmc:
    """Every address is a BMC; its node is off until it is turned on. `password`, where given, is the only
    one that is let in.
    """

    def __init__(self, world: FakeWorld, password: str) -> None:
        self.world = world
        self._password = password

    def power_state(self, access: BmcAccess) -> PowerState:
        self._enter("power_state", access)
        state: PowerState = self.node(access.address)["power"]
        return state

    def power_on(self, access: BmcAccess) -> None:
        self._enter("power_on", access)
        node = self.node(access.address)
        if node["power"] == "off":
            booted = "network" if node["network_once"] else "default"
            self._put(access.address, power="on", network_once=False, booted=booted, boots=node["boots"] + 1)

    def power_off(self, access: BmcAccess) -> None:
        self._enter("power_off", access)
        self._put(access.address, power="off")

    def boot_network_once(self, access: BmcAccess) -> None:
        self._enter("boot_network_once", access)
        self._put(access.address, network_once=True)

    def check(self, access: BmcAccess) -> str:
        self._enter("check", access)
        return f"A fake BMC at {access.address}."

    def node(self, address: str) -> Table:
        """What happened to the node of that BMC: `power`, `network_once` (waiting), `booted` (from what,
        last) and `boots` (how often).
        """
        untouched = {"power": "off", "network_once": False, "booted": "", "boots": 0}
        happened: Table = self.world.read(_NODES).get(address, {})
        return untouched | happened

    def _enter(self, call: str, access: BmcAccess) -> None:
        self.world.call(call)
        if self._password and access.password != self._password:
            raise DriverError(
                f"The BMC at {access.address} does not accept the user name and password.",
                retryable=False,
                remedy="Correct the node's BMC credentials.",
            )

    def _put(self, address: str, **facts: str | bool | int) -> None:
        def edit(nodes: Table) -> None:
            nodes[address] = nodes.get(address, {}) | facts

        self.world.change(_NODES, edit)


def create(*, root: str = "", password: str = "") -> FakeBmc:
    """BMCs whose state is kept in `root` (empty: in a directory of this process)."""
    return FakeBmc(FakeWorld(root), password)
