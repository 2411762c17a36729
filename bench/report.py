"""What all benchmarks share: the --json option, medians, and the printed table."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
