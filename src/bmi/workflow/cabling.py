"""Compares the ports of switches with what they should be. By itself it only ever takes away what a port should
not be on; what is missing is given back when a person says so.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import exists

from bmi.domain.nouns import Json, Port, Switch
from bmi.drivers.switch import CLOSED, PortConfig
from bmi.errors import BmiError, BusyError
from bmi.store import ports as rows
from bmi.store import records, schema
from bmi.store.ids import new_id
from bmi.workflow.ports import as_json, config_of, session_patience_s
from bmi.workflow.tools import Tools

log = logging.getLogger(__name__)

_LEASE_S = 15


@dataclass(frozen=True)
class Difference:
    """A port that is not what it should be; `found` None is something that BMI does not make."""

    port: Port
    wanted: PortConfig
    found: PortConfig | None

    @property
    def narrowed(self) -> PortConfig:
        """What it is and should be at once. What BMI does not understand is closed, and so is what is untagged in
        a wrong VLAN: not every switch can take a port off that and leave it on others.
        """
        if self.found is None or self.found.native not in {None, self.wanted.native}:
            return CLOSED
        return PortConfig(self.found.native, self.wanted.tagged & self.found.tagged)

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
    with tools.database.read() as tx:
        before = {p.id: p.revision for p in records.ports.list(tx, ~rows.UNSETTLED, switch_id=switch.id)}
    listed = tools.switch(switch.driver, switch.options).list()
    with tools.database.read() as tx:
        managed = records.ports.list(tx, switch_id=switch.id, order="name")
        wanted = {port_id: config_of(one) for port_id, one in rows.wanted(tx, managed).items()}
    # What was settled all the time was so when the switch was asked.
    settled = [p for p in managed if p.applied_revision == p.revision == before.get(p.id)]
    found = [Difference(p, wanted[p.id], listed.get(p.name, CLOSED)) for p in settled]
    others = listed.keys() - {port.name for port in managed}
    return [one for one in found if one.found != one.wanted], len(managed), len(others)


def narrow(tools: Tools, switch: Switch, differences: list[Difference]) -> set[str]:
    """Takes from ports what they should not be on, if these differences show any that are; returns the ids of those
    for which that is all.
    """
    if not any(one.is_wider for one in differences):
        return set()
    with _session(tools, switch) as ports:
        # Looked at again: until the session began, a keeper may have changed them.
        asked = {one.port.name: one for one in differing(tools, switch)[0] if one.is_wider}
        if not asked:
            return set()
        ports.extend(one.port.id for one in asked.values())
        found = tools.switch(switch.driver, switch.options).apply(
            {name: one.narrowed for name, one in asked.items()}
        )
        with tools.database.write() as tx:
            rows.lock(tx, schema.ports.c.id.in_(ports))
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
def _session(tools: Tools, switch: Switch) -> Iterator[list[str]]:
    """The keepers stay away meanwhile. Whatever ports are put into the list are the keeper's to see to when it did not
    stay away to the end. Raises BusyError when a session with the switch goes on.
    """
    me, touched = new_id(), list[str]()
    with tools.database.write() as tx:
        if not rows.claim_switch(tx, switch.id, me, now=tools.database.now(), lease_s=_LEASE_S):
            raise BusyError(f"The ports of switch {switch.name} are just being changed.", remedy="Try again.")
        patience_s = session_patience_s(len(records.ports.list(tx, switch_id=switch.id)))
    over = threading.Event()
    heartbeat = threading.Thread(target=_keep_lease, args=(tools, me, over, patience_s), daemon=True)
    heartbeat.start()
    try:
        yield touched
    finally:
        over.set()
        heartbeat.join()
        with tools.database.write() as tx:
            if not rows.release_switch(tx, switch.id, me):
                # A keeper took over and may have been overwritten by what came of this session.
                rows.make_due(tx, touched, tools.database.now())


def _keep_lease(tools: Tools, session: str, over: threading.Event, patience_s: float) -> None:
    ends_at = time.monotonic() + patience_s
    while not over.wait(_LEASE_S / 3) and time.monotonic() < ends_at:
        try:
            with tools.database.write() as tx:
                rows.keep_switches(tx, [session], tools.database.now() + _LEASE_S)
        except Exception:  # the next beat may succeed, and a lost lease is noticed
            log.exception("The lease of a session with a switch could not be extended")


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
        except Exception:  # the other switches' turn comes all the same
            log.exception("The ports of switch %s could not be compared", switch.name)
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
