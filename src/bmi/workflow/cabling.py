"""Compares the ports of switches with what they should be. By itself it only ever takes away what a port should
not be on; what is missing is given back when a person says so.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import exists

from bmi.domain.nouns import Json, Port, Switch
from bmi.drivers.switch import CLOSED, PortConfig
from bmi.errors import BmiError, BusyError
from bmi.store import ports as rows
from bmi.store import records, schema
from bmi.store.ids import new_id
from bmi.workflow.ports import as_json, config_of
from bmi.workflow.tools import Tools

log = logging.getLogger(__name__)

# Far longer than a driver takes to give up.
_LEASE_S = 300


@dataclass(frozen=True)
class Difference:
    """A port that is not what it should be; `found` None is something that BMI does not make."""

    port: Port
    wanted: PortConfig
    found: PortConfig | None

    @property
    def narrowed(self) -> PortConfig:
        """What it is and should be at once. What BMI does not understand is closed."""
        if self.found is None:
            return CLOSED
        native = self.wanted.native if self.found.native == self.wanted.native else None
        return PortConfig(native, self.wanted.tagged & self.found.tagged)

    @property
    def is_wider(self) -> bool:
        """Whether it is on something that it should not be on."""
        return self.found != self.narrowed

    def told(self, *, mended: bool) -> Json:
        return {
            "port": self.port.name,
            "wanted": str(self.wanted),
            "found": str(self.found) if self.found else "something that BMI does not make",
            "mended": mended,
        }


def compare(tools: Tools, switch: Switch, *, repair: bool = False, widen: bool = False) -> Json:
    """Every managed port that is not what it should be and that nobody is about to change. With `repair` they
    are narrowed; with `widen` made what they should be, by the keeper.
    """
    differences, managed, others = differing(tools, switch)
    mended: set[str] = set()
    if widen and differences:
        with tools.database.write() as tx:
            rows.make_due(tx, [one.port.id for one in differences], tools.database.now())
        mended = {one.port.id for one in differences}
    elif repair:
        mended = narrow(tools, switch, differences)
    return {
        "ports": managed,
        "others": others,
        "differences": [one.told(mended=one.port.id in mended) for one in differences],
    }


def differing(tools: Tools, switch: Switch) -> tuple[list[Difference], int, int]:
    """The differences, and how many ports BMI manages and how many others there are."""
    began = tools.database.now()
    listed = tools.switch(switch.driver, switch.options).list()
    with tools.database.read() as tx:
        managed = records.ports.list(tx, switch_id=switch.id, order="name")
        wanted = {port_id: config_of(one) for port_id, one in rows.wanted(tx, managed).items()}
    # Read after the switch was: what was settled all the time was so when the switch was asked.
    settled = [p for p in managed if p.applied_revision == p.revision and (p.applied_at or 0) < began]
    found = [Difference(p, wanted[p.id], listed.get(p.name, CLOSED)) for p in settled]
    others = listed.keys() - {port.name for port in managed}
    return [one for one in found if one.found != one.wanted], len(managed), len(others)


def narrow(tools: Tools, switch: Switch, differences: list[Difference]) -> set[str]:
    """Takes from these ports what they should not be on; returns the ids of those for which that is all."""
    asked = {one.port.name: one for one in differences if one.is_wider}
    if not asked:
        return set()
    with _session(tools, switch) as still_so:
        asked = {name: one for name, one in asked.items() if still_so(one.port)}
        found = tools.switch(switch.driver, switch.options).apply(
            {name: one.narrowed for name, one in asked.items()}
        )
        with tools.database.write() as tx:
            for name, one in asked.items():
                if found[name] == one.narrowed:
                    records.ports.update(tx, id=one.port.id, values={"applied": as_json(one.narrowed)})
    for name, one in asked.items():
        log.warning(
            "Port %s of switch %s should be %s, was %s, and is now %s",
            name,
            switch.name,
            one.wanted,
            one.found or "something else",
            found[name],
        )
    return {one.port.id for name, one in asked.items() if found[name] == one.wanted}


@contextmanager
def _session(tools: Tools, switch: Switch) -> Iterator[Callable[[Port], bool]]:
    """The keepers stay away meanwhile. Raises BusyError when one of them is at the switch."""
    me = new_id()
    with tools.database.write() as tx:
        now = tools.database.now()
        if not rows.claim_switch(tx, switch.id, me, now=now, lease_s=_LEASE_S):
            raise BusyError(f"The ports of switch {switch.name} are just being changed.", remedy="Try again.")
        unchanged: Mapping[str, int] = {p.id: p.revision for p in records.ports.list(tx, switch_id=switch.id)}
    try:
        yield lambda port: unchanged.get(port.id) == port.revision
    finally:
        with tools.database.write() as tx:
            rows.release_switch(tx, switch.id, me)


def narrow_all(tools: Tools, *, stopped: Callable[[], bool]) -> None:
    """One round over all switches with ports of ours, for the sweep: says what differs, and narrows."""
    ports, table = schema.ports, schema.switches
    has_ports = exists().where(ports.c.switch_id == table.c.id)
    with tools.database.read() as tx:
        switches = records.switches.list(tx, has_ports, order="name")
    for switch in switches:
        if stopped():
            return
        try:
            differences = differing(tools, switch)[0]
            mended = narrow(tools, switch, differences)
        except BmiError as error:
            log.warning("The ports of switch %s could not be compared: %s", switch.name, error)
            continue
        for one in differences:
            if one.port.id not in mended:
                log.error(
                    "Port %s of switch %s should be %s: `bmi switch repair %s --widen` makes it so",
                    one.port.name,
                    switch.name,
                    one.wanted,
                    switch.name,
                )
