"""A whole BMI in a directory, with fake drivers: what tests of the request side stand on."""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from bmi.config import ImageSettings, ServerSettings, Settings
from bmi.domain.nouns import Actor, Image, Json, ObjectState, Role
from bmi.domain.operations import Operation
from bmi.drivers import load
from bmi.drivers.bmc import BmcAccess
from bmi.drivers.bmc.fake import FakeBmc
from bmi.drivers.faults import FakeWorld
from bmi.drivers.storage import Storage
from bmi.drivers.switch import Switch
from bmi.service import access, allocation, nodes, projects, switches
from bmi.service.core import Core, OperationView
from bmi.store import operations as journal
from bmi.store import records, schema
from bmi.store.database import Database, connect
from bmi.store.ids import new_id
from bmi.store.vault import Vault
from bmi.workflow.engine import Engine
from bmi.workflow.ports import Keeper
from bmi.workflow.steps import OUTCOMES, STEPS
from bmi.workflow.steps.nodes import set_free
from bmi.workflow.tools import Tools

SITE = Actor("admin", Role.ADMIN, None)
BMC_PASSWORD = "bmc-pa55-word"
BMC_HOST = "bmc.example.net"


class _BootingBmc(FakeBmc):
    """Says which node it powered on: the last part of the BMC's address."""

    def __init__(self, world: FakeWorld, password: str, powered_on: Callable[[str], None]) -> None:
        super().__init__(world, password)
        self._powered_on = powered_on

    def power_on(self, access: BmcAccess) -> None:
        super().power_on(access)
        self._powered_on(access.address.rpartition("/")[2])


