"""The world that fakes are made of: it survives its process, and misbehaves exactly as told."""

import json
import os
import time
from pathlib import Path

import pytest

from bmi.drivers.faults import FakeWorld, Table
from bmi.errors import DriverError
from tests.killed import at_each_effect


def add_one(table: Table) -> None:
    table["count"] = table.get("count", 0) + 1


def test_an_unknown_table_is_empty_and_calls_succeed(tmp_path: Path) -> None:
    world = FakeWorld(tmp_path / "world")
    world.call("clone")
    assert world.read("objects") == {}


def test_a_fault_fails_as_often_as_told(tmp_path: Path) -> None:
    world = FakeWorld(tmp_path)
    faults = {"clone": {"error": "The disk is on fire.", "retryable": False, "times": 2}}
    (tmp_path / "faults.json").write_text(json.dumps(faults), encoding="utf-8")
    for _ in range(2):
        with pytest.raises(DriverError, match="on fire") as caught:
            world.call("clone")
        assert not caught.value.retryable
    world.call("clone")
    world.call("delete")


def test_a_fault_without_a_count_stays_until_it_is_lifted(tmp_path: Path) -> None:
    world = FakeWorld(tmp_path)
    world.set_fault("clone", error="No.")
    for _ in range(3):
        with pytest.raises(DriverError) as caught:
            FakeWorld(tmp_path).call("clone")
        assert caught.value.retryable
    world.set_fault("clone")
    world.call("clone")


def test_a_slow_call_sleeps_and_succeeds(tmp_path: Path) -> None:
    world = FakeWorld(tmp_path)
    world.set_fault("clone", sleep_s=0.05, times=1)
    start = time.monotonic()
    world.call("clone")
    assert time.monotonic() - start >= 0.05
    assert world.read("faults") == {}


def test_nothing_is_saved_when_an_edit_fails(tmp_path: Path) -> None:
    world = FakeWorld(tmp_path)
    world.change("numbers", add_one)

    def fail(table: Table) -> None:
        add_one(table)
        raise DriverError("Changed my mind.")

    with pytest.raises(DriverError):
        world.change("numbers", fail)
    assert world.read("numbers") == {"count": 1}


def test_processes_take_turns(tmp_path: Path) -> None:
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            for _ in range(25):
                FakeWorld(tmp_path).change("numbers", add_one)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert FakeWorld(tmp_path).read("numbers") == {"count": 100}


def test_killed_anywhere_a_table_is_old_or_new(tmp_path: Path) -> None:
    world = FakeWorld(tmp_path)
    world.change("numbers", add_one)
    for _ in at_each_effect(lambda: world.change("numbers", add_one)):
        assert world.read("numbers") == {"count": 1}
    assert world.read("numbers") == {"count": 2}


def test_a_world_without_a_place_gets_one_that_goes_with_it() -> None:
    world = FakeWorld()
    root = world.root
    world.change("numbers", add_one)
    assert root.is_dir()
    del world
    assert not root.exists()
