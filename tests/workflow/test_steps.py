"""What the real steps do to rows and to the world, beyond what the kill tests show."""

from dataclasses import replace
from pathlib import Path

import pytest

from bmi.domain.nouns import BootSession, NodeState, ObjectState
from bmi.domain.operations import OperationState
from bmi.domain.plans import PLANS
from bmi.drivers.storage import Ref
from bmi.store import operations as journal
from bmi.store import records
from bmi.workflow.engine import Context, Engine, Wait
from bmi.workflow.steps import OUTCOMES, STEPS
from bmi.workflow.steps.nodes import await_up
from tests.workflow.world import World


def run(world: World) -> None:
    engine = Engine(world.database, STEPS, OUTCOMES, world.tools, owner="worker", threads=4)
    with world.working(engine):
        engine.run_until_idle(20)


def test_every_plan_is_made_of_known_steps_and_has_an_outcome() -> None:
    assert set(OUTCOMES) == set(PLANS)
    assert {step.name for plan in PLANS.values() for step in plan.steps} == set(STEPS)


def test_a_step_of_an_undoable_plan_leaves_nothing_or_is_undone() -> None:
    harmless = {"power_off", "set_network_boot", "await_up", "require_off", "roll_back_volume"}
    for plan in PLANS.values():
        if plan.undoable:
            assert {step.name for step in plan.steps if STEPS[step.name].undo is None} <= harmless


def test_an_up_of_an_earlier_boot_does_not_count(world: World) -> None:
    made = world.ask("provision")
    with world.database.write() as tx:
        operation = journal.operations.get(tx, made)
        journal.add_event(tx, node_id="node-1", operation_id=None, at=operation.created_at + 1, stage="up")
    since = operation.created_at + 2
    context = Context(operation, {"power_on": {"since": since}}, world.database.now(), world.tools)

    assert isinstance(await_up(context), Wait)
    with world.database.write() as tx:
        journal.add_event(tx, node_id="node-1", operation_id=None, at=since + 1, stage="up")
    found = await_up(context)
    assert isinstance(found, dict)
    assert found["up_at"] == since + 1


def test_a_disk_that_starts_its_own_boot_loader_is_up_when_the_firmware_has_its_script(world: World) -> None:
    """Nothing in it could ever report `up`; it must not be taken for dead."""
    made = world.ask("provision")
    with world.database.write() as tx:
        records.images.update(tx, values={"boot": {"method": "sanboot"}})
        operation = journal.operations.get(tx, made)
    context = Context(operation, {"power_on": {"since": 0.0}}, world.database.now(), world.tools)

    waiting = await_up(context)
    assert isinstance(waiting, Wait)
    assert waiting.until <= world.database.now() + 1
    with world.database.write() as tx:
        journal.add_event(tx, node_id="node-1", operation_id=None, at=1.0, stage="script")
    assert isinstance(await_up(context), dict)


def test_no_boot_of_a_node_outlives_its_provision(world: World) -> None:
    """The token of a disk that cannot report would otherwise stay good, and with it its CHAP secret."""
    made = world.ask("provision")
    with world.database.write() as tx:
        records.images.update(tx, values={"boot": {"method": "sanboot"}})
        operation = journal.operations.get(tx, made)
        later = operation.created_at + 60
        records.boot_sessions.insert(tx, BootSession("boot-1", "node-1", later, later + 900, None))
        journal.add_event(tx, node_id="node-1", operation_id=made, at=later, stage="script")
    run(world)
    with world.database.read() as tx:
        assert records.nodes.get(tx, "node-1").state is NodeState.ACTIVE
        assert records.boot_sessions.get(tx, "boot-1").ended_at is not None


def test_a_node_that_never_came_up_is_told_where_it_was_last_seen(world: World) -> None:
    world.tools = replace(world.tools, boot_timeout_s=0)
    made = world.ask("provision")
    run(world)

    with world.database.read() as tx:
        operation = journal.operations.get(tx, made)
        node = records.nodes.get(tx, "node-1")
    assert operation.state is OperationState.FAILED
    assert operation.problem is not None
    assert operation.problem["stage"] == "power-on"
    assert "it never asked for an address" in operation.problem["detail"]
    assert node.state is NodeState.ERROR
    assert node.problem == operation.problem | {"operation": made}


def test_a_cancelled_provision_that_cannot_be_undone_keeps_the_node_for_a_release(world: World) -> None:
    made = world.ask("provision")
    world.cancel()
    with world.database.write() as tx:  # as if it had got so far
        for step in journal.steps_of(tx, made)[:4]:
            journal.change_step(tx, made, step.seq, state="done", started_at=world.database.now())
        world.open_port(tx)
    world.bring_up()
    world.switch.world.set_fault("apply", error="The switch is away.", retryable=False)
    run(world)

    with world.database.read() as tx:
        node = records.nodes.get(tx, "node-1")
        assert journal.operations.get(tx, made).state is OperationState.FAILED
        assert records.volumes.find(tx, node_id="node-1") is not None
    assert (node.state, node.project_id) == (NodeState.ERROR, "project-1")
    assert node.problem is not None
    assert node.problem["detail"] == "The switch is away."


def test_secrets_are_in_no_step_and_no_operation(world: World) -> None:
    made = world.ask("release")
    run(world)
    with world.database.read() as tx:
        written = str(journal.operations.get(tx, made)) + str(journal.steps_of(tx, made))
    assert "calvin" not in written
    assert "0123456789abcdef" not in written


