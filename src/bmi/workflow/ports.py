"""Makes switch ports what they should be: all that is due on a switch in one session, read back, tried again.

Nobody else changes a port. Whoever wants one changed says so in the rows and waits; a switch that is away keeps
nobody waiting but those whose ports are on it.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bmi.domain.nouns import Json, Port, Switch
from bmi.drivers.switch import CLOSED, PortConfig
from bmi.errors import BmiError, DriverError, TimedOutError
from bmi.store import operations as journal
from bmi.store import ports as rows
from bmi.store import records
from bmi.store.ids import new_id
from bmi.workflow.problems import as_bmi_error, problem_of
from bmi.workflow.tools import Tools

log = logging.getLogger(__name__)

_POLL_S = 0.1
_LOOK_EVERY_S = 0.01
# A change waits for others that come at the same time: after the last one for as long as a session takes, for
# those that are known to come as long as ten would take; and no longer than this, a part of what a node spends in
# its firmware.
_QUIET_S = 1
_GATHER_S = 30
_GATHER_SESSIONS = 10
# Of a switch that this process has not yet met.
_A_SESSION_S = 1
_MAX_BACKOFF_S = 60
# Far longer than a driver takes to give up: what a session may take, and each port of it on top.
_PATIENCE_S = 150
_PORT_PATIENCE_S = 5

Results = Mapping[str, PortConfig | BmiError]


def config_of(wanted: rows.Wanted) -> PortConfig:
    """What a switch driver is asked for; raises DriverError for what is no VLAN of a node."""
    return PortConfig(wanted.native, wanted.tagged)


def as_json(config: PortConfig) -> Json:
    """As a row keeps it."""
    return {"native": config.native, "tagged": sorted(config.tagged)}


def session_patience_s(ports: int) -> float:
    """After this time nobody waits any more for a session that changes so many ports."""
    return _PATIENCE_S + ports * _PORT_PATIENCE_S


@dataclass(frozen=True)
class _Session:
    """What is asked of a switch, and at which revision each port is then. The lease is this session's alone, until it is
    given up at `ends_at` (monotonic).
    """

    id: str
    switch: Switch
    ports: list[Port]
    wanted: Mapping[str, PortConfig]
    ends_at: float


class Keeper:
    """One thread that looks for what is due, and one for each switch that it has a session with.

    Several keepers may work on one database: a lease in the switch's row lets only one of them at a switch. Nothing
    can end a thread from outside: one that takes too long is left to itself, its ports get a problem, and whatever it
    still does at the switch is done over when it ends.
    `hook(moment)` is called at "before", "done" (applied, not yet written down) and "after" of each session;
    tests kill the process there. `kick` tells a worker in the same process to look now.
    """

    def __init__(
        self,
        tools: Tools,
        *,
        owner: str,
        lease_s: float = 15,
        poll_s: float = _POLL_S,
        kick: Callable[[], None] = lambda: None,
        hook: Callable[[str], None] = lambda _moment: None,
    ) -> None:
        self._tools = tools
        self._db = tools.database
        self._owner = owner
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._kick = kick
        self._hook = hook
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._sessions: dict[str, _Session] = {}
        self._session_s: dict[str, float] = {}
        self._renew_at = 0.0

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Works until `stop`."""
        while not self._stop.is_set():
            try:
                self.look()
            except Exception:  # the keeper must outlive a database that is away for a moment
                log.exception("The port keeper stumbled")
                self._stop.wait(1)
            self._stop.wait(self._poll_s)
        self.finish()

    def finish(self) -> None:
        """Waits for the end of the sessions that have begun, no longer than their time."""
        while self._go_on():
            time.sleep(_LOOK_EVERY_S)

    def look(self) -> None:
        """Begins a session with each switch that has due ports, and with which none is going on."""
        running = self._go_on()
        now = self._db.now()
        with self._db.read() as tx:
            due = rows.due(tx, now)
        by_switch: dict[str, list[Port]] = defaultdict(list)
        for port in due:
            by_switch[port.switch_id].append(port)
        for switch_id, ports in by_switch.items():
            if switch_id not in running and self._all_have_come(switch_id, ports, now):
                self._start(switch_id)

    def _start(self, switch_id: str) -> None:
        try:
            session = self._begin(switch_id)
        except Exception:  # the other switches' turn comes all the same
            log.exception("No session with switch %s could begin", switch_id)
            return
        if session:
            with self._lock:
                self._sessions[switch_id] = session
            thread = threading.Thread(target=self._keep, args=(session,), name="switch", daemon=True)
            thread.start()

    def _go_on(self) -> Mapping[str, _Session]:
        """The sessions that go on, by switch: their leases are renewed, and what takes too long is given up."""
        now = time.monotonic()
        with self._lock:
            late = [session for session in self._sessions.values() if session.ends_at <= now]
            for session in late:
                del self._sessions[session.switch.id]
            running = dict(self._sessions)
        for session in late:
            self._give_up(session)
        if running and now >= self._renew_at:
            self._renew_at = now + self._lease_s / 3
            with self._db.write() as tx:
                # Of the others the lease runs out: a session that stumbled begins again.
                rows.keep_switches(tx, [s.id for s in running.values()], self._db.now() + self._lease_s)
        return running

    def _give_up(self, session: _Session) -> None:
        error = TimedOutError(
            f"A session with switch {session.switch.name} did not end within "
            f"{session_patience_s(len(session.ports)):g} s.",
            remedy=f"`bmi switch check {session.switch.name}` shows whether it answers. It is tried again.",
        )
        self._write_down(session, dict.fromkeys(session.wanted, error))

    def _all_have_come(self, switch_id: str, ports: list[Port], now: float) -> bool:
        """Whether waiting longer would gain nothing, or too little: a session takes as long as the last one did."""
        times = [port.due_at for port in ports]
        session_s = self._session_s.get(switch_id, _A_SESSION_S)
        if now - min(times) >= min(_GATHER_SESSIONS * session_s, _GATHER_S):
            return True
        if now - max(times) < min(self._session_s.get(switch_id, 0), _QUIET_S):
            return False
        with self._db.read() as tx:
            return not rows.others_come(tx, switch_id)

    # ---- one session --------------------------------------------------------------------------------

    def _keep(self, session: _Session) -> None:
        switch = session.switch
        try:
            self._hook("before")
            began = time.monotonic()
            results = self._apply(session)
            self._session_s[switch.id] = time.monotonic() - began
            self._hook("done")
            self._write_down(session, results)
            self._hook("after")
        except Exception:  # what is not written down is due still, when the lease has run out
            log.exception("A session with switch %s stumbled", switch.name)
        finally:
            with self._lock:
                if self._sessions.get(switch.id) is session:
                    del self._sessions[switch.id]

    def _begin(self, switch_id: str) -> _Session | None:
        # Whose it is, for who looks into the row, as far as there is room for it.
        now, session_id = self._db.now(), f"{self._owner:.36}/{new_id()}"
        with self._db.write() as tx:
            if not rows.claim_switch(tx, switch_id, session_id, now=now, lease_s=self._lease_s):
                return None
            ports = [port for port in rows.due(tx, now) if port.switch_id == switch_id]
            if not ports:
                rows.release_switch(tx, switch_id, session_id)
                return None
            wanted = rows.wanted(tx, ports)
            asked = {port.name: config_of(wanted[port.id]) for port in ports}
            ends_at = time.monotonic() + session_patience_s(len(ports))
            return _Session(session_id, records.switches.get(tx, switch_id), ports, asked, ends_at)

    def _apply(self, session: _Session) -> Results:
        """What each port is now, or why not: when the switch is away, the same for all."""
        switch = session.switch
        try:
            found = self._tools.switch(switch.driver, switch.options).apply(session.wanted)
        except Exception as error:  # noqa: BLE001  # whatever it was, it is the ports' problem document
            return dict.fromkeys(session.wanted, as_bmi_error(error, f"Switch {switch.name}"))
        return {port: _judged(port, config, found.get(port)) for port, config in session.wanted.items()}

    def _write_down(self, session: _Session, results: Results) -> None:
        switch, now = session.switch, self._db.now()
        with self._db.write() as tx:
            if not rows.release_switch(tx, switch.id, session.id):
                # Another session took over and may have been overwritten by what came of this session.
                log.warning("The session with switch %s took too long and is repeated", switch.name)
                rows.make_due(tx, [port.id for port in session.ports], now)
                return
            for port in session.ports:
                records.ports.update(
                    tx, id=port.id, values=self._outcome(switch, port, results[port.name], now)
                )
            behind = rows.nodes_behind(tx, session.ports)
        with self._db.write() as tx:
            rows.forget_left(tx)
        for node_id in behind:
            # One at a time: a transaction that locks several operations could meet another that does.
            with self._db.write() as tx:
                journal.wake(tx, node_id, now)
        self._kick()

    def _outcome(self, switch: Switch, port: Port, result: PortConfig | BmiError, now: float) -> Json:
        name = f"port {port.name} of switch {switch.name}"
        if isinstance(result, BmiError):
            problem = problem_of(result, switch=switch.name, port=port.name)
            if (port.problem or {}).get("detail") != problem["detail"]:
                log.warning("%s: %s", name, result)
            later = now + min(2.0 ** min(port.attempts, 32), _MAX_BACKOFF_S)
            return {"attempts": port.attempts + 1, "due_at": later, "problem": problem}
        log.info("%s is %s", name, result)
        return {
            "applied_revision": port.revision,
            "applied": as_json(result),
            "applied_at": now,
            "attempts": 0,
            "problem": None,
        }


def _judged(port: str, asked: PortConfig, found: PortConfig | DriverError | None) -> PortConfig | BmiError:
    """A driver is believed only when it says that it has seen the very thing that was asked for."""
    if found == asked or isinstance(found, BmiError):
        return found
    return DriverError(
        f"Port {port} should be {asked}, and the driver says {found or CLOSED}.",
        remedy="Look at the port on the switch itself: what else is configured there?",
    )
