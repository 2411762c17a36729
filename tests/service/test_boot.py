"""The boot desk over a real store: whose boot it is, for how long, and what is written down."""

import json
from dataclasses import dataclass, field

import pytest
from sqlalchemy import Connection, event

from bmi.config import Settings
from bmi.domain.boot import Boot, Foot, Offer
from bmi.domain.nouns import Actor, NodeState, ObjectState, Role
from bmi.domain.plans import PROVISION
from bmi.errors import NotFoundError
from bmi.service.boot import BootDesk
from bmi.service.core import Core
from bmi.store import operations as journal
from bmi.store import records, schema
from bmi.store.database import Database
from bmi.store.vault import Vault
from tests import rows

N1, N2 = "52:54:00:00:00:01", "52:54:00:00:00:02"
RED, BLUE = "network-1", "network-2"
HOME, HOME2 = "10.96.0.10", "10.96.1.10"
KEY = b"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@dataclass
class Hall:
    """Two projects; node n1 is red's and has a volume, n2 is blue's."""

    database: Database
    time: float = rows.NOW
    vault: Vault = field(default_factory=lambda: Vault(KEY))

    def __post_init__(self) -> None:
        self.database.now = lambda: self.time
        self.desk = BootDesk(Core(self.database, self.vault, Settings()))
        with self.database.write() as tx:
            records.projects.insert(tx, rows.project())
            records.projects.insert(tx, rows.project(id="project-2", name="blue"))
            records.networks.insert(tx, rows.network())
            blue = rows.network(
                id=BLUE,
                name="blue",
                project_id="project-2",
                vlan=101,
                address="10.96.1.1/24",
                netns="bmi-101",
            )
            records.networks.insert(tx, blue)
            records.switches.insert(tx, rows.switch())
            boot = {"method": "kernel", "kernel_args": "quiet"}
            records.images.insert(tx, rows.image(boot=boot))
            for number, project, network in ((1, "project-1", RED), (2, "project-2", BLUE)):
                self._add_node(tx, number, project, network)

    def _add_node(self, tx: Connection, number: int, project: str, network: str) -> None:
        node = rows.node(
            id=f"node-{number}", name=f"n{number}", state=NodeState.PROVISIONING, project_id=project
        )
        records.nodes.insert(tx, node)
        mac = f"52:54:00:00:00:0{number}"
        nic = rows.nic(id=f"nic-{number}", node_id=node.id, mac=mac, port=f"eth{number}")
        records.nics.insert(tx, nic)
        ip = f"10.96.{number - 1}.10"
        tx.execute(schema.addresses.insert().values(nic_id=nic.id, network_id=network, ip=ip))
        volume = rows.volume(
            id=f"volume-{number}",
            project_id=project,
            node_id=node.id,
            network_id=network,
            state=ObjectState.READY,
            exported=True,
            chap_secret=self.vault.seal(f"chap-{number}"),
            seed={"hostname": node.name, "ssh_keys": ["ssh-ed25519 AAAA me"], "user_data": ""},
        )
        records.volumes.insert(tx, volume)

    def token(self, mac: str = N1, network: str = RED) -> str:
        offer = self.desk.offer(network, mac, "ipxe")
        assert offer is not None
        assert offer.boot_token is not None
        return offer.boot_token

    def stages(self, node_id: str = "node-1") -> list[str]:
        with self.database.read() as tx:
            return [moment.stage for moment in records.events.list(tx, node_id=node_id)]

    def set_node(self, state: NodeState) -> None:
        with self.database.write() as tx:
            records.nodes.update(tx, id="node-1", values={"state": state})

    def set_volume(self, **values: object) -> None:
        with self.database.write() as tx:
            records.volumes.update(tx, id="volume-1", values=values)

    def is_dead(self, token: str, network: str = RED) -> bool:
        before = self.stages()
        with pytest.raises(NotFoundError) as read:
            self.desk.boot(token, network, HOME)
        with pytest.raises(NotFoundError) as wrote:
            self.desk.record(token, network, HOME, "root")
        assert not token or token not in f"{read.value} {read.value.facts} {wrote.value}"
        return self.stages() == before


@pytest.fixture
def hall(database: Database) -> Hall:
    return Hall(database)


# ---- which networks, whose address -----------------------------------------------------------------------


def test_the_networks_that_are_ready_are_served(hall: Hall) -> None:
    with hall.database.write() as tx:
        records.networks.update(tx, id=BLUE, values={"state": ObjectState.CREATING})
    assert hall.desk.feet() == [Foot(RED, "bmi-100", "boot0", "10.96.0.1/24")]


def test_a_firmware_gets_its_address_and_the_token_of_its_boot(hall: Hall) -> None:
    first = hall.desk.offer(RED, N1, "bios")
    assert first is not None
    assert (first.address, first.lease_s) == ("10.96.0.10", 0xFFFFFFFF)
    assert first.boot_token
    assert hall.desk.offer(RED, N1, "ipxe") == first  # one boot, however often it asks
    assert hall.stages() == ["pxe", "dhcp"]


def test_requests_repeated_are_one_event(hall: Hall) -> None:
    for _ in range(5):
        hall.token()
    assert hall.stages() == ["dhcp"]


