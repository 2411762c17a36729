"""What the engine promises, whatever the steps do."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from bmi.domain.operations import OperationState, StepState
from bmi.domain.plans import PlannedStep
from bmi.errors import DriverError, InternalError, InUseError, UnavailableError
from bmi.store import operations as journal
from bmi.workflow.engine import Context, Outcome, StepType, Wait
from tests.workflow.bench import PATIENCE_S, Bench, until

NEVER = 1e12


def fails(
    times: int, *, retryable: bool = True, sentence: str = "The device is busy."
) -> Callable[..., None]:
    """A step that fails so many times and succeeds then."""
    left = iter(range(times))

    def run(_context: Context) -> None:
        if next(left, None) is not None:
            raise DriverError(sentence, retryable=retryable)

    return run


# ---- order ------------------------------------------------------------------------------------------


def test_steps_run_in_order_and_see_the_results_of_earlier_ones(bench: Bench) -> None:
    seen: list[dict[str, object]] = []

    def look(context: Context) -> None:
        seen.append({name: dict(result) for name, result in context.results.items()})

    bench.step("first", lambda _: {"size": 7})
    bench.step("second", look)
    made = bench.ask(bench.plan("first", "second"))
    bench.run()

    assert bench.did == ["first", "second"]
    assert seen == [{"first": {"size": 7}}]
    assert bench.ended == [("n1", "succeeded")]
    ended = bench.operation(made)
    assert (ended.state, ended.owner, ended.lease_until, ended.problem) == (
        OperationState.SUCCEEDED,
        None,
        None,
        None,
    )
    assert ended.created_at <= (ended.started_at or 0) <= (ended.finished_at or 0)
    for step in bench.steps_of(made).values():
        assert (step.started_at or 0) <= (step.finished_at or 0)


def test_steps_without_an_order_between_them_overlap(bench: Bench) -> None:
    together = threading.Barrier(2)
    for name in ("left", "right"):
        bench.step(name, lambda _: (together.wait(PATIENCE_S), {})[1])
    joined = PlannedStep("joined", ("left", "right"))
    bench.ask(bench.plan(PlannedStep("left"), PlannedStep("right"), joined))
    bench.run()

    assert bench.ended == [("n1", "succeeded")]
    assert sorted(bench.did[:2]) == ["left", "right"]
    assert bench.did[2:] == ["joined"]


def test_more_operations_than_threads_all_end(bench: Bench) -> None:
    plan = bench.plan("one", "two")
    for number in range(12):
        bench.ask(plan, f"n{number}")
    bench.run(threads=2)

    assert Counter(bench.ended) == Counter({(f"n{number}", "succeeded"): 1 for number in range(12)})
    assert Counter(bench.did) == {"one": 12, "two": 12}


# ---- failure ----------------------------------------------------------------------------------------


def test_a_passing_failure_is_tried_again_later_and_later(bench: Bench) -> None:
    tried: list[float] = []
    fail = fails(2)

    def run(context: Context) -> None:
        tried.append(bench.database.now())
        fail(context)

    bench.step("flaky", run, attempts=3, backoff_s=0.05)
    made = bench.ask(bench.plan("flaky"))
    bench.run()

    assert bench.ended == [("n1", "succeeded")]
    assert tried[1] - tried[0] >= 0.05
    assert tried[2] - tried[1] >= 0.1
    step = bench.steps_of(made)["flaky"]
    assert (step.state, step.attempts, step.problem) == (StepState.DONE, 2, None)


def test_a_retry_does_not_wait_for_a_slow_step_beside_it(bench: Bench) -> None:
    recovered = threading.Event()
    fail = fails(1)

    def flaky(context: Context) -> None:
        fail(context)
        recovered.set()

    bench.step("flaky", flaky)
    bench.step("slow", lambda _: {"beside": recovered.wait(PATIENCE_S)})
    made = bench.ask(bench.plan(PlannedStep("flaky"), PlannedStep("slow")))
    bench.run(lease_s=60)

    assert bench.steps_of(made)["slow"].result == {"beside": True}


def test_what_keeps_failing_is_undone_backwards(bench: Bench) -> None:
    bench.step("third", fails(9), attempts=2)
    made = bench.ask(bench.plan("first", "second", "third", "never"))
    bench.run()

    assert bench.did == ["first", "second", "third", "third", "undo third", "undo second", "undo first"]
    assert bench.ended == [("n1", "The device is busy.")]
    ended = bench.operation(made)
    assert ended.state is OperationState.FAILED
    assert ended.problem is not None
    assert (ended.problem["type"], ended.problem["step"]) == ("urn:bmi:problem:driver", "third")
    states = {name: step.state for name, step in bench.steps_of(made).items()}
    assert states == dict.fromkeys(("first", "second", "third"), StepState.UNDONE) | {"never": "pending"}


def test_a_permanent_failure_is_not_tried_again(bench: Bench) -> None:
    bench.step("bad", fails(9, retryable=False))
    bench.ask(bench.plan("bad"))
    bench.run()

    assert bench.did == ["bad", "undo bad"]


def test_a_failure_waits_for_the_steps_beside_it_before_anything_is_undone(bench: Bench) -> None:
    finished = threading.Event()

    def slow(_context: Context) -> None:
        until(lambda: bench.steps_of(made)["bad"].state is StepState.FAILED)
        finished.set()

    bench.step("slow", slow, undo=lambda _: bench.did.append(f"after slow: {finished.is_set()}"))
    bench.step("bad", fails(9, retryable=False))
    made = bench.ask(bench.plan(PlannedStep("slow"), PlannedStep("bad"), PlannedStep("never", ("slow",))))
    bench.run()

    assert bench.did[2:] == ["undo bad", "undo slow", "after slow: True"]


def test_a_plan_that_only_goes_forward_stops_where_it_is(bench: Bench) -> None:
    bench.step("second", fails(9, retryable=False))
    made = bench.ask(bench.plan("first", "second", "third", undoable=False))
    bench.run()

    assert bench.did == ["first", "second"]
    states = [step.state for step in bench.steps_of(made).values()]
    assert states == [StepState.DONE, StepState.FAILED, StepState.PENDING]
    assert bench.operation(made).state is OperationState.FAILED


def test_an_undo_that_fails_is_tried_again_and_then_left_behind(bench: Bench) -> None:
    bench.step("first", fails(1), undo=fails(2))
    bench.step("second", undo=fails(9, sentence="It does not let go."))
    bench.step("third", undo=fails(9, retryable=False))
    bench.step("bad", fails(9, retryable=False, sentence="No."))
    made = bench.ask(bench.plan("first", "second", "third", "bad"))
    bench.run()

    undone = [what for what in bench.did if what.startswith("undo")]
    assert undone == ["undo bad", "undo third", *["undo second"] * 3, *["undo first"] * 3]
    assert bench.ended == [("n1", "No.")]
    steps = bench.steps_of(made)
    assert {step.state for step in steps.values()} == {StepState.UNDONE}
    left = steps["second"].problem
    assert left is not None
    assert left["detail"] == "It does not let go."
    assert steps["first"].problem is None or not steps["first"].problem.get("undo")


def test_a_defect_becomes_an_internal_problem(bench: Bench) -> None:
    bench.step("broken", lambda _: {"x": 1 // 0})
    made = bench.ask(bench.plan("broken"))
    bench.run()

    problem = bench.operation(made).problem
    assert problem is not None
    assert problem["type"] == "urn:bmi:problem:internal"
    assert "ZeroDivisionError" in problem["detail"]
    assert bench.did == ["broken", "undo broken"]


@pytest.mark.parametrize("result", [{"path": Path("/tmp")}, {"rate": float("nan")}], ids=["object", "NaN"])
def test_a_result_that_cannot_be_written_down_fails_once(bench: Bench, result: dict[str, object]) -> None:
    bench.step("strange", lambda _: result)
    made = bench.ask(bench.plan("strange"))
    bench.run()

    assert bench.did == ["strange", "undo strange"]
    assert "not plain JSON" in (bench.operation(made).problem or {})["detail"]


def test_facts_of_an_error_need_not_be_json(bench: Bench) -> None:
    def run(_context: Context) -> None:
        raise DriverError("No.", retryable=False, path=Path("/dev/sda"), codes={1})

    bench.step("bad", run)
    made = bench.ask(bench.plan("bad"))
    bench.run()

    problem = bench.operation(made).problem or {}
    assert (problem["detail"], problem["path"], problem["codes"]) == ("No.", "PosixPath('/dev/sda')", "{1}")


def test_a_step_that_this_worker_does_not_know_ends_its_operation(bench: Bench) -> None:
    made = bench.ask(bench.plan("first", "second"))
    del bench.steps["second"]
    bench.run()

    assert bench.operation(made).state is OperationState.FAILED
    assert bench.did == ["first", "undo first"]


def test_an_outcome_that_cannot_be_written_ends_the_operation_as_failed(bench: Bench) -> None:
    def refuse(*_: object) -> None:
        raise InUseError("Something still refers to it.")

    plan = bench.plan("only")
    bench.outcomes["test"] = Outcome(refuse, bench.outcomes["test"].failed)
    made = bench.ask(plan)
    bench.run()

    assert bench.operation(made).state is OperationState.FAILED
    assert bench.ended == [("n1", "Something still refers to it.")]


def test_a_hook_that_stumbles_after_a_step_stops_nothing(bench: Bench) -> None:
    def hook(_step: str, moment: str) -> None:
        if moment == "after":
            raise RuntimeError("oh")

    bench.ask(bench.plan("first", "second"))
    bench.run(hook=hook)

    assert bench.did == ["first", "second"]


def test_a_step_says_how_it_is_undone_or_why_not() -> None:
    with pytest.raises(InternalError, match="needs an undo"):
        StepType("silent", lambda _: {})
    with pytest.raises(InternalError, match="needs an undo"):
        StepType("both", lambda _: {}, lambda _: None, why="it only looks")


# ---- cancelling -------------------------------------------------------------------------------------


def test_cancelling_before_the_first_step_does_nothing_at_all(bench: Bench) -> None:
    made = bench.ask(bench.plan("first"))
    bench.cancel(made)
    bench.run()

    assert bench.did == []
    assert bench.operation(made).state is OperationState.CANCELLED
    assert bench.ended == [("n1", "The operation was cancelled.")]


def test_cancelling_while_a_step_runs_lets_it_end_and_undoes_it(bench: Bench) -> None:
    running, cancelled = threading.Event(), threading.Event()

    def run(_context: Context) -> None:
        running.set()
        assert cancelled.wait(PATIENCE_S)

    bench.step("first", run)
    made = bench.ask(bench.plan("first", "second"))
    with bench.working(bench.engine()):
        assert running.wait(PATIENCE_S)
        bench.cancel(made)
        cancelled.set()
        until(lambda: not bench.operation(made).is_live)

    assert bench.did == ["first", "undo first"]
    assert bench.operation(made).state is OperationState.CANCELLED


def test_cancelling_while_a_step_would_be_tried_again(bench: Bench) -> None:
    bench.step("flaky", fails(1), backoff_s=3600)
    made = bench.ask(bench.plan("flaky"))
    with bench.working(bench.engine()):
        until(lambda: bench.operation(made).owner is None and bench.did == ["flaky"])
        bench.cancel(made)
        until(lambda: not bench.operation(made).is_live)

    assert bench.did == ["flaky", "undo flaky"]
    assert bench.operation(made).state is OperationState.CANCELLED


def test_cancelling_while_a_step_waits(bench: Bench) -> None:
    bench.step("waits", lambda _: Wait(NEVER))
    made = bench.ask(bench.plan("first", "waits"))
    with bench.working(bench.engine()):
        until(lambda: bench.operation(made).wake_at == NEVER)
        bench.cancel(made)
        until(lambda: not bench.operation(made).is_live)

    assert bench.did == ["first", "waits", "undo waits", "undo first"]
    assert bench.operation(made).state is OperationState.CANCELLED


def test_a_cancellation_that_leaves_something_behind_has_failed(bench: Bench) -> None:
    bench.step("first", undo=fails(9, retryable=False, sentence="The port stays open."))
    bench.step("waits", lambda _: Wait(NEVER))
    made = bench.ask(bench.plan("first", "waits"))
    with bench.working(bench.engine()):
        until(lambda: bench.operation(made).wake_at == NEVER)
        bench.cancel(made)
        until(lambda: not bench.operation(made).is_live)

    assert bench.operation(made).state is OperationState.FAILED
    assert bench.ended == [("n1", "The port stays open.")]


# ---- waiting ----------------------------------------------------------------------------------------


def test_a_waiting_step_looks_again_when_its_time_has_come(bench: Bench) -> None:
    looks: list[float] = []

    def look(context: Context) -> Wait | None:
        looks.append(context.started_at)
        return Wait(bench.database.now() + 0.05) if len(looks) < 3 else None

    bench.step("waits", look)
    bench.ask(bench.plan("waits"))
    bench.run()

    assert len(looks) == 3
    assert len(set(looks)) == 1, "a step knows since when it has been waiting"


def test_waiting_operations_hold_no_thread(bench: Bench) -> None:
    bench.step("waits", lambda _: Wait(NEVER))
    waiting = bench.plan("waits", kind="waiting")
    ids = [bench.ask(waiting, f"w{number}") for number in range(5)]
    engine = bench.engine(threads=1)
    with bench.working(engine):
        until(lambda: all(bench.operation(one).wake_at == NEVER for one in ids))
        quick = bench.ask(bench.plan("quick"))
        until(lambda: not bench.operation(quick).is_live)
        assert all(bench.operation(one).owner is None for one in ids)


@pytest.mark.parametrize("moment", ["done", "after"])
def test_news_that_come_while_a_step_decides_to_wait_are_not_missed(bench: Bench, moment: str) -> None:
    """It looked, saw nothing, and the news came before it was written down that it waits, or just after."""
    news = threading.Event()

    def hook(step: str, at: str) -> None:
        if (step, at) == ("waits", moment) and not news.is_set():
            news.set()
            bench.wake()

    bench.step("waits", lambda _: None if news.is_set() else Wait(NEVER))
    bench.ask(bench.plan("waits"))
    bench.run(hook=hook, lease_s=1000)

    assert bench.did == ["waits", "waits"]
    assert bench.ended == [("n1", "succeeded")]


def test_a_parked_operation_is_woken(bench: Bench) -> None:
    news = threading.Event()
    bench.step("waits", lambda _: None if news.is_set() else Wait(NEVER))
    made = bench.ask(bench.plan("waits"))
    with bench.working(bench.engine()):
        until(lambda: bench.operation(made).owner is None and bench.did == ["waits"])
        news.set()
        bench.wake()
        until(lambda: not bench.operation(made).is_live)
    assert bench.did == ["waits", "waits"]


def test_an_undo_that_waits_is_woken(bench: Bench) -> None:
    news = threading.Event()
    bench.step("fails", fails(9, retryable=False), undo=lambda _: None if news.is_set() else Wait(NEVER))
    made = bench.ask(bench.plan("fails"))
    with bench.working(bench.engine()):
        until(lambda: bench.operation(made).wake_at == NEVER)
        news.set()
        bench.wake()
        until(lambda: not bench.operation(made).is_live)
    assert bench.did == ["fails", "undo fails", "undo fails"]


@pytest.mark.parametrize("moment", ["undo-done", "undo-after"])
def test_news_that_come_while_an_undo_decides_to_wait_are_not_missed(bench: Bench, moment: str) -> None:
    news = threading.Event()

    def hook(step: str, at: str) -> None:
        if (step, at) == ("fails", moment) and not news.is_set():
            news.set()
            bench.wake()

    bench.step("fails", fails(9, retryable=False), undo=lambda _: None if news.is_set() else Wait(NEVER))
    bench.ask(bench.plan("fails"))
    bench.run(hook=hook, lease_s=1000)
    assert bench.did == ["fails", "undo fails", "undo fails"]


def test_a_waiting_step_is_woken_while_another_one_runs(bench: Bench) -> None:
    news, seen = threading.Event(), threading.Event()

    def look(_context: Context) -> Wait | None:
        if not news.is_set():
            return Wait(NEVER)
        seen.set()
        return None

    bench.step("waits", look)
    bench.step("slow", lambda _: {"beside": seen.wait(PATIENCE_S)})
    made = bench.ask(bench.plan(PlannedStep("waits"), PlannedStep("slow")))
    with bench.working(bench.engine(lease_s=1000)):
        until(lambda: bench.steps_of(made)["waits"].state is StepState.WAITING)
        news.set()
        bench.wake()
        until(lambda: not bench.operation(made).is_live)
    assert bench.steps_of(made)["slow"].result == {"beside": True}


# ---- steps that do not end --------------------------------------------------------------------------

SHORT_S = 0.05


@pytest.fixture
def hung() -> Iterator[threading.Event]:
    """What a hung step waits for; it goes on when the test is over."""
    over = threading.Event()
    yield over
    over.set()


def test_a_step_that_does_not_end_has_failed_and_is_undone(bench: Bench, hung: threading.Event) -> None:
    late: list[str] = []

    def hang(_context: Context) -> dict[str, str]:
        hung.wait(PATIENCE_S)
        late.append(threading.current_thread().name)
        return {"by": "the late one"}

    bench.step("hangs", hang, timeout_s=SHORT_S)
    made = bench.ask(bench.plan("first", "hangs", "never"))
    bench.run()

    assert late == []
    assert bench.did == ["first", "hangs", "undo hangs", "undo first"]
    problem = bench.operation(made).problem or {}
    assert problem["type"] == "urn:bmi:problem:timed-out"
    assert problem["detail"] == "Step hangs did not end within 0.05 s."
    assert not problem["retryable"]
    before = bench.steps_of(made)
    hung.set()
    until(lambda: late != [] and late[0] not in {thread.name for thread in threading.enumerate()})
    assert bench.steps_of(made) == before, "a result that comes too late is not written down"
    assert bench.ended == [("n1", problem["detail"])]


def test_hung_steps_take_no_thread_from_others(bench: Bench, hung: threading.Event) -> None:
    bench.step("hangs", lambda _: {"late": hung.wait(PATIENCE_S)}, timeout_s=SHORT_S)
    hanging = bench.plan("hangs", kind="hanging")
    for number in range(3):
        bench.ask(hanging, f"h{number}")
    bench.ask(bench.plan("quick"))
    bench.run(threads=1)

    assert ("n1", "succeeded") in bench.ended
    assert len(bench.ended) == 4
    assert not hung.is_set()


def test_an_undo_that_does_not_end_is_left_behind(bench: Bench, hung: threading.Event) -> None:
    bench.step("hangs", undo=lambda _: hung.wait(PATIENCE_S), timeout_s=SHORT_S)
    bench.step("bad", fails(9, retryable=False, sentence="No."))
    made = bench.ask(bench.plan("first", "hangs", "bad"))
    bench.run()

    assert bench.did == ["first", "hangs", "bad", "undo bad", "undo hangs", "undo first"]
    left = bench.steps_of(made)["hangs"]
    assert left.state is StepState.UNDONE
    assert (left.problem or {})["undo"] is True
    assert (left.problem or {})["detail"] == "Undoing hangs did not end within 0.05 s."
    assert bench.ended == [("n1", "No.")]


def test_cancelling_while_a_step_hangs_ends_with_its_time(bench: Bench, hung: threading.Event) -> None:
    """It has failed, not been cancelled: what the hung step may still do must not be forgotten."""
    bench.step("hangs", lambda _: {"late": hung.wait(PATIENCE_S)}, timeout_s=0.3)
    made = bench.ask(bench.plan("hangs"))
    with bench.working(bench.engine()):
        until(lambda: bench.did == ["hangs"])
        bench.cancel(made)
        until(lambda: not bench.operation(made).is_live)

    assert bench.did == ["hangs", "undo hangs"]
    assert bench.operation(made).state is OperationState.FAILED


def test_a_worker_that_stops_waits_for_a_hung_step_no_longer_than_its_time(
    bench: Bench, hung: threading.Event
) -> None:
    bench.step("hangs", lambda _: {"late": hung.wait(PATIENCE_S * 2)}, timeout_s=0.3)
    made = bench.ask(bench.plan("hangs"))
    with bench.working(bench.engine()):
        until(lambda: bench.did == ["hangs"])

    assert not hung.is_set()
    assert bench.steps_of(made)["hangs"].state is StepState.FAILED
    assert bench.operation(made).owner is None


# ---- stumbling databases ----------------------------------------------------------------------------


def test_a_database_that_is_away_for_a_moment_costs_time_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many of the worker's transactions fail; what was not written down is done again."""
    luck = random.Random(7)

    def sometimes_away(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **values: Any) -> Any:
            if luck.random() < 0.3:
                raise OperationalError("", {}, Exception("the server closed the connection"))
            return call(*args, **values)

        return run

    for call in (journal.load_owned, journal.change_step):
        monkeypatch.setattr(journal, call.__name__, sometimes_away(call))
    made = bench.ask(bench.plan("first", "second", "third"))
    bench.run(lease_s=0.2)

    assert bench.ended == [("n1", "succeeded")]
    assert set(bench.steps_of(made)) == set(bench.did)


