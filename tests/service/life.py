"""What every random life of a site has: requests and what befalls them, and the comparison with a model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from bmi.domain.nouns import NodeState, ObjectState
from bmi.domain.operations import OperationState
from bmi.drivers.storage import Ref
from bmi.errors import BmiError
from bmi.service import images, operations, snapshots, volumes
from bmi.service.core import OperationView
from bmi.service.images import Filter
from bmi.store import operations as journal
from bmi.store import records
from bmi.workflow import drift
from bmi.workflow.sweep import Sweep
from tests.contract.stores import contents, read
from tests.installation import SITE
from tests.service.ground import NODES, Ground

T = TypeVar("T")


@dataclass(frozen=True)
class Fate:
    """What happens to the operations that wait, before a worker does all that is left.

    One in another process is killed before its effect of the number `killed`. The next does so many `steps` and,
    with `acts`, another one of which it never writes down that it is done: then it is dead, as it is with `dies`.
    Then the last operation is `cancelled`. Then one more is killed, before its effect `killed_again`.
    """

    killed: int = 0
    steps: int = 0
    acts: bool = False
    dies: bool = False
    cancelled: bool = False
    killed_again: int = 0


@dataclass
class Asked:
    """A request that was let in: what it does to the model when its operation succeeds, and whether it must not."""

    view: OperationView
    effect: Callable[[], object] = lambda: None
    fails: bool = False
    cancelled: bool = False

    def __getitem__(self, name: str) -> str:
        return str(self.view.operation.args[name])


WORKED_OFF, LEFT = st.just(Fate()), st.just(None)
DISTURBED = st.builds(
    Fate, steps=st.integers(0, 5), acts=st.booleans(), dies=st.booleans(), cancelled=st.booleans()
)
KILLED = st.builds(Fate, killed=st.integers(1, 40), cancelled=st.booleans())
UNDO_KILLED = st.builds(
    Fate,
    steps=st.integers(0, 4),
    acts=st.booleans(),
    cancelled=st.just(True),
    killed_again=st.integers(1, 20),
)
fates = st.one_of(WORKED_OFF, WORKED_OFF, WORKED_OFF, LEFT, DISTURBED, KILLED, UNDO_KILLED)

Ask = Callable[..., Asked]


def request(**drawn: st.SearchStrategy[Any]) -> Callable[[Ask], Callable[..., None]]:
    """A rule that asks for something; its fate is drawn as well."""

    def decorate(ask: Ask) -> Callable[..., None]:
        @wraps(ask)
        def asking(self: "Life", fate: Fate | None, **arguments: Any) -> None:
            self.ask(partial(ask, self, **arguments), fate)

        return rule(fate=fates, **drawn)(asking)  # type: ignore[call-overload,no-any-return]  # of a dict

    return decorate


class Life(RuleBasedStateMachine):
    """The life of a site that begins as `ground` has it; who inherits says what may be asked for."""

    def __init__(self, ground: Ground) -> None:
        super().__init__()
        self.ground, self.site, self.core, self.red = ground, ground.site, ground.site.core, ground.red
        self.model = ground.restore()
        self.known = dict(self.model.disks)
        self.asked: list[Asked] = []
        self.failed: set[str] = set()
        self.made = 0

    # ---- letting it happen ---------------------------------------------------------------------------

    def ask(self, ask: Callable[[], Asked], fate: Fate | None) -> None:
        asked = self.admitted(ask)
        if asked:
            self.asked.append(asked)
            if fate:
                self.befall(fate)
                self.settle()

    def admitted(self, ask: Callable[[], T]) -> T | None:
        """What a request answers; None when it was refused, and then nothing has changed."""
        version = self.ground.version()
        try:
            return ask()
        except BmiError as error:
            refusal = error
        assert refusal.status in range(400, 500), refusal
        assert self.ground.version() == version
        return None

    def befall(self, fate: Fate) -> None:
        if fate == Fate():
            return
        if fate.killed:
            self.ground.kill_worker(fate.killed)
        worker = self.ground.worker()
        worker.work_in_part(fate.steps)
        if fate.acts:
            worker.act_only()
        if fate.cancelled:
            self.cancel(self.asked[-1])
        if fate.acts or fate.dies or fate.killed_again:
            self.ground.bury()
        else:
            worker.work()
        if fate.killed_again:
            self.ground.kill_worker(fate.killed_again)

    def cancel(self, asked: Asked) -> None:
        operation_id = asked.view.operation.id
        answer = self.admitted(lambda: operations.cancel_operation(self.core, SITE, operation_id))
        asked.cancelled = answer is not None

    def settle(self) -> None:
        """Lets a worker do what is left, and compares."""
        self.ground.worker().work()
        for asked in self.asked:
            self.judge(asked)
        self.asked.clear()
        self.agree()

    def judge(self, asked: Asked) -> None:
        operation = self.site.operation(asked.view.operation.id)
        if operation.state is OperationState.CANCELLED:
            assert asked.cancelled
            if operation.kind == "roll-back":
                # It is cancelled before or after, but never in the middle.
                rolled_back = self.model.disks[Ref("snapshot", asked["snapshot_id"])]
                if read(self.ground.storage, Ref("volume", asked["volume_id"])) == rolled_back:
                    asked.effect()
        elif asked.fails:
            assert operation.state is OperationState.FAILED
            self.failed.add(operation.id)
        else:
            assert operation.state is OperationState.SUCCEEDED, operation.problem
            asked.effect()

    def agree(self) -> None:
        """Rows, store and model are the same; what has changed has the right bytes."""
        with self.site.database.read() as tx:
            served = [(one.node_id, one.exported) for one in records.volumes.list(tx)]
            rows = {
                **{Ref("image", one.id): (one.state, one.size_bytes) for one in records.images.list(tx)},
                **{Ref("volume", one.id): (one.state, one.size_bytes) for one in records.volumes.list(tx)},
                **{
                    Ref("snapshot", one.id): (one.state, one.size_bytes) for one in records.snapshots.list(tx)
                },
            }
            empty = NodeState.ALLOCATED
            busy = {one.id: one.state for one in records.nodes.list(tx) if one.state is not empty}
        sizes = {ref: len(content) for ref, content in self.model.disks.items()}
        assert rows == {ref: (ObjectState.READY, size_bytes) for ref, size_bytes in sizes.items()}
        assert {stored.ref: stored.size_bytes for stored in self.ground.storage.list()} == sizes
        assert set(busy.values()) <= {NodeState.ACTIVE}
        assert {node_id for node_id, _ in served if node_id} == busy.keys()
        assert all(exported == bool(node_id) for node_id, exported in served)
        for ref, content in self.model.disks.items():
            if self.known.get(ref) is not content:
                assert read(self.ground.storage, ref) == content, ref
        self.known = dict(self.model.disks)

    def agree_in_all(self) -> None:
        """With nothing left over, in the world as in the journal."""
        tools = self.site.engine._tools
        found = drift.check(tools, repair=False)
        assert found == {"objects": len(self.model.disks), "strangers": 0, "different": 0, "differences": []}
        Sweep(tools).look()
        assert contents(self.ground.storage) == self.model.disks
        with self.site.database.read() as tx:
            failed = journal.operations.list(tx, state=OperationState.FAILED)
        assert {operation.id for operation in failed} == self.failed

    def teardown(self) -> None:
        self.settle()
        self.agree_in_all()

    # ---- names ---------------------------------------------------------------------------------------

    def points(self) -> list[tuple[str, Ref]]:
        """What can be compared: how it is called, and what it is."""
        with self.site.database.read() as tx:
            return [
                *(
                    (f"image:{one.name}@{one.version}", Ref("image", one.id))
                    for one in records.images.list(tx)
                ),
                *((f"volume:{one.name}", Ref("volume", one.id)) for one in records.volumes.list(tx)),
                *((f"snapshot:{one.name}", Ref("snapshot", one.id)) for one in records.snapshots.list(tx)),
            ]

    def node(self, pick: int, state: NodeState = NodeState.ALLOCATED) -> str:
        """Mostly one in this state, so that not too much is refused."""
        with self.site.database.read() as tx:
            suitable = [node.name for node in records.nodes.list(tx, state=state)]
        return _chosen(suitable if suitable and pick % 5 else list(NODES), pick)

    def name(self, pick: int) -> str:
        """One of few, so that some are taken."""
        return f"name{pick % 4}"

    def new_name(self) -> str:
        self.made += 1
        return f"s{self.made}"

    def volume(self, pick: int) -> str:
        return _chosen([view.volume.name for view in volumes.list_volumes(self.core, self.red)], pick)

    def snapshot(self, pick: int) -> str:
        return _chosen([view.snapshot.name for view in snapshots.list_snapshots(self.core, self.red)], pick)

    def image(self, pick: int) -> str:
        found = images.list_images(self.core, self.red, Filter(all_versions=True))
        titles = [f"{view.image.name}@{view.image.version}" for view in found]
        return _chosen([*titles, *sorted({view.image.name for view in found})], pick)


def _chosen(names: list[str], pick: int) -> str:
    return names[pick % len(names)] if names else "none"
