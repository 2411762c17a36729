"""What happened to a node when, from its events and its operation."""

import time
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console

from bmi.client import Client, has_ended
from bmi.client.documents import Event, Operation


@dataclass(frozen=True)
class Stage:
    """A moment in a boot; `seconds` since the request was accepted."""

    name: str
    seconds: float


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def stages_of(client: Client, node: str, operation: Operation) -> list[Stage]:
    """The stages of the boot that an operation brought about, each when it was first seen."""
    accepted = _moment(operation["created_at"])
    stages: dict[str, Stage] = {}
    for event in client.list_events(node):
        seconds = _moment(event["at"]) - accepted
        if seconds >= 0 and event["stage"] not in stages:
            stages[event["stage"]] = Stage(event["stage"], round(seconds, 2))
    return list(stages.values())


@dataclass
class _Watched:
    client: Client
    project: str
    operation: Operation
    seen: int
    last: str = "accepted"


class Watch:
    """Prints the stages of several nodes as they come."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._nodes: dict[str, _Watched] = {}

    def add(self, client: Client, node: str, project: str, operation: Operation) -> None:
        """Watches a node from the beginning of `operation` on."""
        old = [
            e["id"] for e in client.list_events(node) if _moment(e["at"]) < _moment(operation["created_at"])
        ]
        self._nodes[node] = _Watched(client, project, operation, max(old, default=0))

    def last_stage(self, node: str) -> str:
        """The last stage that was seen."""
        return self._nodes[node].last

    def until_ended(self) -> None:
        """Returns when all the operations have ended."""
        live = set(self._nodes)
        while live:
            for node in sorted(live):
                watched = self._nodes[node]
                ended = has_ended(watched.client.get_operation(watched.operation["id"]))
                self._print_new(node, watched)
                if ended:
                    live.discard(node)
            time.sleep(0.3)

    def _print_new(self, node: str, watched: _Watched) -> None:
        for event in watched.client.list_events(node):
            if event["id"] > watched.seen:
                watched.seen, watched.last = event["id"], event["stage"]
                self._print(node, watched, event)

    def _print(self, node: str, watched: _Watched, event: Event) -> None:
        seconds = _moment(event["at"]) - _moment(watched.operation["created_at"])
        self._console.print(
            f"{seconds:7.2f} s  [bold]{node}[/] ({watched.project})  {event['stage']:10} [dim]{event['detail']}"
        )
