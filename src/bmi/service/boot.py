"""What an unauthenticated machine on a project's network may learn, and what it may report."""

import hmac
import logging

from sqlalchemy import Connection, func, select

from bmi.domain import boot as booting
from bmi.domain.addressing import guest_address
from bmi.domain.boot import Boot, Firmware, Foot, Offer
from bmi.domain.nouns import BootSession, Node, NodeState, ObjectState, Volume, iscsi_name
from bmi.errors import NotFoundError
from bmi.service.core import Core
from bmi.store import operations as journal
from bmi.store import records, schema
from bmi.store.chap import chap_of
from bmi.store.ids import new_id

log = logging.getLogger(__name__)

_BOOTING = {NodeState.PROVISIONING, NodeState.ACTIVE}
_MAX_DETAIL = 500
_GUEST_LEASE_S = 120
_MAX_STRANGERS = 10_000
# Of one boot: a machine that repeats itself, on purpose or not, must not fill the database.
_MAX_EVENTS = 200
_MAX_REFUSED = 10


class BootDesk:
    """The `netboot.desk.Desk` of this installation."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._strangers: set[tuple[str, str]] = set()  # that the log names, once

    def feet(self) -> list[Foot]:
        """The networks to serve now."""
        with self._core.database.read() as tx:
            networks = records.networks.list(tx, state=ObjectState.READY, boot=True)
        return [Foot(n.id, n.netns, "boot0", n.address) for n in networks]

    def offer(self, network_id: str, mac: str, firmware: Firmware) -> Offer | None:
        """The address of this NIC on this network and, for a firmware, the token of its boot."""
        stage = "dhcp" if firmware == "ipxe" else "pxe"
        with self._core.database.read() as tx:
            found = self._lodger(tx, network_id, mac)
            if found is None:
                return None if firmware == "os" else self._guest(tx, network_id, mac)
            node, address = found
            if firmware == "os" or node.state not in _BOOTING:
                return Offer(address, None)
            session = self._live_session(tx, node.id)
            if session and self._last_stage(tx, session) == stage:  # a request repeated writes nothing
                return Offer(address, self._token(session))
        with self._core.database.write() as tx:
            session = self._open_session(tx, node.id)
            if self._last_stage(tx, session) != stage:
                self._add_event(tx, session, stage, f"address={address} firmware={firmware}")
        return Offer(address, self._token(session))

    def boot(self, token: str, network_id: str, address: str) -> Boot:
        """What the boot behind `token` may read; raises NotFoundError for any other than a live one, and to everybody
        but the node: to a request from another address than the one it got from DHCP.
        """
        node, volume = self._at_home(self._proven(token), network_id, address)
        with self._core.database.read() as tx:
            image = records.images.get(tx, volume.image_id)
            network = records.networks.get(tx, network_id)
        if not volume.exported:
            return Boot("wait", node.name)
        settings, artefacts = self._core.settings, image.boot or {}
        prefix, chap = settings.export.iqn_prefix, chap_of(self._core.vault, volume)
        arguments = f"{artefacts.get('kernel_args', '')} {settings.boot.kernel_args}"
        return Boot(
            method=artefacts.get("method", "sanboot"),
            node=node.name,
            portal=str(network.interface.ip),
            portal_port=settings.export.port,
            iqn=iscsi_name(prefix, "volume", volume.id),
            initiator=iscsi_name(prefix, "node", node.id),
            chap_user=chap.user,
            chap_secret=chap.secret,
            target_user=chap.target_user,
            target_secret=chap.target_secret,
            kernel_args=" ".join(arguments.split()),
            image_id=image.id,
            hostname=volume.seed["hostname"],
            meta_data=booting.meta_data(volume.id, volume.seed),
            user_data=booting.user_data(volume.seed),
        )

    def record(self, token: str, network_id: str, address: str, stage: str, detail: str = "") -> None:
        """Adds a stage to the node's timeline. `up` ends the boot: its token is dead from then on, but for
        the same report once more, from a node that did not hear the answer.
        """
        session_id = self._proven(token)
        if stage == "up" and self._ended_by_up(session_id, network_id, address):
            return
        self._at_home(session_id, network_id, address)
        with self._core.write() as tx:
            node, _, session = self._admit(tx, session_id, network_id)
            if stage == "up":  # first: whoever ends an operation locks it before its boots, too
                journal.wake(tx, node.id, self._core.now())
            self._add_event(tx, session, stage, detail)
            if stage == "up":
                sessions = schema.boot_sessions
                ended = {"ended_at": self._core.now()}
                records.boot_sessions.update(tx, sessions.c.ended_at.is_(None), node_id=node.id, values=ended)

    # ---- inside ---------------------------------------------------------------------------------

    def _lodger(self, tx: Connection, network_id: str, mac: str) -> tuple[Node, str] | None:
        """The node behind a MAC and its address on this network; None for everybody else."""
        nics, addresses = schema.nics, schema.addresses
        row = tx.execute(
            select(nics.c.node_id, addresses.c.ip)
            .join(addresses, addresses.c.nic_id == nics.c.id)
            .where(nics.c.mac == mac, addresses.c.network_id == network_id)
        ).first()
        return (records.nodes.get(tx, row.node_id), row.ip) if row else None

    def _guest(self, tx: Connection, network_id: str, mac: str) -> Offer | None:
        network = records.networks.find(tx, id=network_id)
        if network is None:
            return None
        if (network_id, mac) not in self._strangers and len(self._strangers) < _MAX_STRANGERS:
            self._strangers.add((network_id, mac))
            log.info("Network %s: %s asks to boot but has nothing to boot here", network.name, mac)
        address = guest_address(network.interface, mac, records.addresses_in(tx, network_id))
        return Offer(address, None, lease_s=_GUEST_LEASE_S) if address else None

    def _live_session(self, tx: Connection, node_id: str) -> BootSession | None:
        table = schema.boot_sessions
        return records.boot_sessions.find(
            tx, table.c.ended_at.is_(None), table.c.expires_at > self._core.now(), node_id=node_id
        )

    def _open_session(self, tx: Connection, node_id: str) -> BootSession:
        now = self._core.now()
        table = schema.boot_sessions
        records.nodes.get(tx, node_id, lock=True)
        found = self._live_session(tx, node_id)
        if found:
            return found
        records.boot_sessions.update(
            tx, table.c.ended_at.is_(None), node_id=node_id, values={"ended_at": now}
        )
        expires_at = now + self._core.settings.boot.timeout_s
        return records.boot_sessions.insert(tx, BootSession(new_id(), node_id, now, expires_at, None))

    def _token(self, session: BootSession) -> str:
        """The same for every packet of a boot, so that DHCP's retransmissions get one answer."""
        return f"{session.id}-{self._core.vault.derive(session.id)}"

    def _proven(self, token: str) -> str:
        """The session that a token is for. A wrong one costs always the same and never reaches the database."""
        session_id, _, proof = token.partition("-")
        if not hmac.compare_digest(proof.encode(), self._core.vault.derive(session_id).encode()):
            raise _no_boot()
        return session_id

    def _admit(self, tx: Connection, session_id: str, network_id: str) -> tuple[Node, Volume, BootSession]:
        session = records.boot_sessions.find(tx, id=session_id)
        if session and session.ended_at is None and session.expires_at > self._core.now():
            node = records.nodes.get(tx, session.node_id)
            volume = records.volumes.find(tx, node_id=node.id, network_id=network_id)
            if volume and node.state in _BOOTING:
                return node, volume, session
        raise _no_boot()

    def _at_home(self, session_id: str, network_id: str, address: str) -> tuple[Node, Volume]:
        """The node of a live boot and its volume, when it is the node that asks. Who has its token from somewhere else
        is refused as if there were no such boot, and told of in its timeline.
        """
        with self._core.database.read() as tx:
            node, volume, session = self._admit(tx, session_id, network_id)
            if self._lives_at(tx, node.id, network_id, address):
                return node, volume
        log.warning("The boot of node %s was asked for by %s and refused", node.name, address)
        with self._core.write() as tx:
            self._add_event(tx, session, "refused", f"{address} asked for this boot and is not this node")
        raise _no_boot()

    def _lives_at(self, tx: Connection, node_id: str, network_id: str, address: str) -> bool:
        nics, addresses = schema.nics.c, schema.addresses.c
        question = (
            select(addresses.nic_id)
            .join(schema.nics, nics.id == addresses.nic_id)
            .where(nics.node_id == node_id, addresses.network_id == network_id, addresses.ip == address)
        )
        return tx.execute(question).first() is not None

    def _ended_by_up(self, session_id: str, network_id: str, address: str) -> bool:
        with self._core.database.read() as tx:
            session = records.boot_sessions.find(tx, id=session_id)
            if session is None or session.ended_at is None:
                return False
            at = schema.events.c.at
            within = (at >= session.created_at, at <= session.ended_at)
            was_up = records.events.find(tx, *within, node_id=session.node_id, stage="up") is not None
            return was_up and self._lives_at(tx, session.node_id, network_id, address)

    def _last_stage(self, tx: Connection, session: BootSession) -> str | None:
        last = journal.last_event(tx, session.node_id, session.created_at)
        return last.stage if last else None

    def _add_event(self, tx: Connection, session: BootSession, stage: str, detail: str) -> None:
        table = schema.events
        ours = (table.c.node_id == session.node_id, table.c.at >= session.created_at)
        refused = (*ours, table.c.stage == "refused")
        counted, most = (refused, _MAX_REFUSED) if stage == "refused" else (ours, _MAX_EVENTS)
        told = tx.execute(select(func.count()).select_from(table).where(*counted)).scalar_one()
        if told >= most and stage != "up":
            return
        live = journal.live_on(tx, session.node_id)
        journal.add_event(
            tx,
            node_id=session.node_id,
            operation_id=live.id if live else None,
            at=self._core.now(),
            stage=stage,
            detail=detail[:_MAX_DETAIL],
        )


def _no_boot() -> NotFoundError:
    return NotFoundError("boot", "with this token")
