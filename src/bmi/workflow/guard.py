"""Keeps what should always be there: BMI's foot in every network and the portal that serves it.

An exporter that died is back, with everything it exported, before the nodes' patience ends.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from bmi.domain.nouns import Network, ObjectState, Volume
from bmi.drivers.export import Portal, Target
from bmi.errors import BmiError
from bmi.store import operations as journal
from bmi.store import records
from bmi.workflow.steps.networks import foot_of
from bmi.workflow.targets import exported_targets, portal_of, target_of
from bmi.workflow.tools import Tools

log = logging.getLogger(__name__)

_PORTAL_EVERY_S = 0.5
_UPLINK_EVERY_TICKS = 20


class Guard:
    """One thread that compares and mends; it only ever brings back what the database says."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._stop = threading.Event()
        self._troubles: dict[str, str] = {}

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Works until `stop`."""
        tick = 0
        while not self._stop.is_set():
            try:
                self.look(uplinks=tick % _UPLINK_EVERY_TICKS == 0)
            except Exception:  # the guard must outlive anything that it guards
                log.exception("The guard stumbled")
            tick += 1
            self._stop.wait(_PORTAL_EVERY_S)

    def look(self, *, uplinks: bool) -> None:
        """One round over all networks that should be served; with `uplinks`, over their feet as well."""
        with self._tools.database.read() as tx:
            networks = records.networks.list(tx, state=ObjectState.READY)
            volumes = records.volumes.list(tx, exported=True)
            networks = [n for n in networks if journal.live_on(tx, n.id) is None]
        exported: dict[str, list[Volume]] = defaultdict(list)
        for volume in volumes:
            exported[volume.network_id].append(volume)
        present: set[str] | None = None  # not looked at, or the uplink does not tell
        if uplinks:
            with self._trouble_said_once("Uplinks"):
                present = set(self._tools.uplink.list())
        for network in networks:
            has_foot = present is None or network.netns in present
            with self._trouble_said_once(f"Network {network.name}"):
                self._look_at(network, exported[network.id], has_foot=has_foot)

    def _look_at(self, network: Network, volumes: list[Volume], *, has_foot: bool) -> None:
        if not has_foot:
            self._tools.uplink.ensure(foot_of(network))
            log.warning("The foot in network %s was gone and is back", network.name)
        portal = portal_of(self._tools, network)
        targets = [target_of(self._tools, volume) for volume in volumes]
        if self._tools.export.ensure_portal(portal, targets):
            log.warning("The portal of network %s was down; %d targets are back", network.name, len(targets))
            self._catch_up(network, portal, targets)

    def _catch_up(self, network: Network, portal: Portal, brought_back: list[Target]) -> None:
        """Steps may have exported and unexported, or closed the network, while the portal was coming back."""
        with self._tools.database.read() as tx:
            served = records.networks.find(tx, id=network.id, state=ObjectState.READY)
        if served is None:
            self._tools.export.remove_portal(portal)
            return
        wanted = {target.iqn: target for target in exported_targets(self._tools, network)}
        known = {target.iqn for target in brought_back}
        for iqn in known - wanted.keys():
            self._tools.export.remove(portal, iqn)
        for iqn in wanted.keys() - known:
            self._tools.export.ensure(portal, wanted[iqn])

    @contextmanager
    def _trouble_said_once(self, what: str) -> Iterator[None]:
        try:
            yield
        except BmiError as error:
            self._say(what, str(error))
        else:
            self._say(what, "")

    def _say(self, what: str, trouble: str) -> None:
        """Logs a change, not every round of the same."""
        if self._troubles.get(what, "") != trouble:
            log.log(logging.ERROR if trouble else logging.INFO, "%s: %s", what, trouble or "well again")
            self._troubles[what] = trouble
