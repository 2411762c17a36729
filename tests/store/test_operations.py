"""The journal: queueing, leases, fences, wake-ups."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, text

from bmi.domain.nouns import Actor, Role
from bmi.domain.operations import Operation, OperationState, StepState
from bmi.domain.plans import PROMOTE_VOLUME, PROVISION, RELEASE, Plan
from bmi.errors import BusyError
from bmi.store import operations as journal
from bmi.store import records, schema
from bmi.store.database import Database
from tests import rows

NOW = rows.NOW
ALICE = Actor("alice", Role.MEMBER, "project-1", "token-1")


def enqueue(tx: Connection, subject: str = "node-1", plan: Plan = PROVISION, **other: Any) -> Operation:
    values: dict[str, Any] = {"now": NOW, "actor": ALICE, "project_id": None, "args": {}} | other
    return journal.enqueue(tx, plan, subject=("node", subject, subject), **values)


def claim(tx: Connection, owner: str = "a", now: float = NOW, limit: int = 10) -> list[str]:
    return journal.claim(tx, owner=owner, now=now, lease_s=10, limit=limit)


# ---- queueing ---------------------------------------------------------------------------------------


def test_an_operation_is_written_with_the_steps_of_its_plan(database: Database) -> None:
    with database.write() as tx:
        made = enqueue(tx, args={"image": "debian-12"}, project_id="project-1")
    with database.read() as tx:
        assert journal.operations.get(tx, made.id) == made
        steps = journal.steps_of(tx, made.id)

    assert [(step.seq, step.name, step.after) for step in steps] == [
        (seq, step.name, step.after) for seq, step in enumerate(PROVISION.steps)
    ]
    assert {step.state for step in steps} == {StepState.PENDING}
    assert (made.state, made.args, made.actor) == (OperationState.QUEUED, {"image": "debian-12"}, "alice")


def test_an_operation_is_found_by_what_it_has_yet_to_do(database: Database) -> None:
    with database.write() as tx:
        made = enqueue(tx, plan=PROMOTE_VOLUME, args={"volume_id": "volume-1"})
        enqueue(tx, subject="node-2", plan=PROMOTE_VOLUME, args={"volume_id": "volume-2"})
        assert journal.live_before(tx, "snapshot_volume", volume_id="volume-1") == made
        assert journal.live_before(tx, "snapshot_volume", volume_id="volume-3") is None
        [seq] = [s.seq for s in journal.steps_of(tx, made.id) if s.name == "snapshot_volume"]
        journal.change_step(tx, made.id, seq, state=StepState.DONE)
        assert journal.live_before(tx, "snapshot_volume", volume_id="volume-1") is None
        journal.change_step(tx, made.id, seq, state=StepState.RUNNING)
        journal.operations.update(tx, id=made.id, values={"state": OperationState.FAILED})
        assert journal.live_before(tx, "snapshot_volume", volume_id="volume-1") is None


def test_a_subject_has_one_live_operation_and_the_refusal_names_it(database: Database) -> None:
    with database.write() as tx:
        first = enqueue(tx)
        with pytest.raises(BusyError, match=first.id) as refused:
            enqueue(tx, plan=RELEASE)
        assert refused.value.facts["operation"] == first.id

        enqueue(tx, subject="node-2")
        journal.operations.update(tx, id=first.id, values={"state": OperationState.SUCCEEDED})
        enqueue(tx, plan=RELEASE)


def test_the_database_refuses_the_second_operation_even_when_nobody_looked(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "refuse_if_busy", lambda *_: None)
    with database.write() as tx:
        enqueue(tx)
    with pytest.raises(BusyError, match="has just begun"), database.write() as tx:
        enqueue(tx, plan=RELEASE)


def test_of_many_that_ask_at_once_one_gets_the_node(database: Database) -> None:
    together = threading.Barrier(6)

    def ask(_: int) -> str | None:
        together.wait(10)
        try:
            with database.write() as tx:
                return enqueue(tx).id
        except BusyError:
            return None

    with ThreadPoolExecutor(6) as threads:
        got = [made for made in threads.map(ask, range(6)) if made]
    assert len(got) == 1


def test_an_idempotency_key_finds_its_operation_and_is_used_once_per_token(database: Database) -> None:
    with database.write() as tx:
        made = enqueue(tx, idempotency_key="k")
        enqueue(tx, subject="node-2", idempotency_key="k", actor=replace(ALICE, token_id="token-2"))
        found = journal.find_by_idempotency_key(tx, ALICE, "k")
        assert found is not None
        assert found.id == made.id
        assert journal.find_by_idempotency_key(tx, ALICE, "other") is None
    with pytest.raises(BusyError, match="Idempotency-Key"), database.write() as tx:
        enqueue(tx, subject="node-3", idempotency_key="k")


def test_the_steps_of_many_come_with_one_query(database: Database) -> None:
    with database.write() as tx:
        made = [enqueue(tx, subject=f"node-{n}", plan=plan) for n, plan in enumerate([PROVISION, RELEASE])]
        found = journal.steps_of_many(tx, [made[1].id, made[0].id])
        assert found == {operation.id: journal.steps_of(tx, operation.id) for operation in made}
        assert journal.steps_of_many(tx, []) == {}


# ---- leases -----------------------------------------------------------------------------------------


def test_what_is_due_first_is_claimed_first_and_no_more_than_asked_for(database: Database) -> None:
    with database.write() as tx:
        made = [enqueue(tx, subject=f"node-{n}", now=NOW - n).id for n in range(4)]
        assert claim(tx, limit=0) == []
        assert claim(tx, limit=3) == [made[3], made[2], made[1]]
        assert claim(tx, owner="b", limit=3) == [made[0]]
        assert claim(tx, owner="b", limit=3) == []


def test_what_is_not_due_yet_is_left_alone(database: Database) -> None:
    with database.write() as tx:
        made = enqueue(tx, now=NOW + 5)
        assert claim(tx) == []
        assert claim(tx, now=NOW + 5) == [made.id]


def test_an_operation_has_one_owner_however_many_workers_ask(database: Database) -> None:
    with database.write() as tx:
        made = {enqueue(tx, subject=f"node-{n}").id for n in range(40)}
    together = threading.Barrier(5)

    def work(owner: str) -> list[str]:
        together.wait(10)
        mine: list[str] = []
        for _ in range(10):
            with database.write() as tx:
                mine += claim(tx, owner=owner, limit=3)
        return mine

    with ThreadPoolExecutor(5) as threads:
        claimed = [one for mine in threads.map(work, "abcde") for one in mine]
    assert sorted(claimed) == sorted(made)


def test_a_lease_that_ran_out_is_anybodys_and_a_heartbeat_keeps_it(database: Database) -> None:
    with database.write() as tx:
        made = enqueue(tx)
        claim(tx, "a", NOW)
        journal.extend_leases(tx, owner="a", until=NOW + 30)
        assert claim(tx, "b", NOW + 29) == []
        assert claim(tx, "b", NOW + 31) == [made.id]
        journal.extend_leases(tx, owner="a", until=NOW + 99)
        assert claim(tx, "c", NOW + 42) == [made.id]


def test_the_owner_looks_again_before_its_lease_ends_and_when_woken(database: Database) -> None:
    with database.write() as tx:
        made = enqueue(tx)
        claim(tx, "a", NOW)
        assert claim(tx, "a", NOW + 1, limit=0) == []
        journal.wake(tx, "node-1", NOW + 2)
        assert claim(tx, "b", NOW + 2) == []
        assert claim(tx, "a", NOW + 2, limit=0) == [made.id]
        journal.extend_leases(tx, owner="a", until=NOW + 99)
        assert claim(tx, "a", NOW + 12, limit=0) == [made.id]


def test_leases_given_back_are_free_at_once(database: Database) -> None:
    with database.write() as tx:
        made = enqueue(tx)
        claim(tx, "a")
        journal.release_leases(tx, owner="b", now=NOW)
        assert claim(tx, "b") == []
        journal.release_leases(tx, owner="a", now=NOW)
        assert claim(tx, "b") == [made.id]


@pytest.mark.parametrize(
    "write",
    [
        lambda tx, one: journal.load_owned(tx, one, "a"),
        lambda tx, one: journal.change(tx, one, "a", state=OperationState.SUCCEEDED),
        lambda tx, one: journal.park(tx, one, "a", NOW),
    ],
    ids=["load", "change", "park"],
)
@pytest.mark.parametrize("end", ["taken over", "ended"])
def test_a_worker_that_was_thought_dead_changes_nothing(
    database: Database, write: Callable[[Connection, str], object], end: str
) -> None:
    with database.write() as tx:
        made = enqueue(tx)
        claim(tx, "a", NOW)
        if end == "taken over":
            claim(tx, "b", NOW + 11)
        else:
            journal.change(tx, made.id, "a", state=OperationState.FAILED)
        before = journal.operations.get(tx, made.id)
        with pytest.raises(journal.LostLeaseError, match=made.id):
            write(tx, made.id)
        assert journal.operations.get(tx, made.id) == before


def test_a_parked_operation_belongs_to_nobody_until_it_is_due(database: Database) -> None:
    with database.write() as tx:
        made = enqueue(tx)
        claim(tx, "a")
        journal.park(tx, made.id, "a", NOW + 100)
        parked = journal.operations.get(tx, made.id)
        assert (parked.owner, parked.lease_until, parked.wake_at) == (None, None, NOW + 100)
        assert claim(tx, "a", NOW + 99) == []
        assert claim(tx, "b", NOW + 100) == [made.id]


def test_looking_for_work_uses_the_index_of_live_operations(database: Database) -> None:
    """Otherwise each look would read the whole history."""
    if database.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL decides by how large the tables are.")
    with database.write() as tx:
        asked = (
            journal._OPS.select().where(journal._IS_LIVE, journal._OPS.c.wake_at <= NOW).order_by("wake_at")
        )
        statement = asked.compile(tx, compile_kwargs={"literal_binds": True})
        plan = tx.execute(text(f"EXPLAIN QUERY PLAN {statement}")).all()
    assert any("INDEX operations_due" in str(line) for line in plan)


# ---- waking -----------------------------------------------------------------------------------------


def test_waking_makes_the_waiting_due_and_lets_a_running_step_see_it(database: Database) -> None:
    with database.write() as tx:
        made = enqueue(tx)
        states = [StepState.DONE, StepState.RUNNING, StepState.WAITING, StepState.PENDING]
        for seq, state in enumerate(states):
            journal.change_step(tx, made.id, seq, state=state, due_at=NOW + 100)
        journal.wake(tx, "node-1", NOW + 7)

        due = [journal.get_step(tx, made.id, seq).due_at for seq in range(4)]
        assert due == [NOW + 100, NOW + 7, NOW + 7, NOW + 100]
        assert journal.operations.get(tx, made.id).wake_at == NOW + 7


def test_waking_what_has_ended_changes_nothing(database: Database) -> None:
    with database.write() as tx:
        made = enqueue(tx)
        journal.operations.update(tx, id=made.id, values={"state": OperationState.FAILED})
        journal.wake(tx, "node-1", NOW + 7)
        journal.wake_operation(tx, made.id, NOW + 7)
        assert journal.operations.get(tx, made.id).wake_at == NOW


def test_waking_and_checkpointing_at_once_make_no_circle(database: Database) -> None:
    """Both lock the operation before its steps; the other way round PostgreSQL would end one of them."""
    with database.write() as tx:
        made = enqueue(tx)
        claim(tx)
        journal.change_step(tx, made.id, 0, state=StepState.WAITING)

    def wake() -> None:
        for _ in range(30):
            with database.write() as tx:
                journal.wake(tx, "node-1", NOW)

    def checkpoint() -> None:
        for _ in range(30):
            with database.write() as tx:
                journal.load_owned(tx, made.id, "a")
                journal.change_step(tx, made.id, 0, due_at=NOW + 1)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(what) for what in (wake, checkpoint, wake, checkpoint)]:
            done.result(30)


# ---- trying again -----------------------------------------------------------------------------------


def test_resetting_for_a_retry_keeps_what_is_done(database: Database) -> None:
    with database.write() as tx:
        made = enqueue(tx)
        touched = {"attempts": 3, "started_at": NOW, "finished_at": NOW, "result": {"x": 1}, "problem": {}}
        for seq, state in enumerate([StepState.DONE, StepState.FAILED, StepState.UNDONE]):
            journal.change_step(tx, made.id, seq, state=state, **touched)
        journal.reset_steps(tx, made.id, state=StepState.PENDING)
        done, *others = journal.steps_of(tx, made.id)

    assert (done.state, done.result, done.started_at) == (StepState.DONE, {"x": 1}, NOW)
    assert {step.state for step in others} == {StepState.PENDING}
    for step in others:
        assert (step.attempts, step.due_at, step.result, step.problem, step.started_at, step.finished_at) == (
            (0, 0.0) + (None,) * 4
        )


def test_resetting_for_an_undo_forgets_attempts_only(database: Database) -> None:
    with database.write() as tx:
        made = enqueue(tx)
        for seq, state in enumerate([StepState.DONE, StepState.FAILED]):
            journal.change_step(tx, made.id, seq, state=state, attempts=3, due_at=NOW, started_at=NOW)
        journal.reset_steps(tx, made.id)
        steps = journal.steps_of(tx, made.id)[:2]

    assert [step.state for step in steps] == [StepState.DONE, StepState.FAILED]
    assert {(step.attempts, step.due_at, step.started_at) for step in steps} == {(0, 0.0, NOW)}


# ---- the timeline -----------------------------------------------------------------------------------


def test_the_last_event_is_the_newest_since_a_moment(database: Database) -> None:
    with database.write() as tx:
        records.nodes.insert(tx, rows.node())
        for at, stage in ((1.0, "dhcp"), (2.0, "script"), (3.0, "kernel")):
            journal.add_event(tx, node_id="node-1", operation_id=None, at=at, stage=stage)

        last = journal.last_event(tx, "node-1", 2.0)
        assert last is not None
        assert (last.stage, last.at, last.detail) == ("kernel", 3.0, "")
        assert journal.last_event(tx, "node-1", 3.5) is None
        stages = [event.stage for event in records.events.list(tx, schema.events.c.at >= 2.0)]
        assert stages == ["script", "kernel"]
