"""Random sequences of calls do to a store what they do to a model of it.

The number of sequences is small, so that the tests stay fast; all that the store has to stand are run by

    SEQUENCES=10000 pytest tests/contract/test_storage_model.py -n 2
"""

import os
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bmi.drivers.storage import ObjectKind, Ref, Storage
from tests.contract.stores import Model, Place, contents, empty, read, stage, write

SEQUENCES = int(os.environ.get("SEQUENCES", "0"))
CALLS = 20
SECTORS_A_UNIT = 8

which = st.integers(0, 1000)


class StoreMachine(RuleBasedStateMachine):
    """Each rule asks the store and the model the same and compares the answers, then the disk it was about;
    at the end all disks, so that a call that changed another is found out.
    """

    def __init__(self, storage: Storage, unit: int) -> None:
        super().__init__()
        self.storage, self.model, self.unit = storage, Model(), unit
        self.made = 0

    @rule(data=st.lists(st.booleans(), min_size=1, max_size=4))
    def import_image(self, data: list[bool]) -> None:
        ref = self.fresh("image")
        content = b"".join(self.some_bytes() if full else bytes(self.unit) for full in data)
        for store in (self.storage, self.model):
            stage(store, ref.id, content)
        self.same(ref, *(store.commit_image(ref.id) for store in (self.storage, self.model)))

    @precondition(lambda self: self.refs())
    @rule(source=which, units=st.integers(0, 6))
    def clone(self, source: int, units: int) -> None:
        ref, origin, size_bytes = self.fresh("volume"), self.chosen(source), units * self.unit
        stores = (self.storage, self.model)
        self.same(ref, *(store.clone(origin, ref.id, size_bytes=size_bytes) for store in stores))

    @precondition(lambda self: self.refs("volume"))
    @rule(volume=which)
    def snapshot(self, volume: int) -> None:
        ref, source = self.fresh("snapshot"), self.chosen(volume, "volume")
        self.same(ref, *(store.snapshot(source.id, ref.id) for store in (self.storage, self.model)))

    @precondition(lambda self: self.refs("image", "snapshot"))
    @rule(source=which)
    def promote(self, source: int) -> None:
        ref, origin = self.fresh("image"), self.chosen(source, "image", "snapshot")
        self.same(ref, *(store.promote(origin, ref.id) for store in (self.storage, self.model)))

    @precondition(lambda self: self.refs("volume"))
    @rule(volume=which, sector=which, sectors=st.integers(1, 2 * SECTORS_A_UNIT), zeros=st.booleans())
    def write(self, volume: int, sector: int, sectors: int, zeros: bool) -> None:
        ref, sector_bytes = self.chosen(volume, "volume"), self.unit // SECTORS_A_UNIT
        size_bytes = len(self.model.disks[ref])
        offset = sector % (size_bytes // sector_bytes) * sector_bytes
        data = (bytes(2 * self.unit) if zeros else self.some_bytes() * 2)[: sectors * sector_bytes]
        for store in (self.storage, self.model):
            write(store, ref.id, offset, data[: size_bytes - offset])
        self.same(ref)

    @precondition(lambda self: self.refs("volume") and self.refs("snapshot"))
    @rule(volume=which, snapshot=which)
    def roll_back(self, volume: int, snapshot: int) -> None:
        ref, source = self.chosen(volume, "volume"), self.chosen(snapshot, "snapshot")
        self.same(ref, *(store.roll_back(ref.id, source.id) for store in (self.storage, self.model)))

    @precondition(lambda self: self.refs("volume"))
    @rule(volume=which, units=st.integers(1, 8))
    def resize(self, volume: int, units: int) -> None:
        ref = self.chosen(volume, "volume")
        self.same(ref, *(store.resize(ref.id, units * self.unit) for store in (self.storage, self.model)))

    @precondition(lambda self: self.refs())
    @rule(pick=which)
    def flatten(self, pick: int) -> None:
        self.storage.flatten(self.chosen(pick))
        self.same(self.chosen(pick))

    @precondition(lambda self: self.refs())
    @rule(pick=which)
    def delete(self, pick: int) -> None:
        ref = self.chosen(pick)
        self.storage.delete(ref)
        self.model.delete(ref)

    @precondition(lambda self: self.refs())
    @rule(newer=which)
    def diff(self, newer: int) -> None:
        ref = self.chosen(newer)
        content = self.model.disks[ref]
        for older in (None, *self.refs()):
            before = self.model.disks[older] if older else b""
            before = before[: len(content)].ljust(len(content), b"\0")
            found = self.storage.changed(older, ref)
            ends = [0, *(edge for e in found for edge in (e.offset, e.offset + e.length)), len(content)]
            assert ends == sorted(ends)
            assert all(extent.length > 0 for extent in found)
            assert all(one.offset + one.length < other.offset for one, other in pairwise(found))
            for start, end in zip(ends[::2], ends[1::2], strict=True):
                assert before[start:end] == content[start:end], f"{older} and {ref} differ in {start}-{end}"

    @precondition(lambda self: self.refs())
    @rule(pick=which)
    def usage(self, pick: int) -> None:
        usage = self.storage.usage(self.chosen(pick))
        assert 0 <= usage.unique_bytes <= usage.allocated_bytes <= len(self.model.disks[self.chosen(pick)])

    @invariant()
    def lists_agree(self) -> None:
        assert {stored.ref: stored.size_bytes for stored in self.storage.list()} == {
            ref: len(content) for ref, content in self.model.disks.items()
        }

    def teardown(self) -> None:
        try:
            assert contents(self.storage) == self.model.disks
        finally:
            empty(self.storage)

    def same(self, ref: Ref, *sizes: int) -> None:
        """That `ref` is the same in both, and that all said the same about its size."""
        assert len(set(sizes)) <= 1
        assert read(self.storage, ref) == self.model.disks[ref]

    def fresh(self, kind: ObjectKind) -> Ref:
        self.made += 1
        return Ref(kind, str(self.made))

    def some_bytes(self) -> bytes:
        """A unit of bytes that were never anywhere before."""
        self.made += 1
        return self.made.to_bytes(4, "big") * (self.unit // 4)

    def refs(self, *kinds: ObjectKind) -> list[Ref]:
        return [ref for ref in self.model.disks if not kinds or ref.kind in kinds]

    def chosen(self, pick: int, *kinds: ObjectKind) -> Ref:
        refs = self.refs(*kinds)
        return refs[pick % len(refs)]


@pytest.mark.timeout(600 + 10 * SEQUENCES)
def test_a_store_is_as_its_model(storage: Storage, place: Place) -> None:
    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__(storage, place.unit)

    slow = list(HealthCheck)
    chosen = settings(
        max_examples=SEQUENCES or place.sequences,
        stateful_step_count=CALLS,
        deadline=None,
        suppress_health_check=slow,
    )
    run_state_machine_as_test(Machine, settings=chosen)