def test_a_failed_provision_can_be_retried_from_the_beginning(world: World) -> None:
    patient = world.tools
    world.tools = replace(patient, boot_timeout_s=0)
    made = world.ask("provision")
    run(world)
    assert world.storage.world.read("objects").keys() == {Ref("image", "image-1").outside_name}

    world.tools = patient
    with world.database.write() as tx:  # as the service does it
        journal.reset_steps(tx, made, state="pending")  # type: ignore[arg-type]  # a StrEnum's value
        values = {"state": OperationState.QUEUED, "problem": None, "wake_at": world.database.now()}
        journal.operations.update(tx, id=made, values=values)
    engine = Engine(
        world.database,
        STEPS,
        OUTCOMES,
        world.tools,
        owner="worker",
        hook=lambda step, moment: world.report_up() if (step, moment) == ("await_up", "done") else None,
    )
    with world.working(engine):
        engine.run_until_idle(20)

    with world.database.read() as tx:
        assert records.nodes.get(tx, "node-1").state is NodeState.ACTIVE
        volume = records.volumes.get(tx, "volume-1")
    assert (volume.state, volume.exported) == (ObjectState.READY, True)


@pytest.mark.parametrize("fault", ["The store is away.", ""], ids=["kept", "deleted"])
def test_a_retry_never_boots_a_volume_that_was_used(world: World, fault: str) -> None:
    """The first try booted from it and failed; its undo may have failed as well."""
    world.tools = replace(world.tools, boot_timeout_s=0)
    made = world.ask("provision")
    disk = Path(world.storage.backing("volume-1").location)

    def use(step: str, moment: str) -> None:
        if (step, moment) == ("await_up", "before"):
            disk.write_bytes(b"used")
            if fault:
                world.storage.world.set_fault("delete", error=fault, retryable=False)

    engine = Engine(world.database, STEPS, OUTCOMES, world.tools, owner="worker", hook=use)
    with world.working(engine):
        engine.run_until_idle(20)
    with world.database.read() as tx:
        operation = journal.operations.get(tx, made)
    world.storage.world.set_fault("delete")
    STEPS["clone_volume"].do(Context(operation, {}, world.database.now(), world.tools))

    assert disk.read_bytes() != b"used"


def test_cloning_does_not_touch_a_volume_that_is_served_or_ready(world: World) -> None:
    made = world.ask("provision")
    world.storage.clone(Ref("image", "image-1"), "volume-1")
    disk = Path(world.storage.backing("volume-1").location)
    disk.write_bytes(b"in use")
    with world.database.read() as tx:
        context = Context(journal.operations.get(tx, made), {}, 0, world.tools)
    for values in ({"exported": True}, {"exported": False, "state": ObjectState.READY}):
        with world.database.write() as tx:
            records.volumes.update(tx, id="volume-1", values=values)
        STEPS["clone_volume"].do(context)
        assert disk.read_bytes() == b"in use"


@pytest.mark.parametrize("kind", ["provision", "release"])
def test_a_node_without_a_switch_port_is_handled_too(world: World, kind: str) -> None:
    with world.database.write() as tx:
        records.nics.update(tx, id="nic-1", values={"switch_id": None, "port": None})
    made = world.ask(kind)
    world.switch.world.set_fault("apply", error="Never asked.", retryable=False)
    world.tools = replace(world.tools, boot_timeout_s=0)
    run(world)
    with world.database.read() as tx:
        steps = {step.name: step for step in journal.steps_of(tx, made)}
    port = steps["open_port" if kind == "provision" else "close_port"]
    assert port.result == {}


# ---- a store that is away -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("provision", "clone"),
        ("release", "delete"),
        ("detach", "fence"),
        ("snapshot", "snapshot"),
        ("roll-back", "roll_back"),
        ("flatten", "flatten"),
        ("delete-volume", "delete"),
    ],
)
def test_an_operation_waits_for_a_store_that_is_away(world: World, kind: str, call: str) -> None:
    made = world.ask(kind)
    world.storage.world.set_fault(call, error="The store is away.", times=8)
    steps = {name: replace(step, backoff_s=0.001) for name, step in STEPS.items()}
    engine = Engine(world.database, steps, OUTCOMES, world.tools, owner="worker", threads=4, patience_s=0.5)

    def up(step: str, moment: str) -> None:
        if (step, moment) == ("await_up", "done"):
            world.report_up()

    engine._hook = up
    with world.working(engine):
        engine.run_until_idle(20)
    with world.database.read() as tx:
        assert journal.operations.get(tx, made).state is OperationState.SUCCEEDED
        tries = max(step.attempts for step in journal.steps_of(tx, made))
    assert tries == 8


def test_an_operation_does_not_wait_for_ever(world: World) -> None:
    made = world.ask("flatten")
    world.storage.world.set_fault("flatten", error="The store is away.")
    steps = {name: replace(step, backoff_s=0.001) for name, step in STEPS.items()}
    engine = Engine(world.database, steps, OUTCOMES, world.tools, owner="worker", threads=4, patience_s=0.1)
    with world.working(engine):
        engine.run_until_idle(20)
    with world.database.read() as tx:
        operation = journal.operations.get(tx, made)
    assert operation.state is OperationState.FAILED
    assert (operation.problem or {})["detail"] == "The store is away."
