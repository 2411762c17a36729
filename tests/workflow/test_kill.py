"""A worker is killed at every moment of every step; the next one ends up where an undisturbed one would.

The moments are before a step acts, after it has acted but before that is written down, and after that.
"""

import functools
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bmi.domain.nouns import NodeState, ObjectState
from bmi.domain.operations import OperationState
from bmi.domain.plans import PLANS
from bmi.store.database import Database, connect
from bmi.workflow.engine import Engine, Hook
from bmi.workflow.steps import OUTCOMES, STEPS
from tests.workflow.world import World

pytestmark = pytest.mark.slow

_PATIENCE_S = 30
# Only a killed worker's lease runs out; the next one waits for that.
_LEASE_S = 0.3
_MOMENTS = ("before", "done", "after")
# When the node's waiting step has looked, and nothing of that is written down: news must not get lost.
_NEWS = ("await_up", "done")
# What the keeper of ports does between those moments is its session with a switch.
_KEEPER = "keeper"


@dataclass(frozen=True)
class Story:
    """An operation, and what happens to it while it waits for the node."""

    kind: str
    boot_timeout_s: float = 60
    news: Callable[[World], None] = World.report_up
    undoes: bool = False

    def moments(self) -> list[tuple[str, str]]:
        forward = [(step.name, moment) for step in PLANS[self.kind].steps for moment in _MOMENTS]
        if not self.undoes:
            return forward
        return [(step, f"undo-{moment}") for step, moment in forward]


STORIES = {
    "provision": Story("provision"),
    "release": Story("release"),
    "failure": Story("provision", boot_timeout_s=0, undoes=True),
    "cancellation": Story("provision", news=World.cancel, undoes=True),
    "detach": Story("detach"),
    "attach": Story("attach"),
    "attach-cancellation": Story("attach", news=World.cancel, undoes=True),
    "snapshot": Story("snapshot"),
    "roll-back": Story("roll-back"),
    "flatten": Story("flatten"),
    "delete-volume": Story("delete-volume"),
}
KILLS = [
    *((name, *moment) for name, story in STORIES.items() for moment in story.moments()),
    *((name, _KEEPER, moment) for name in ("provision", "release", "cancellation") for moment in _MOMENTS),
]


def work(world: World, story: Story, owner: str, hook: Hook = lambda _step, _moment: None) -> None:
    """One worker, to the end of everything."""

    def hook_and_news(step: str, moment: str) -> None:
        hook(step, moment)
        if (step, moment) == _NEWS:
            story.news(world)

    engine = Engine(
        world.database,
        STEPS,
        OUTCOMES,
        world.tools,
        owner=owner,
        threads=4,
        lease_s=_LEASE_S,
        hook=hook_and_news,
    )
    keeper = world.keeper(owner, _LEASE_S, functools.partial(hook, _KEEPER))
    with world.working(engine, keeper):
        engine.run_until_idle(_PATIENCE_S)


def work_until_killed(url: str, root: Path, story: Story, at: tuple[str, str]) -> None:
    """A worker process of its own that is killed at that moment."""

    def hook(step: str, moment: str) -> None:
        if (step, moment) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            database = Database(connect(url))
            work(World(database, root, boot_timeout_s=story.boot_timeout_s), story, "doomed", hook)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the worker never came to {at}"
    assert os.WTERMSIG(status) == signal.SIGKILL


Ending = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Ending:
    """What each story ends with when nobody is killed; told once, and the same on every database."""

    @functools.cache
    def ending(name: str) -> dict[str, Any]:
        root = tmp_path_factory.mktemp(name)
        shutil.copy(migrated_sqlite, root / "bmi.sqlite")
        database = Database(connect(f"sqlite:///{root / 'bmi.sqlite'}"))
        world = begin(name, database, root / "world")
        work(world, STORIES[name], "undisturbed")
        database.engine.dispose()
        return world.final_state()

    return ending


