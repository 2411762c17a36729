"""Which steps may run, and when to look again."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmi.domain.operations import LIVE, Operation, OperationState, Step, StepState, next_due, ready
from bmi.domain.plans import PLANS

NOW = 1000.0


def step(name: str, state: StepState = StepState.PENDING, *after: str, due_at: float = NOW) -> Step:
    return Step(
        operation_id="op",
        seq=0,
        name=name,
        after=after,
        state=state,
        attempts=0,
        due_at=due_at,
        result=None,
        problem=None,
        started_at=None,
        finished_at=None,
    )


@pytest.mark.parametrize("state", StepState)
def test_a_step_runs_until_it_is_done_has_failed_or_was_undone(state: StepState) -> None:
    runs = state in {StepState.PENDING, StepState.RUNNING, StepState.WAITING}
    assert bool(ready([step("a", state)], NOW)) is runs
    assert next_due([step("a", state)]) == (NOW if runs else None)


@pytest.mark.parametrize("state", StepState)
def test_a_step_comes_when_everything_before_it_is_done(state: StepState) -> None:
    last = step("c", StepState.PENDING, "a", "b")
    found = ready([step("a", StepState.DONE), step("b", state), last], NOW)
    assert (last in found) is (state is StepState.DONE)


def test_a_step_comes_when_it_is_due() -> None:
    later = step("a", due_at=NOW + 1)
    assert ready([later], NOW) == []
    assert ready([later], NOW + 1) == [later]


def test_the_next_look_is_at_the_earliest_step_that_could_run() -> None:
    steps = [
        step("done", StepState.DONE, due_at=NOW - 9),
        step("blocked", StepState.PENDING, "late", due_at=NOW),
        step("late", due_at=NOW + 9),
        step("early", StepState.WAITING, due_at=NOW + 5),
    ]
    assert next_due(steps) == NOW + 5
    assert next_due([]) is None


@given(kind=st.sampled_from(sorted(PLANS)), seed=st.integers())
def test_whatever_finishes_first_every_plan_comes_to_its_end_in_order(kind: str, seed: int) -> None:
    chance = Random(seed)
    steps = [step(planned.name, StepState.PENDING, *planned.after) for planned in PLANS[kind].steps]
    finished: list[str] = []
    while runnable := ready(steps, NOW):
        chosen = chance.choice(runnable)
        assert set(chosen.after) <= set(finished)
        finished.append(chosen.name)
        steps = [replace(s, state=StepState.DONE) if s is chosen else s for s in steps]

    assert sorted(finished) == sorted(planned.name for planned in PLANS[kind].steps)


@pytest.mark.parametrize("state", OperationState)
def test_an_operation_is_live_until_it_has_ended(state: OperationState) -> None:
    operation = Operation(
        id="op",
        kind="release",
        state=state,
        subject_kind="node",
        subject_id="node-1",
        subject_name="n1",
        project_id=None,
        actor="admin",
        args={},
        problem=None,
        cancel_requested=False,
        owner=None,
        lease_until=None,
        wake_at=NOW,
        created_at=NOW,
        started_at=None,
        finished_at=None,
    )
    assert operation.is_live is (state in LIVE)
    assert operation.is_live is (state.value in {"queued", "running", "undoing"})
