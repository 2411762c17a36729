"""One project with one node in a fake world, written down as the service does it."""

import functools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from sqlalchemy import Connection, RowMapping, select

from bmi.domain.nouns import Actor, Attachment, Network, NodeState, ObjectState, Port, Role
from bmi.domain.plans import PLANS
from bmi.drivers.bmc import BmcAccess
from bmi.drivers.bmc import fake as fake_bmc
from bmi.drivers.export import fake as fake_export
from bmi.drivers.faults import FakeWorld
from bmi.drivers.storage import Ref
from bmi.drivers.storage import fake as fake_storage
from bmi.drivers.switch import CLOSED, PortConfig
from bmi.drivers.switch import fake as fake_switch
from bmi.drivers.uplink import fake as fake_uplink
from bmi.store import operations as journal
from bmi.store import records, schema
from bmi.store.database import Database
from bmi.store.vault import Vault
from bmi.workflow.engine import Engine
from bmi.workflow.ports import Keeper
from bmi.workflow.steps.networks import foot_of
from bmi.workflow.targets import portal_of, target_of
from bmi.workflow.tools import Tools
from tests import rows

_BMC_PASSWORD = "calvin"
_CHAP_SECRET = "0123456789abcdef01234567"
_IMAGE_BYTES = b"golden" * 100
_ADMIN = Actor("admin", Role.ADMIN, None)
_KEY = Fernet.generate_key()


