"""One session at a volume: that of its node, the newest. An iSCSI target of tgt lets in whoever has the secret."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select

from bmi.domain.nouns import Network, Volume, iscsi_name
from bmi.drivers.export import Portal, Session
from bmi.store import operations as journal
from bmi.store import records, schema
from bmi.workflow.tools import Tools

log = logging.getLogger(__name__)


class Doorman:
    """Looks at who is logged in on the portals; one thread at a time looks at one of them."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._approved: dict[str, Sequence[Session]] = {}

    def look(self, network: Network, portal: Portal) -> None:
        """Ends the sessions that should not be. A node that starts anew, as its firmware, as Linux, or after a power
        cut, leaves its old session behind and is never kept waiting for it.
        """
        sessions = self._tools.export.sessions(portal)
        if sessions == self._approved.get(network.id, []):
            return
        # Read after the sessions: who is logged in by now is in the rows by now.
        with self._tools.database.read() as tx:
            volumes = records.volumes.list(tx, network_id=network.id, exported=True)
            homes = _homes(tx, network)
        held = {iscsi_name(self._tools.iqn_prefix, "volume", volume.id): volume for volume in volumes}
        served: set[str] = set()
        strays = 0
        for session in sessions:
            volume = held.get(session.iqn)
            # From the portal's own address comes nobody but this machine.
            if volume is None or session.address == portal.address:
                continue
            if session.address in homes[volume.node_id or ""] and session.iqn not in served:
                served.add(session.iqn)
                continue
            strays += 1
            self._tools.export.end_session(portal, session)
            if session.address not in homes[volume.node_id or ""]:
                self._tell(session, volume)
        self._approved[network.id] = [] if strays else sessions

    def _tell(self, session: Session, volume: Volume) -> None:
        detail = f"ended: {session.address} logged in to the volume and is not this node"
        log.warning("Volume %s: %s", volume.name, detail)
        with self._tools.database.write() as tx:
            if volume.node_id and records.nodes.find(tx, id=volume.node_id):
                last = journal.last_event(tx, volume.node_id, 0)
                if not last or last.detail != detail:
                    journal.add_event(
                        tx,
                        node_id=volume.node_id,
                        operation_id=None,
                        at=self._tools.database.now(),
                        stage="intruder",
                        detail=detail,
                    )


def _homes(tx: Connection, network: Network) -> Mapping[str, set[str]]:
    """The addresses of each node in the network."""
    nics, addresses = schema.nics.c, schema.addresses.c
    question = (
        select(nics.node_id, addresses.ip)
        .join(schema.addresses, addresses.nic_id == nics.id)
        .where(addresses.network_id == network.id)
    )
    found: dict[str, set[str]] = defaultdict(set)
    for row in tx.execute(question):
        found[row.node_id].add(row.ip)
    return found