class Site:
    """Use cases over a database, and a worker that runs when a test says so (`settle`). The storage is a fake
    in the directory unless another is given.
    """

    seen_of_a_boot: tuple[str, ...] = ("up",)

    def __init__(self, database: Database, directory: Path, storage: Storage | None = None) -> None:
        settings = Settings(server=ServerSettings(data_dir=directory), image=ImageSettings(max_size_gib=1))
        self.database = database
        self.directory = directory
        self.uploads = directory / "uploads"
        self.uploads.mkdir(parents=True, exist_ok=True)
        self.core = Core(database, Vault.at(directory / "secrets.key"), settings)
        self.fakes: dict[str, Any] = {
            kind: load(kind, "fake")(root=str(directory / kind)) for kind in ("export", "uplink")
        }
        self.fakes["storage"] = storage or load("storage", "fake")(root=str(directory / "storage"))
        self.bmc = _BootingBmc(FakeWorld(directory / "bmc"), BMC_PASSWORD, self._powered_on)
        self._boots: set[str] = set()
        self.switch = load("switch", "fake")(root=str(directory / "switch"))
        self.engine = Engine(database, STEPS, OUTCOMES, self._tools(settings), owner="test", threads=4)

    def _tools(self, settings: Settings) -> Tools:
        return Tools(
            database=self.database,
            bmc=lambda _name: self.bmc,
            switch=self._open_switch,
            vault=self.core.vault,
            data_dir=self.directory,
            iqn_prefix=settings.export.iqn_prefix,
            portal_port=settings.export.port,
            boot_timeout_s=60,
            max_image_bytes=settings.image.max_size_gib << 30,
            convert_timeout_s=60,
            reserve_gib=1,
            reserve_percent=2,
            **self.fakes,
        )

    def _open_switch(self, driver: str, options: Json) -> Switch:
        fake: Switch = self.switch
        made: Switch = fake if driver == "fake" else load("switch", driver)(**options)
        return made

    def close(self) -> None:
        self.engine._pool.shutdown()

    # ---- letting things happen ----------------------------------------------------------------------

    def settle(self, *came_up: str) -> None:
        """Lets the worker do everything there is to do; the nodes that `came_up` boot when powered on."""
        self.will_boot(*came_up)
        with self.keeping():
            self.engine.run_until_idle(timeout_s=20)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """A keeper of switch ports beside what is in the block."""
        keeper = Keeper(self.engine._tools, owner="test", poll_s=0.005)
        thread = threading.Thread(target=keeper.run)
        thread.start()
        try:
            yield
        finally:
            keeper.stop()
            thread.join()

    def will_boot(self, *names: str) -> None:
        """From now on these nodes, and no others, come up when they are powered on."""
        self._boots = set(names)

    @contextmanager
    def working(self) -> Iterator[None]:
        """A worker that runs beside what is in the block."""
        ended = threading.Event()

        def work() -> None:
            while not ended.wait(0.01):
                self.engine.claim_and_advance()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            with self.keeping():
                yield
        finally:
            ended.set()
            thread.join()

    def _powered_on(self, name: str) -> None:
        if name in self._boots:
            with self.database.write() as tx:
                node = records.nodes.find(tx, name=name)
                assert node is not None
                for stage in self.seen_of_a_boot:
                    journal.add_event(tx, node_id=node.id, operation_id=None, at=self.core.now(), stage=stage)

    def operation(self, operation_id: str) -> Operation:
        with self.database.read() as tx:
            return journal.operations.get(tx, operation_id)

    # ---- furniture ----------------------------------------------------------------------------------

    def token(self, name: str, project: str | None = None, role: Role | None = None) -> str:
        return access.create_token(self.core, SITE, name, project=project, role=role).secret

    def actor(self, name: str, project: str | None = None) -> Actor:
        return access.authenticate(self.core, self.token(name, project))

    def project(self, name: str) -> None:
        projects.create_project(self.core, SITE, name)
        self.settle()

    def add_switch(self, name: str = "sw1") -> None:
        switches.register_switch(self.core, SITE, name, driver="fake", options={})

    def register(self, name: str, number: int, *, switch: str | None = None) -> OperationView:
        said = nodes.Registration(
            name=name,
            mac=f"52:54:00:00:00:{number:02x}",
            bmc=f"fake+https://{BMC_HOST}/{name}",
            bmc_username="root",
            bmc_password=BMC_PASSWORD,
            switch=switch,
            port=f"port{number}" if switch else None,
        )
        return nodes.register_node(self.core, SITE, said)

    def add_nodes(self, *names: str, switch: str | None = None) -> None:
        """Free nodes; their MAC addresses count up."""
        with self.database.read() as tx:
            first = len(records.nodes.list(tx)) + 1
        for number, name in enumerate(names, start=first):
            self.register(name, number, switch=switch)
        self.settle()

    def add_image(self, name: str, project: str | None = None, *, public: bool = False) -> str:
        """An image that is ready, or its next version; returns its id."""
        storage = self.fakes["storage"]
        with self.database.write() as tx:
            owner = records.projects.find(tx, name=project) if project else None
            version = len(records.images.list(tx, name=name, project_id=owner.id if owner else None)) + 1
            image = Image(
                id=new_id(),
                name=name,
                project_id=owner.id if owner else None,
                public=public,
                state=ObjectState.READY,
                format="raw",
                size_bytes=4096,
                sha256="0" * 64,
                boot={},
                created_at=self.core.now(),
                version=version,
                last_version=version,
            )
            records.images.insert(tx, image)
        storage.staging_path(image.id).write_bytes(bytes(4096))
        storage.commit_image(image.id)
        return image.id

    def give(self, project: str | None, *names: str) -> None:
        """These nodes are the project's, or nobody's, whosever they were."""
        with self.database.write() as tx:
            owner = records.projects.find(tx, name=project) if project else None
            for name in names:
                node = records.nodes.find(tx, name=name)
                assert node is not None
                if owner is None:
                    set_free(tx, node.id)
                elif node.project_id != owner.id:
                    allocation.give(self.core, tx, node.id, owner)

    def provision(self, node: str, project: str, image: str = "debian-12") -> OperationView:
        """An active node of the project."""
        self.give(project, node)
        order = nodes.Order(image=image, project=project)
        view = nodes.provision_node(self.core, SITE, node, order)
        self.settle(node)
        return view

    # ---- looking ------------------------------------------------------------------------------------

    def chap_secrets(self) -> list[str]:
        with self.database.read() as tx:
            return [self.core.vault.open(volume.chap_secret) for volume in records.volumes.list(tx)]

    def everything(self) -> dict[str, Sequence[Json]]:
        """All rows of all tables but those that refusals are counted in: to see that nothing has changed."""
        with self.database.read() as tx:
            return {
                table.name: sorted((dict(row._mapping) for row in tx.execute(select(table))), key=repr)
                for table in schema.metadata.sorted_tables
                if table.name not in {"audit", "login_failures"}
            }


@contextmanager
def opened(directory: Path) -> Iterator[Site]:
    """The site in a directory that holds its database (migrated, SQLite) and, perhaps, what it made before."""
    engine = connect(f"sqlite:///{directory / 'bmi.sqlite'}")
    made = Site(Database(engine), directory)
    try:
        yield made
    finally:
        made.close()
        engine.dispose()


# ---- fixtures, for a conftest to import ------------------------------------------------------------


@pytest.fixture(scope="session")
def furnished(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a site with projects red and blue, an image that all may use and three free nodes;
    each test copies it, since making it takes longer.
    """
    directory = tmp_path_factory.mktemp("furnished")
    shutil.copy(migrated_sqlite, directory / "bmi.sqlite")
    with opened(directory) as made:
        made.project("red")
        made.project("blue")
        made.add_image("debian-12", public=True)
        made.add_switch()
        made.add_nodes("n1", "n2", "n3", switch="sw1")
    return directory


@pytest.fixture
def site(furnished: Path, tmp_path: Path) -> Iterator[Site]:
    """A site that a test may do anything to."""
    directory = tmp_path / "site"
    shutil.copytree(furnished, directory)
    with opened(directory) as copy:
        yield copy