def test_a_step_whose_database_is_away_is_tried_again(bench: Bench) -> None:
    problems: list[str] = []
    left = iter(range(1))

    def run(context: Context) -> None:
        problems.extend(str((step.problem or {}).get("type")) for step in bench.steps_of(made).values())
        if next(left, None) is not None:
            raise OperationalError("", {}, Exception("the server closed the connection"))

    bench.step("reads", run)
    made = bench.ask(bench.plan("reads"))
    bench.run()

    assert bench.ended == [("n1", "succeeded")]
    assert problems[1] == f"urn:bmi:problem:{UnavailableError.code()}"


# By name, for tracebacks quote the lines of this file.
STATEMENT = "UPDATE nodes SET name = ?"
VALUE = "hidden value"


@pytest.mark.parametrize("error", [OperationalError, IntegrityError])
def test_neither_problems_nor_logs_quote_statements(
    bench: Bench, caplog: pytest.LogCaptureFixture, error: type[DBAPIError]
) -> None:
    def run(_context: Context) -> None:
        raise error(STATEMENT, {"name": VALUE}, Exception("the disk is full"))

    bench.step("writes", run, attempts=1)
    made = bench.ask(bench.plan("writes"))
    bench.run()

    detail = (bench.operation(made).problem or {})["detail"]
    assert f"{error.__name__}: the disk is full" in detail
    assert "the disk is full" in caplog.text
    for text in (detail, caplog.text):
        assert STATEMENT not in text
        assert VALUE not in text


def test_the_log_of_a_result_that_cannot_be_written_quotes_no_statement(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = iter([OperationalError(STATEMENT, {"name": VALUE}, Exception("the disk is full"))])
    load_owned = journal.load_owned

    def sometimes_away(*args: Any) -> Any:
        if error := next(fault, None):
            raise error
        return load_owned(*args)

    monkeypatch.setattr(journal, "load_owned", sometimes_away)
    bench.ask(bench.plan("first"))
    bench.run(lease_s=0.2)

    assert "the disk is full" in caplog.text
    assert STATEMENT not in caplog.text
    assert VALUE not in caplog.text
