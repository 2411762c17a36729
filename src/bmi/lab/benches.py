"""What the benchmarks share: the --json option, medians, the printed table, and BMI's own drivers on a store."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bmi.config import ServerSettings, Settings, StorageSettings, UplinkSettings
from bmi.drivers.storage.local import unmount
from bmi.lab.ceph import CephCluster
from bmi.wiring import open_core, open_tools
from bmi.workflow.tools import Tools

STORES = ("local", "ceph")

Row = Mapping[str, Any]


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with `--json FILE`; a benchmark adds its own options."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result to FILE as JSON")
    return made


def seconds(action: Callable[[], object]) -> float:
    """How long `action` took, in seconds of wall time."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def median_ms(samples_s: Sequence[float]) -> float:
    """The median of times in seconds, in milliseconds."""
    return round(statistics.median(samples_s) * 1000, 3)


def publish(bench: str, rows: Sequence[Row], json_file: Path | None) -> None:
    """Prints `rows` (all with the same keys) as a table; writes `{"bench", "rows"}` to `json_file`."""
    if json_file:
        json_file.write_text(json.dumps({"bench": bench, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    columns = list(rows[0])
    cells = [columns, *([f"{row[column]}" for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        click.echo("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


@contextmanager
def opened_tools(storage: str, place: Path, *, size_gib: int) -> Iterator[Tools]:
    """What a BMI works with that has all its data below `place`, with an empty store of that size: a local
    one, or one on a Ceph cluster (BlueStore, one copy) that is started for the length of the block.
    """
    if storage == "local":
        try:
            yield _tools(place, "local", {"size_gib": size_gib})
        finally:
            unmount(place / "data" / "storage")
        return
    cluster = CephCluster.up(place / "ceph", store="bluestore", size_gib=size_gib, mgr=True)
    try:
        keyring = cluster.make_user("bmi", {"mon": "profile rbd", "osd": f"profile rbd pool={cluster.pool}"})
        options = {"conf": str(cluster.conf), "user": "bmi", "keyring": str(keyring), "pool": cluster.pool}
        yield _tools(place, "ceph", options)
    finally:
        cluster.down()


def _tools(place: Path, storage: str, options: dict[str, Any]) -> Tools:
    core = open_core(
        Settings(
            server=ServerSettings(data_dir=place / "data", run_dir=place / "run"),
            storage=StorageSettings(driver=storage, options=options),
            uplink=UplinkSettings(driver="fake"),
        )
    )
    tools = open_tools(core)
    click.echo(tools.storage.check())
    return tools
