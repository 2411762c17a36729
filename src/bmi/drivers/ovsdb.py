"""Open vSwitch through ovs-vsctl: its database's rows, what makes a port open or closed, a limit on waiting."""

import json
import math
import signal
from typing import Any

from bmi import process
from bmi.errors import DriverError, TimedOutError

Row = dict[str, Any]

# IEEE 802.1Q reserves VLAN 4095: no network can have it. A trunk that carries it alone drops every frame
# a node can send or receive untagged or on a network's VLAN; `protected` keeps such ports from each other
# even when a node forges that tag. (A port without tag is no way to close: it reaches all such ports.)
CLOSED = ("tag=[]", "trunks=4095", "vlan_mode=trunk", "protected=true")

# Ports with this external id are BMI's own feet in the networks, not cables to nodes.
UPLINK_MARK = "bmi-uplink"


def access_columns(vlan: int) -> tuple[str, ...]:
    """The Port columns of an untagged member of `vlan` (1 to 4094) and of nothing else."""
    if not 1 <= vlan <= 4094:
        raise DriverError(f"There is no VLAN {vlan}.", retryable=False, remedy="Choose one of 1 to 4094.")
    return (f"tag={vlan}", "trunks=[]", "vlan_mode=access", "protected=false")


def listing(**tables: str) -> list[str]:
    """The commands that list columns of tables; `listed` understands what they print as JSON."""
    commands = [
        part for table, columns in tables.items() for part in ("--", f"--columns={columns}", "list", table)
    ]
    return commands[1:]


def listed(printed: str) -> list[list[Row]]:
    """The rows of each table."""
    listings = map(json.loads, printed.strip().splitlines())
    return [
        [dict(zip(table["headings"], map(_value, row), strict=True)) for row in table["data"]]
        for table in listings
    ]


class OvsDatabase:
    """The database at `db` (such as `unix:/run/openvswitch/db.sock`).

    Each call takes at most about `timeout_s`: without a limit ovs-vsctl waits for ever for a switch
    daemon that is away.
    """

    def __init__(self, db: str, timeout_s: float) -> None:
        self.db = db
        self._timeout_s = max(1, math.ceil(timeout_s))

    def run(self, *commands: str) -> str:
        """Runs the commands (separated by `--`) as one transaction and returns what they printed.

        What changed is applied by the switch daemon before this returns. Raises TimedOutError when it
        is not: the database may hold the change all the same.
        """
        done = process.run(
            ["ovs-vsctl", f"--db={self.db}", f"--timeout={self._timeout_s}", "--format=json", *commands],
            timeout_s=self._timeout_s + 2,
            ok_codes=(0, 1, -signal.SIGALRM),
        )
        if done.returncode == -signal.SIGALRM:
            raise TimedOutError(
                f"Open vSwitch did not apply a change within {self._timeout_s} s.",
                remedy="See whether ovs-vswitchd runs and is not stuck.",
            )
        if done.returncode:
            raise DriverError(
                f"Open vSwitch refused: {done.stderr.strip()}",
                remedy=f"See whether ovsdb-server answers at {self.db}.",
            )
        return done.stdout

    def rows(self, **tables: str) -> list[list[Row]]:
        """All rows of each table in one look: `rows(Bridge="name,ports", Port="name,tag")`."""
        return listed(self.run(*listing(**tables)))

    def await_applied(self) -> None:
        """Waits until the switch daemon has applied all that is in the database."""
        [[counters]] = self.rows(Open_vSwitch="next_cfg,cur_cfg")
        if counters["cur_cfg"] < counters["next_cfg"]:
            self.run("wait-until", "Open_vSwitch", ".", f"cur_cfg>={counters['next_cfg']}")


def _value(cell: Any) -> Any:
    """A cell of RFC 7047's JSON notation as Python's: a set is a list (with no or many members), a
    single value stands for itself, a map is a dict, a UUID its text.
    """
    match cell:
        case ["set", members]:
            return [_value(member) for member in members]
        case ["map", pairs]:
            return {_value(key): _value(value) for key, value in pairs}
        case ["uuid", text]:
            return text
        case _:
            return cell