class World:
    """Fake drivers that keep their state below `root`, for one database."""

    def __init__(self, database: Database, root: Path, *, boot_timeout_s: float = 60) -> None:
        self.database = database
        self.root = root
        self.storage = fake_storage.create(root=str(root / "storage"))
        self.export = fake_export.create(root=str(root / "export"))
        self.uplink = fake_uplink.create(root=str(root / "uplink"))
        self.bmc = fake_bmc.create(root=str(root / "bmc"), password=_BMC_PASSWORD)
        self.switch = fake_switch.create(root=str(root / "switch"))
        self.tools = Tools(
            database=database,
            storage=self.storage,
            export=self.export,
            uplink=self.uplink,
            bmc=lambda _driver: self.bmc,
            switch=lambda _driver, _options: self.switch,
            vault=Vault(_KEY),
            data_dir=root / "data",
            iqn_prefix="iqn.2024-07.internal.bmi",
            portal_port=3260,
            boot_timeout_s=boot_timeout_s,
            max_image_bytes=1 << 30,
            convert_timeout_s=60,
            reserve_gib=1,
            reserve_percent=2,
        )

    def found(self) -> Network:
        """A project with its network served, an image, a switch, and a free node."""
        vault = self.tools.vault
        with self.database.write() as tx:
            records.projects.insert(tx, rows.project())
            network = records.networks.insert(tx, rows.network())
            records.switches.insert(tx, rows.switch())
            records.nodes.insert(tx, rows.node(bmc_password=vault.seal(_BMC_PASSWORD)))
            records.nics.insert(tx, rows.nic())
            image = records.images.insert(tx, rows.image(size_bytes=len(_IMAGE_BYTES)))
        self.storage.staging_path(image.id).write_bytes(_IMAGE_BYTES)
        self.storage.commit_image(image.id)
        self.uplink.ensure(foot_of(network))
        self.export.ensure_portal(portal_of(self.tools, network), [])
        return network

    def give(self, tx: Connection, **volume: Any) -> None:
        """What the service writes down for a provision, beside the operation."""
        records.volumes.insert(
            tx,
            rows.volume(
                chap_secret=self.tools.vault.seal(_CHAP_SECRET), size_bytes=len(_IMAGE_BYTES), **volume
            ),
        )
        tx.execute(schema.addresses.insert().values(nic_id="nic-1", network_id="network-1", ip="10.96.0.10"))
        provisioning = {"state": NodeState.PROVISIONING, "project_id": "project-1"}
        records.nodes.update(tx, id="node-1", values=provisioning)

    def ask(self, kind: str) -> str:
        """Enqueues an operation on the node or its volume, which is there first unless it is to be made."""
        subject, args = ("node", "node-1", "n1"), dict[str, Any]()
        if kind == "provision":
            with self.database.write() as tx:
                self.give(tx)
        else:
            args = self._prepare(kind)
        if kind in {"flatten", "delete-volume", "roll-back-volume"}:
            subject = ("volume", "volume-1", "n1")
        with self.database.write() as tx:
            return journal.enqueue(
                tx,
                PLANS[kind],
                now=self.database.now(),
                actor=_ADMIN,
                subject=subject,
                project_id="project-1",
                args=args,
            ).id

    def _prepare(self, kind: str) -> dict[str, Any]:
        """What there is when the operation is asked for; returns its arguments."""
        args: dict[str, Any] = {"volume_id": "volume-1"}
        with self.database.write() as tx:
            self.give(tx, state=ObjectState.READY, exported=True)
            self.open_port(tx)
            if kind in {"release", "detach"}:
                records.nodes.update(tx, id="node-1", values={"state": NodeState.RELEASING})
            elif kind != "attach":
                records.nodes.update(tx, id="node-1", values={"state": NodeState.ACTIVE})
            if kind == "snapshot":
                records.snapshots.insert(tx, rows.snapshot(state=ObjectState.CREATING, volume_id="volume-1"))
            elif kind == "roll-back":
                records.snapshots.insert(tx, rows.snapshot(volume_id="volume-1"))
        self.bring_up()
        if kind in {"snapshot", "roll-back"}:
            args["snapshot_id"] = "snapshot-1"
        if kind == "roll-back":
            self.storage.snapshot("volume-1", "snapshot-1")
            Path(self.storage.backing("volume-1").location).write_bytes(b"written since")
            self.bmc.power_off(BmcAccess(rows.node().bmc_address, password=_BMC_PASSWORD))
        elif kind in {"attach", "delete-volume"}:
            self._detach(attached=kind == "attach")
        return args

    def open_port(self, tx: Connection) -> None:
        """The port of a node that is on its network, as the rows have it."""
        records.attachments.insert(tx, Attachment("nic-1", "network-1", tagged=False))
        records.nics.update(tx, id="nic-1", values={"open": True})
        open_port = Port("port-1", "switch-1", "eth1", 1, 1, {"native": 100, "tagged": []}, rows.NOW)
        records.ports.insert(tx, open_port)

    def keeper(self, owner: str, lease_s: float = 15, hook: Callable[[str], None] = lambda _: None) -> Keeper:
        return Keeper(self.tools, owner=owner, lease_s=lease_s, poll_s=0.005, hook=hook)

    @contextmanager
    def working(self, engine: Engine, keeper: Keeper | None = None) -> Iterator[Engine]:
        """An engine, with a keeper beside it; both have ended when the block ends."""
        keeper = keeper or self.keeper("keeper")
        thread = threading.Thread(target=keeper.run)
        thread.start()
        try:
            yield engine
        finally:
            engine._pool.shutdown(wait=True)
            keeper.stop()
            thread.join()

    def _detach(self, *, attached: bool) -> None:
        """As a release that kept the volume has left the world; `attached` again, but not yet there."""
        with self.database.write() as tx:
            network, volume = records.networks.get(tx, "network-1"), records.volumes.get(tx, "volume-1")
            records.volumes.update(tx, id=volume.id, values={"exported": False})
            records.nics.update(tx, id="nic-1", values={"open": False})
            records.ports.update(tx, values={"applied": {"native": None, "tagged": []}})
            if not attached:
                records.volumes.update(tx, id=volume.id, values={"node_id": None})
                tx.execute(schema.addresses.delete())
                tx.execute(schema.attachments.delete())
                records.nodes.update(tx, id="node-1", values={"state": NodeState.ALLOCATED})
        self.export.remove(portal_of(self.tools, network), target_of(self.tools, volume).iqn)
        self.switch.apply({"eth1": CLOSED})
        self.bmc.power_off(BmcAccess(rows.node().bmc_address, password=_BMC_PASSWORD))

    def bring_up(self) -> None:
        """The outside of an active node."""
        with self.database.read() as tx:
            network, volume = records.networks.get(tx, "network-1"), records.volumes.get(tx, "volume-1")
        self.storage.clone(Ref("image", "image-1"), volume.id)
        self.export.ensure(portal_of(self.tools, network), target_of(self.tools, volume))
        self.switch.apply({"eth1": PortConfig(network.vlan)})
        self.bmc.power_on(BmcAccess(rows.node().bmc_address, password=_BMC_PASSWORD))

    def report_up(self) -> None:
        """As the service does when the node's system says that it is up; once."""
        with self.database.write() as tx:
            if records.events.find(tx, stage="up") is None:
                now = self.database.now()
                journal.add_event(tx, node_id="node-1", operation_id=None, at=now, stage="up")
                journal.wake(tx, "node-1", now)

    def cancel(self) -> None:
        """As the service does when somebody cancels the node's operation; once."""
        with self.database.write() as tx:
            live = journal.live_on(tx, "node-1")
            if live and not live.cancel_requested:
                journal.operations.update(tx, id=live.id, values={"cancel_requested": True})
                journal.wake_operation(tx, live.id, self.database.now())

    def final_state(self) -> dict[str, Any]:
        """Everything that is known and everything that is, without times and the ids made on the way."""
        with self.database.read() as tx:
            known = {
                table.name: sorted((_comparable(row._mapping) for row in tx.execute(select(table))), key=str)
                for table in schema.metadata.sorted_tables
                if table is not schema.events
            }
            stages = sorted(set(tx.scalars(select(schema.events.c.stage))))
        worlds = {
            "storage": "objects",
            "export": "portals",
            "uplink": "feet",
            "bmc": "nodes",
            "switch": "ports",
        }
        found = {place: self._read(place, table) for place, table in worlds.items()}
        files = {path.name: path.read_bytes() for path in (self.root / "storage" / "bytes").iterdir()}
        return {"known": known, "stages": stages, "found": found, "files": files}

    def _read(self, place: str, table: str) -> Any:
        text = json.dumps(FakeWorld(self.root / place).read(table))
        return json.loads(text.replace(str(self.root), ""))


def _comparable(row: RowMapping) -> dict[str, Any]:
    differs = {"id", "operation_id", "bmc_password", "chap_secret", "wake_at"}
    return {name: _timeless(value) for name, value in row.items() if name not in differs}


@functools.singledispatch
def _timeless(value: Any) -> Any:
    return value


@_timeless.register
def _(value: float) -> str:
    return "a time"


@_timeless.register
def _(value: dict) -> dict[str, Any]:  # type: ignore[type-arg]  # singledispatch wants the bare class
    return {name: _timeless(part) for name, part in value.items() if name not in {"operation", "detail"}}
