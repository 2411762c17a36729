"""Keeps what should always be there: BMI's foot in every network and the portal that serves it.

An exporter that died is back, with everything it exported, before the nodes' patience ends.
"""

import logging
import threading
from collections import defaultdict

from bmi.domain.nouns import Network, ObjectState, Volume
from bmi.errors import BmiError
from bmi.store import operations as journal
from bmi.store import records
from bmi.workflow.steps.networks import foot_of
from bmi.workflow.targets import portal_of, target_of
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
        present = set(self._tools.uplink.list()) if uplinks else {n.netns for n in networks}
        for network in networks:
            try:
                self._look_at(network, exported[network.id], has_foot=network.netns in present)
            except BmiError as error:
                self._say(network.name, str(error))
            else:
                self._say(network.name, "")

    def _look_at(self, network: Network, volumes: list[Volume], *, has_foot: bool) -> None:
        if not has_foot:
            self._tools.uplink.ensure(foot_of(network))
            log.warning("The foot in network %s was gone and is back", network.name)
        targets = [target_of(self._tools, volume) for volume in volumes]
        if self._tools.export.ensure_portal(portal_of(self._tools, network), targets):
            log.warning("The portal of network %s was down; %d targets are back", network.name, len(targets))

    def _say(self, network: str, trouble: str) -> None:
        """Logs a change, not every round of the same."""
        if self._troubles.get(network, "") != trouble:
            log.log(
                logging.ERROR if trouble else logging.INFO, "Network %s: %s", network, trouble or "well again"
            )
            self._troubles[network] = trouble