def test_an_os_gets_its_address_and_begins_no_boot(hall: Hall) -> None:
    assert hall.desk.offer(RED, N1, "os") == Offer("10.96.0.10", None)
    assert hall.stages() == []


@pytest.mark.parametrize(
    "state", [s for s in NodeState if s not in {NodeState.PROVISIONING, NodeState.ACTIVE}]
)
def test_a_node_that_is_not_to_boot_gets_no_token(hall: Hall, state: NodeState) -> None:
    token = hall.token()
    hall.set_node(state)
    assert hall.desk.offer(RED, N1, "ipxe") == Offer("10.96.0.10", None)
    assert hall.is_dead(token)


def test_a_machine_without_an_address_here_is_a_guest(hall: Hall) -> None:
    for mac in ("52:54:00:00:00:99", N2):
        guest = hall.desk.offer(RED, mac, "ipxe")
        assert guest is not None
        assert (guest.boot_token, guest.lease_s) == (None, 120)
        assert guest.address.startswith("10.96.0.")
        assert guest == hall.desk.offer(RED, mac, "bios")
        assert hall.desk.offer(RED, mac, "os") is None
    assert hall.stages("node-2") == []


def test_on_an_unknown_network_nobody_gets_anything(hall: Hall) -> None:
    assert hall.desk.offer("network-9", "52:54:00:00:00:99", "ipxe") is None
    assert hall.desk.offer("network-9", N1, "ipxe") is None


# ---- what a boot may read --------------------------------------------------------------------------------


def test_a_boot_reads_its_own_volume(hall: Hall) -> None:
    boot = hall.desk.boot(hall.token(), RED, HOME)
    assert json.loads(boot.meta_data)["instance-id"] == "volume-1"
    assert boot == Boot(
        method="kernel",
        node="n1",
        portal="10.96.0.1",
        portal_port=3260,
        iqn="iqn.2024-07.internal.bmi:volume-volume-1",
        initiator="iqn.2024-07.internal.bmi:node-node-1",
        chap_user="volume-1",
        chap_secret="chap-1",
        target_user="volume-1-target",
        target_secret=boot.target_secret,
        kernel_args="quiet console=tty0 console=ttyS0,115200n8",
        image_id="image-1",
        hostname="n1",
        meta_data=boot.meta_data,
        user_data="#cloud-config\n{}\n",
    )
    assert len(boot.target_secret) == 24


def test_a_new_secret_of_the_node_brings_a_new_one_of_the_target(hall: Hall) -> None:
    before = hall.desk.boot(hall.token(), RED, HOME).target_secret
    hall.set_volume(chap_secret=hall.vault.seal("chap-3"))
    assert before != hall.desk.boot(hall.token(), RED, HOME).target_secret


def test_what_a_token_opens_goes_to_the_address_of_its_node_and_nowhere_else(hall: Hall) -> None:
    token = hall.token()
    for _ in range(100):
        with pytest.raises(NotFoundError):
            hall.desk.boot(token, RED, "10.96.0.77")
        with pytest.raises(NotFoundError):
            hall.desk.record(token, RED, HOME2, "up")
    assert hall.desk.boot(token, RED, HOME).chap_secret == "chap-1"
    assert hall.stages() == ["dhcp", *["refused"] * 10]
    hall.desk.record(token, RED, HOME, "up")
    with pytest.raises(NotFoundError):
        hall.desk.record(token, RED, "10.96.0.77", "up")
    with hall.database.read() as tx:
        told = {event.detail for event in records.events.list(tx, stage="refused")}
    assert told == {
        f"{address} asked for this boot and is not this node" for address in ("10.96.0.77", HOME2)
    }


def test_a_boot_waits_for_its_volume(hall: Hall) -> None:
    hall.set_volume(exported=False)
    assert hall.desk.boot(hall.token(), RED, HOME) == Boot("wait", "n1")


def test_tokens_are_of_one_node_each(hall: Hall) -> None:
    red, blue = hall.token(), hall.token(N2, BLUE)
    assert red != blue
    assert hall.desk.boot(blue, BLUE, HOME2).chap_secret == "chap-2"


# ---- who may not -----------------------------------------------------------------------------------------


def test_a_token_is_worth_nothing_on_another_network(hall: Hall) -> None:
    assert hall.is_dead(hall.token(), network=BLUE)
    assert hall.is_dead(hall.token(N2, BLUE), network=RED)


def test_a_wrong_token_is_refused_whatever_is_wrong(hall: Hall) -> None:
    token = hall.token()
    session, _, proof = token.partition("-")
    other = hall.token(N2, BLUE).partition("-")[2]
    for wrong in (
        "",
        "-",
        session,
        proof,
        f"{session}-",
        f"{session}-{other}",
        f"{session}-{proof}0",
        f"{proof}-{session}",
    ):
        assert hall.is_dead(wrong)
    for wrong in ("ä", f"{session}-ä", "\0", f"{session}-{proof}\0", "'; --", "x" * 10_000):
        assert hall.is_dead(wrong)