def begin(name: str, database: Database, root: Path) -> World:
    story = STORIES[name]
    world = World(database, root, boot_timeout_s=story.boot_timeout_s)
    world.found()
    world.ask(story.kind)
    return world


@pytest.mark.parametrize(("name", "step", "moment"), KILLS, ids=["-".join(kill) for kill in KILLS])
def test_a_killed_worker_leaves_no_trace(
    database: Database,
    database_url: str,
    tmp_path: Path,
    undisturbed: Ending,
    name: str,
    step: str,
    moment: str,
) -> None:
    world = begin(name, database, tmp_path / "world")
    database.engine.dispose()  # the child must not share a connection

    work_until_killed(database_url, world.root, STORIES[name], (step, moment))
    work(world, STORIES[name], "survivor")

    assert world.final_state() == undisturbed(name)


@pytest.mark.parametrize(
    ("name", "operation", "node", "port", "power", "volume"),
    [
        ("provision", OperationState.SUCCEEDED, NodeState.ACTIVE, 100, "on", ObjectState.READY),
        ("release", OperationState.SUCCEEDED, NodeState.ALLOCATED, None, "off", None),
        ("failure", OperationState.FAILED, NodeState.ERROR, None, "off", ObjectState.DELETING),
        ("cancellation", OperationState.CANCELLED, NodeState.ALLOCATED, None, "off", None),
        ("detach", OperationState.SUCCEEDED, NodeState.ALLOCATED, None, "off", ObjectState.READY),
        ("attach", OperationState.SUCCEEDED, NodeState.ACTIVE, 100, "on", ObjectState.READY),
        (
            "attach-cancellation",
            OperationState.CANCELLED,
            NodeState.ALLOCATED,
            None,
            "off",
            ObjectState.READY,
        ),
        ("snapshot", OperationState.SUCCEEDED, NodeState.ACTIVE, 100, "on", ObjectState.READY),
        ("roll-back", OperationState.SUCCEEDED, NodeState.ACTIVE, 100, "off", ObjectState.READY),
        ("flatten", OperationState.SUCCEEDED, NodeState.ACTIVE, 100, "on", ObjectState.READY),
        ("delete-volume", OperationState.SUCCEEDED, NodeState.ALLOCATED, None, "off", None),
    ],
)
def test_an_undisturbed_worker_comes_to_the_right_end(
    undisturbed: Ending,
    name: str,
    operation: OperationState,
    node: NodeState,
    port: int | None,
    power: str,
    volume: ObjectState | None,
) -> None:
    """So that the other tests do not compare one wrong end with another."""
    ending = undisturbed(name)
    known, found = ending["known"], ending["found"]
    is_there = volume is ObjectState.READY
    is_served = is_there and node is NodeState.ACTIVE

    assert [row["state"] for row in known["operations"]] == [operation]
    assert [row["state"] for row in known["nodes"]] == [node]
    assert [row["state"] for row in known["volumes"]] == ([volume] if volume else [])
    assert [row["exported"] for row in known["volumes"]] == ([is_served] if volume else [])
    assert len(known["addresses"]) == (node is not NodeState.ALLOCATED)
    assert [bool(row["node_id"]) for row in known["volumes"]] == [node is not NodeState.ALLOCATED] * bool(
        volume
    )
    assert found["switch"] == {"eth1": {"native": port, "tagged": []}}
    assert [bmc["power"] for bmc in found["bmc"].values()] == [power]
    of_snapshot = ["bmi-snapshot-snapshot-1"] if name in {"snapshot", "roll-back"} else []
    of_volume = ["bmi-volume-volume-1"] if is_there else []
    assert list(found["storage"]) == ["bmi-image-image-1", *of_snapshot, *of_volume]
    if name == "roll-back":
        assert ending["files"]["bmi-volume-volume-1.raw"] == ending["files"]["bmi-snapshot-snapshot-1.raw"]
    assert [len(targets) for targets in found["export"].values()] == [int(is_served)]
