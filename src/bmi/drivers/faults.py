"""What every fake driver is made of: a world kept in files, and calls that fail, hang or crawl when told to."""

import fcntl
import json
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from bmi.errors import DriverError

T = TypeVar("T")
Table = dict[str, Any]

_FAULTS = "faults"


class FakeWorld:
    """The state of one fake driver: JSON tables in a directory, shared by all processes that name it.

    State survives the process being killed: a table changes by atomic rename under a file lock.
    Faults are one more table, `<root>/faults.json`, read at each call; a test writes it by hand or
    through `set_fault`. Each entry belongs to one call name and may hold:

    - `sleep_s`: wait this long first (a large number is a hang);
    - `error`: then raise DriverError with this sentence, with `retryable` (default true);
    - `times`: how many calls this holds for (default: all).
    """

    def __init__(self, root: str | Path = "") -> None:
        """An empty `root` stands for a new temporary directory of this process."""
        if root:
            self.root = Path(root)
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            self.root = Path(tempfile.mkdtemp(prefix="bmi-fake-"))
            weakref.finalize(self, shutil.rmtree, self.root, ignore_errors=True)

    def call(self, name: str) -> None:
        """Applies the fault set for the call `name`, if any; each fake method starts with this."""
        if name not in self.read(_FAULTS):
            return
        fault = self.change(_FAULTS, lambda faults: _use_up(faults, name))
        time.sleep(fault.get("sleep_s", 0))
        if "error" in fault:
            raise DriverError(fault["error"], retryable=fault.get("retryable", True))

    def set_fault(self, name: str, **fault: Any) -> None:
        """Makes calls of `name` misbehave; without any keyword they behave again."""

        def put(faults: Table) -> None:
            if fault:
                faults[name] = fault
            else:
                faults.pop(name, None)

        self.change(_FAULTS, put)

    def read(self, table: str) -> Table:
        """The table as it is now; empty when nothing was ever written."""
        try:
            text = self._file(table).read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        loaded: Table = json.loads(text)
        return loaded

    def change(self, table: str, edit: Callable[[Table], T]) -> T:
        """Lets `edit` modify the table in place, alone; saves it and returns what `edit` returned.
        Nothing is saved when `edit` raises.
        """
        with self._locked():
            content = self.read(table)
            result = edit(content)
            fresh = self._file(table).with_suffix(".new")
            fresh.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
            fresh.replace(self._file(table))
            return result

    def _file(self, table: str) -> Path:
        return self.root / f"{table}.json"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _use_up(faults: Table, name: str) -> Table:
    fault: Table = faults.get(name, {})
    if "times" in fault:
        fault["times"] -= 1
        if fault["times"] <= 0:
            faults.pop(name)
    return fault
