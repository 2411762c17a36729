"""The live list of steps, on a terminal that is none."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from rich.console import Console

from bmi.cli import output, waiting
from bmi.client.documents import Operation


def operation(state: str, *steps: tuple[str, str]) -> Operation:
    now = datetime.now(UTC)
    times = {"started_at": (now - timedelta(seconds=2)).isoformat(), "finished_at": now.isoformat()}
    title: dict[str, Any] = {
        "kind": "provision",
        "subject_kind": "node",
        "subject_name": "n1",
        "state": state,
    }
    shown = [{"name": name, "state": state, "problem": None, **times} for name, state in steps]
    return cast("Operation", title | times | {"steps": shown})


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of 100 columns is sent."""
    screen = io.StringIO()
    monkeypatch.setattr(
        "rich.console.Console",
        lambda **options: Console(file=screen, force_terminal=True, width=100, **options),
    )
    return screen


def test_the_live_list_shows_every_step_and_returns_the_end(screen: io.StringIO) -> None:
    def updates() -> Iterator[Operation]:
        yield operation("running", ("clone_volume", "running"), ("await_up", "pending"))
        yield operation("succeeded", ("clone_volume", "done"), ("await_up", "done"))

    assert waiting._live(updates())["state"] == "succeeded"
    shown = screen.getvalue()
    assert "provision of node n1" in shown
    assert "await_up" in shown
    assert "2.0 s" in shown


def test_the_live_list_shows_a_problem_as_it_is_written(screen: io.StringIO) -> None:
    failed = operation("failed", ("clone_volume", "failed"))
    failed["steps"][0]["problem"] = {"detail": "No room on [/dev/sda] [bold] :warning:"}
    waiting._live(iter([failed]))
    assert "No room on [/dev/sda] [bold] :warning:" in screen.getvalue()


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (None, None),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (10 << 30, "10.0 GiB"),
        (1 << 70, "1048576.0 PiB"),
    ],
)
def test_sizes(size_bytes: Any, shown: str | None) -> None:
    assert output.size(size_bytes) == shown