def test_a_wrong_token_asks_the_database_nothing(hall: Hall) -> None:
    token = hall.token()

    def gone(*_: object) -> None:
        raise AssertionError("asked")

    event.listen(hall.database.engine, "before_cursor_execute", gone)
    with pytest.raises(NotFoundError):
        hall.desk.boot(f"{token}0", RED, HOME)
    with pytest.raises(NotFoundError):
        hall.desk.record(f"{token}0", RED, HOME, "up")
    with pytest.raises(AssertionError, match="asked"):
        hall.desk.boot(token, RED, HOME)


def test_a_token_cannot_be_made_without_the_key(hall: Hall) -> None:
    token = hall.token()
    thief = BootDesk(Core(hall.database, Vault(KEY[::-1].replace(b"=", b"") + b"="), Settings()))
    with pytest.raises(NotFoundError):
        thief.boot(token, RED, HOME)


# ---- how a boot ends -------------------------------------------------------------------------------------


def test_up_ends_the_boot_and_its_token(hall: Hall) -> None:
    token = hall.token()
    for stage in ("script", "initramfs", "up"):
        hall.desk.record(token, RED, HOME, stage)
    assert hall.is_dead(token)
    assert hall.stages() == ["dhcp", "script", "initramfs", "up"]


def test_up_may_be_said_again_by_who_did_not_hear_the_answer(hall: Hall) -> None:
    token = hall.token()
    hall.time += 5
    for _ in range(3):
        hall.desk.record(token, RED, HOME, "up")
        hall.time += 5
    assert hall.stages() == ["dhcp", "up"]
    assert hall.is_dead(token)
    hall.token()
    hall.desk.record(token, RED, HOME, "up")  # of the boot before this one
    assert hall.stages() == ["dhcp", "up", "dhcp"]


def test_up_of_a_boot_that_ended_without_is_refused(hall: Hall) -> None:
    token = hall.token()
    hall.time += 900
    with pytest.raises(NotFoundError):
        hall.desk.record(token, RED, HOME, "up")
    next_token = hall.token()  # which ends the one before for good
    hall.time += 5
    hall.desk.record(next_token, RED, HOME, "up")
    with pytest.raises(NotFoundError):
        hall.desk.record(token, RED, HOME, "up")
    assert hall.stages().count("up") == 1


def test_kernel_arguments_may_have_gaps(hall: Hall) -> None:
    with hall.database.write() as tx:
        boot = {"method": "kernel", "kernel_args": "  quiet   splash "}
        records.images.update(tx, id="image-1", values={"boot": boot})
    boot_args = hall.desk.boot(hall.token(), RED, HOME).kernel_args
    assert boot_args == "quiet splash console=tty0 console=ttyS0,115200n8"


def test_the_next_boot_has_a_new_token(hall: Hall) -> None:
    token = hall.token()
    hall.desk.record(token, RED, HOME, "up")
    assert hall.token() != token
    assert hall.is_dead(token)


def test_a_boot_out_of_time_is_over(hall: Hall) -> None:
    token = hall.token()
    hall.time += 899
    assert hall.desk.boot(token, RED, HOME).node == "n1"
    hall.time += 1
    assert hall.is_dead(token)
    assert hall.token() != token
    assert hall.is_dead(token)


def test_up_wakes_the_operation_that_waits_for_it(hall: Hall) -> None:
    actor = Actor("admin", Role.ADMIN, None)
    with hall.database.write() as tx:
        waiting = journal.enqueue(
            tx,
            PROVISION,
            now=hall.time,
            actor=actor,
            subject=("node", "node-1", "n1"),
            project_id="project-1",
            args={},
            idempotency_key=None,
        )
        tx.execute(schema.operations.update().values(wake_at=hall.time + 900))
    hall.time += 5
    token, changed = hall.token(), list[str]()

    def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if statement.startswith("UPDATE"):
            changed.append(statement.split()[1])

    event.listen(hall.database.engine, "before_cursor_execute", note)
    hall.desk.record(token, RED, HOME, "up")
    assert changed == ["operations", "steps", "boot_sessions"]  # as who ends an operation: no circle of locks
    with hall.database.read() as tx:
        assert journal.operations.get(tx, waiting.id).wake_at == hall.time
        assert {moment.operation_id for moment in records.events.list(tx)} == {waiting.id}


# ---- what cannot be overdone -----------------------------------------------------------------------------


def test_a_boot_that_repeats_itself_does_not_fill_the_database(hall: Hall) -> None:
    token = hall.token()
    for number in range(250):
        hall.desk.record(token, RED, HOME, "failed", f"attempt {number}")
        hall.desk.offer(RED, N1, "bios" if number % 2 else "ipxe")
    assert len(hall.stages()) == 200
    hall.desk.record(token, RED, HOME, "up")
    assert hall.stages()[-1] == "up"
    hall.time += 1
    assert hall.token() != token
    assert hall.stages()[-1] == "dhcp"


def test_a_long_detail_is_cut(hall: Hall) -> None:
    hall.desk.record(hall.token(), RED, HOME, "failed", "x" * 2000)
    with hall.database.read() as tx:
        assert max(len(moment.detail) for moment in records.events.list(tx)) == 500
