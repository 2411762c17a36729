"""Keeps what should always be there: BMI's foot in every network and the portal that serves it.

An exporter that died is back, with everything it exported, before the nodes' patience ends.
"""

import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress

from sqlalchemy import ColumnElement, Connection, select

from bmi.domain.nouns import Network, ObjectState, Volume
from bmi.domain.operations import LIVE
from bmi.drivers.export import Portal, Target
from bmi.errors import BmiError, DriverError, TimedOutError
from bmi.store import records, schema
from bmi.workflow.sessions import Doorman
from bmi.workflow.steps.networks import foot_of
from bmi.workflow.targets import exported_targets, portal_of, target_of
from bmi.workflow.tools import Tools

log = logging.getLogger(__name__)

_PORTAL_EVERY_S = 0.5
_UPLINK_EVERY_TICKS = 20
_SIDE_BY_SIDE = 8
# An exporter that is merely busy answers one of these; one that hangs is replaced while nodes still wait.
_TIME_OUTS = 3


class Guard:
    """One thread that compares and a few that mend; it only ever brings back what the database says.

    A network is looked at by one thread at a time, so what is remembered of it (by its id) needs no lock.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(_SIDE_BY_SIDE, thread_name_prefix="guard")
        self._looks: dict[str, Future[None]] = {}
        self._troubles: dict[str, str] = {}
        self._trusted_feet: set[str] = set()
        self._incomplete: set[str] = set()
        self._time_outs: Counter[str] = Counter()
        self._doorman = Doorman(tools)

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Works until `stop`."""
        tick = 0
        while not self._stop.is_set():
            try:
                self.look(uplinks=tick % _UPLINK_EVERY_TICKS == 0, patience_s=_PORTAL_EVERY_S)
            except Exception:  # the guard must outlive anything that it guards
                log.exception("The guard stumbled")
            tick += 1
            self._stop.wait(_PORTAL_EVERY_S)
        self._pool.shutdown(cancel_futures=True)

    def look(self, *, uplinks: bool, patience_s: float | None = None) -> None:
        """One round over all networks that should be served; with `uplinks`, or when one of them is new or
        its portal has got into trouble, over their feet as well. Networks that take longer than
        `patience_s` stay out of the next rounds until they are done.
        """
        with self._tools.database.read() as tx:
            networks = _served(tx)
            volumes = records.volumes.list(tx, exported=True)
        exported: dict[str, list[Volume]] = defaultdict(list)
        for volume in volumes:
            exported[volume.network_id].append(volume)
        present: set[str] | None = None  # not looked at, or the uplink does not tell
        if uplinks or not self._trusted_feet.issuperset(network.id for network in networks):
            with self._trouble_said_once("Uplinks"):
                present = set(self._tools.uplink.list())
        self._looks = {network_id: look for network_id, look in self._looks.items() if not look.done()}
        for network in networks:
            if network.id not in self._looks:
                lost_foot = present is not None and network.netns not in present
                self._looks[network.id] = self._pool.submit(
                    self._look_at, network, exported[network.id], lost_foot=lost_foot
                )
        wait(self._looks.values(), timeout=patience_s)

    def _look_at(self, network: Network, volumes: list[Volume], *, lost_foot: bool) -> None:
        if lost_foot or network.id not in self._trusted_feet:
            self._trusted_feet.add(network.id)
            with self._trouble_said_once(f"The foot in network {network.name}"):
                self._put_foot(network)
                if lost_foot:
                    log.warning("The foot in network %s was gone and is back", network.name)
        with self._trouble_said_once(f"Network {network.name}"):
            self._serve(network, [target_of(self._tools, volume) for volume in volumes])
            self._doorman.look(network, portal_of(self._tools, network))

    def _put_foot(self, network: Network) -> None:
        """The network may be closed at any moment, and its foot shall not come back then."""
        if not self._is_served(network):
            return
        self._tools.uplink.ensure(foot_of(network))
        if not self._is_served(network):
            self._tools.uplink.remove(network.netns)

    def _serve(self, network: Network, targets: list[Target]) -> None:
        portal = portal_of(self._tools, network)
        try:
            was_down = self._tools.export.ensure_portal(portal, targets)
        except TimedOutError:
            self._replace_if_hung(network, portal)
            raise
        except DriverError:
            if network.id not in self._incomplete:
                self._incomplete.add(network.id)
                self._trusted_feet.discard(network.id)  # no namespace, or no address in it: no portal
            with suppress(DriverError):  # it may serve again, only without a volume whose file is gone
                self._catch_up(network, portal, targets)
            raise
        self._time_outs.pop(network.id, None)
        if was_down:
            log.warning("The portal of network %s was down; %d targets are back", network.name, len(targets))
        if was_down or network.id in self._incomplete:
            self._incomplete.add(network.id)
            self._catch_up(network, portal, targets)
            self._incomplete.discard(network.id)

    def _replace_if_hung(self, network: Network, portal: Portal) -> None:
        """Ends an exporter that never answers; the next look starts one with all targets."""
        self._time_outs[network.id] += 1
        if self._time_outs[network.id] >= _TIME_OUTS:
            log.warning("The exporter of network %s hangs: it is ended and replaced", network.name)
            self._tools.export.remove_portal(portal)
            self._time_outs.pop(network.id)

    def _catch_up(self, network: Network, portal: Portal, brought_back: list[Target]) -> None:
        """Steps may have exported and unexported, or closed the network, while the portal was coming back."""
        if not self._is_served(network):
            self._tools.export.remove_portal(portal)
            self._tools.uplink.remove(network.netns)
            return
        listed = set(self._tools.export.list(portal))
        wanted = {target.iqn: target for target in exported_targets(self._tools, network)}
        missing = wanted.keys() - listed
        troubles = []
        for iqn in sorted(missing):
            try:
                self._tools.export.ensure(portal, wanted[iqn])
            except TimedOutError:
                raise
            except DriverError as error:
                troubles.append(error)
        put_up = missing.union(target.iqn for target in brought_back)
        for iqn in put_up.difference(target.iqn for target in exported_targets(self._tools, network)):
            self._tools.export.remove(portal, iqn)
        if troubles:
            raise troubles[0]

    def _is_served(self, network: Network) -> bool:
        with self._tools.database.read() as tx:
            return bool(_served(tx, schema.networks.c.id == network.id))

    @contextmanager
    def _trouble_said_once(self, what: str) -> Iterator[None]:
        try:
            yield
        except BmiError as error:
            self._say(what, str(error))
        except Exception:  # nobody else looks at what a thread of the pool ends with
            log.exception("%s: the guard stumbled", what)
        else:
            self._say(what, "")

    def _say(self, what: str, trouble: str) -> None:
        """Logs a change, not every round of the same."""
        if self._troubles.get(what, "") != trouble:
            log.log(logging.ERROR if trouble else logging.INFO, "%s: %s", what, trouble or "well again")
            self._troubles[what] = trouble


def _served(tx: Connection, *where: ColumnElement[bool]) -> list[Network]:
    """The networks that should be served, and that no operation is just opening or closing."""
    operations = schema.operations.c
    busy = select(operations.subject_id).where(operations.state.in_(LIVE))
    return records.networks.list(
        tx, schema.networks.c.id.not_in(busy), *where, state=ObjectState.READY, boot=True
    )
