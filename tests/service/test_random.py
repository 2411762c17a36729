"""Long random lives of volumes and snapshots, with workers killed at random: rows, store and model agree."""

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bmi.domain.nouns import Actor, NodeState, ObjectState
from bmi.domain.operations import OperationState
from bmi.drivers.storage import Ref
from bmi.errors import BmiError
from bmi.service import access, nodes, snapshots, volumes
from bmi.service.core import OperationView
from bmi.service.nodes import Order
from bmi.store import records
from bmi.workflow import drift
from bmi.workflow.engine import Engine
from bmi.workflow.steps import OUTCOMES, STEPS
from bmi.workflow.sweep import Sweep
from tests.installation import Site, furnished, opened

__all__ = ["furnished"]

_NODES = ("n1", "n2", "n3")
_STEPS = 12
_KILL_WITHIN = 40
_LEASE_S = 0.2
_ROUNDS = 24

# What an operation does to the model once it has succeeded.
Effect = Callable[[], object]
Asked = tuple[OperationView, Effect]


class Life:
    """Random requests, and what the disks must hold after them: object id -> bytes."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.random = random.Random(seed)
        self.contents: dict[str, bytes] = {}
        self.names = 0
        with opened(directory) as site:
            self.token = site.token("life", "red")

    @contextmanager
    def site(self) -> Iterator[tuple[Site, Actor]]:
        with opened(self.directory) as site:
            yield site, access.authenticate(site.core, self.token)

    def ask(self, site: Site, red: Actor) -> Asked | None:
        """One random request; None when it was refused, as many are."""
        kinds = (
            self._provision,
            self._provision,
            self._attach,
            self._release,
            self._detach,
            self._power,
            self._freeze,
            self._freeze,
            self._roll_back,
            self._roll_back,
            self._flatten,
            self._delete_volume,
            self._delete_snapshot,
        )
        try:
            return self.random.choice(kinds)(site, red)
        except BmiError:
            return None

    def write(self, site: Site) -> None:
        """Nodes write to their disks."""
        with site.database.read() as tx:
            found = records.volumes.list(tx, exported=True)
        for volume in found:
            if self.random.random() < 0.5:
                self.contents[volume.id] = self.random.randbytes(16) + bytes(4080)
                _file(site, volume.id).write_bytes(self.contents[volume.id])

    def begin(self, site: Site, red: Actor) -> Asked:
        view = nodes.provision_node(site.core, red, "n1", Order(image="debian-12"))
        return view, lambda: self.contents.update({view.operation.args["volume_id"]: bytes(4096)})

    # ---- requests -----------------------------------------------------------------------------------

    def _node(self) -> str:
        return self.random.choice(_NODES)

    def _volume(self, site: Site, red: Actor) -> str:
        return self.random.choice([v.volume.name for v in volumes.list_volumes(site.core, red)] or ["none"])

    def _snapshot(self, site: Site, red: Actor) -> str:
        known = [view.snapshot.name for view in snapshots.list_snapshots(site.core, red)]
        return self.random.choice(known or ["none"])

    def _provision(self, site: Site, red: Actor) -> Asked:
        if self.random.random() < 0.5:
            view = nodes.provision_node(site.core, red, self._node(), Order(image="debian-12"))
            content = bytes(4096)
        else:
            name = self._snapshot(site, red)
            view = nodes.provision_node(site.core, red, self._node(), Order(snapshot=name))
            content = self.contents[snapshots.get_snapshot(site.core, red, name).snapshot.id]
        return view, lambda: self.contents.update({view.operation.args["volume_id"]: content})

    def _attach(self, site: Site, red: Actor) -> Asked:
        order = Order(volume=self._volume(site, red))
        return nodes.provision_node(site.core, red, self._node(), order), lambda: None

    def _release(self, site: Site, red: Actor) -> Asked:
        view = nodes.release_node(site.core, red, self._node())
        return view, lambda: self.contents.pop(view.operation.args["volume_id"])

    def _detach(self, site: Site, red: Actor) -> Asked:
        return nodes.release_node(site.core, red, self._node(), keep_volume=True), lambda: None

    def _power(self, site: Site, red: Actor) -> Asked:
        action = self.random.choice(["on", "off", "off"])
        return nodes.power_node(site.core, red, self._node(), action), lambda: None

    def _freeze(self, site: Site, red: Actor) -> Asked:
        self.names += 1
        if self.random.random() < 0.5:
            view = snapshots.create_snapshot(site.core, red, self._node(), f"s{self.names}")
        else:
            volume = self._volume(site, red)
            view = snapshots.create_volume_snapshot(site.core, red, volume, f"s{self.names}")
        args = view.operation.args
        content = self.contents[args["volume_id"]]
        return view, lambda: self.contents.update({args["snapshot_id"]: content})

    def _roll_back(self, site: Site, red: Actor) -> Asked:
        snapshot, force = self._snapshot(site, red), self.random.random() < 0.5
        if self.random.random() < 0.5:
            view = volumes.roll_back_node(site.core, red, self._node(), snapshot, force=force)
        else:
            volume = self._volume(site, red)
            view = volumes.roll_back_volume(site.core, red, volume, snapshot, force=force)
        args = view.operation.args
        content = self.contents[args["snapshot_id"]]
        return view, lambda: self.contents.update({args["volume_id"]: content})

    def _flatten(self, site: Site, red: Actor) -> Asked:
        return volumes.flatten_volume(site.core, red, self._volume(site, red)), lambda: None

    def _delete_volume(self, site: Site, red: Actor) -> Asked:
        view = volumes.delete_volume(site.core, red, self._volume(site, red))
        return view, lambda: self.contents.pop(view.operation.args["volume_id"])

    def _delete_snapshot(self, site: Site, red: Actor) -> Asked:
        view = snapshots.delete_snapshot(site.core, red, self._snapshot(site, red))
        return view, lambda: self.contents.pop(view.operation.subject_id)

    # ---- working ------------------------------------------------------------------------------------

    def work(self) -> None:
        """A worker that may be killed at any moment, then one that is not."""
        fatal = self.random.randrange(_KILL_WITHIN)
        child = os.fork()
        if child == 0:
            try:
                _work_until_killed(self.directory, fatal)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        with opened(self.directory) as site:
            site.settle(*_NODES)


def _work_until_killed(directory: Path, fatal: int) -> None:
    moments = iter(range(fatal))

    def hook(_step: str, _moment: str) -> None:
        if next(moments, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    with opened(directory) as site:
        site.will_boot(*_NODES)
        tools = site.engine._tools
        engine = Engine(
            site.database,
            STEPS,
            OUTCOMES,
            tools,
            owner="doomed",
            threads=2,
            lease_s=_LEASE_S,
            hook=hook,
        )
        engine.run_until_idle(20)
        os._exit(0)


def _file(site: Site, volume_id: str) -> Path:
    return Path(site.fakes["storage"].backing(volume_id).location)


def agree(site: Site, life: Life) -> None:
    """Rows, store, exports and model say the same, and the sweep finds nothing to do."""
    tools = site.engine._tools
    before = {stored.ref for stored in tools.storage.list()}
    Sweep(tools).look()
    found = drift.check(tools, repair=False)
    assert found["differences"] == []
    assert found["strangers"] == 0
    with site.database.read() as tx:
        images, all_volumes, all_snapshots = (
            records.images.list(tx),
            records.volumes.list(tx),
            records.snapshots.list(tx),
        )
        busy = {node.id for node in records.nodes.list(tx, state=NodeState.ACTIVE)}
    rows = {
        *(Ref("image", one.id) for one in images),
        *(Ref("volume", one.id) for one in all_volumes),
        *(Ref("snapshot", one.id) for one in all_snapshots),
    }
    assert rows == before == {stored.ref for stored in tools.storage.list()}
    states = {one.state for one in all_volumes} | {one.state for one in all_snapshots}
    assert states <= {ObjectState.READY}
    assert {volume.node_id for volume in all_volumes if volume.node_id} == busy
    assert {volume.id for volume in all_volumes if volume.exported} == {
        volume.id for volume in all_volumes if volume.node_id
    }
    assert life.contents.keys() == {ref.id for ref in rows if ref.kind != "image"}
    for ref in before:
        if ref.kind != "image":
            with tools.storage.opened(ref) as file:
                assert file.read_bytes() == life.contents[ref.id], ref


def live(directory: Path, seed: int) -> int:
    """One life; returns how many operations succeeded."""
    life, succeeded = Life(directory, seed), 0
    for step in range(_STEPS):
        with life.site() as (site, red):
            life.write(site)
            # Many are refused, and something has to be there first.
            asked = [life.ask(site, red) for _ in range(3)] if step else [life.begin(site, red)]
        life.work()
        with life.site() as (site, red):
            for view, effect in filter(None, asked):
                state = site.operation(view.operation.id).state
                if state is OperationState.SUCCEEDED:
                    effect()
                    succeeded += 1
                else:
                    # Nothing but a roll-back of a node that is on may fail here.
                    assert (view.operation.kind, state) == ("roll-back", OperationState.FAILED)
            agree(site, life)
    return succeeded


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, _ROUNDS))]
)
def test_rows_store_and_model_agree_whatever_happens(furnished: Path, tmp_path: Path, seed: int) -> None:
    shutil.copytree(furnished, tmp_path / "site")
    assert live(tmp_path / "site", seed) > 1
