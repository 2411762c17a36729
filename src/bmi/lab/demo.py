"""The main job of BMI on virtual bare metal, shown live and checked: what `script/demo` runs."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bmi.client import Client
from bmi.errors import BmiError
from bmi.lab import checks
from bmi.lab.golden import DEFAULT_CACHE, ensure_golden
from bmi.lab.site import Site, finished
from bmi.lab.timeline import Stage, Watch, stages_of

_IMAGE = "debian-12"
_OWNERS = {"n1": "red", "n2": "red", "n3": "blue"}


@dataclass
class Demo:
    """One run: what it works on, and what it found out."""

    site: Site
    console: Console
    golden: Path
    port: int
    clients: dict[str, Client] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def chapter(self, title: str) -> Iterator[None]:
        """Says what begins and how long it took."""
        began = time.monotonic()
        self.console.rule(f"[bold]{title}", align="left")
        yield
        self.console.print(f"[dim]done after {time.monotonic() - began:.1f} s")

    def say(self, sentence: str) -> None:
        self.console.print(sentence, soft_wrap=True)  # what a person copies must not be broken into lines

    # ---- chapters -------------------------------------------------------------------------------

    def build(self) -> None:
        """The data centre, and BMI in it."""
        with self.chapter("A data centre: three nodes behind a switch, and BMI"):
            self.site.up(nodes=len(_OWNERS), port=self.port)
            self.site.register_nodes()
            if self.site.storage == "ceph":
                self.say("images are in a [bold]Ceph[/] cluster of its own: one monitor, manager and OSD")
            for project in dict.fromkeys(_OWNERS.values()):
                own = [node for node, owner in _OWNERS.items() if owner == project]
                self.clients[project] = self.site.add_project(project, nodes=len(own))
                self.say(f"project [bold]{project}[/] has a boot network of its own, and {' and '.join(own)}")
            for node in self.site.lab.nodes:
                self.say(f"node [bold]{node.name}[/] {node.mac} on switch port {node.switch_port}, closed")
        with self.chapter(f"A golden image: {self.golden.name} becomes {_IMAGE}"):
            admin = self.site.client()
            finished(admin, admin.import_image(_IMAGE, self.golden, public=True))
            boot = admin.get_image(_IMAGE)["boot"] or {}
            self.say(f"{boot.get('os_name')}, its own kernel {boot.get('kernel_version')}")

    def provision(self, nodes: list[str], *, snapshot: str | None = None) -> dict[str, list[Stage]]:
        """Boots nodes side by side and shows every stage of each as it comes."""
        watch = Watch(self.console)
        operations = {}
        for node in nodes:
            client = self.clients[_OWNERS[node]]
            operation = client.provision_node(
                node,
                image=None if snapshot else _IMAGE,
                snapshot=snapshot,
                ssh_keys=[self.site.public_key()],
            )
            operations[node] = operation
            watch.add(client, node, _OWNERS[node], operation)
        watch.until_ended()
        for node, operation in operations.items():
            try:
                finished(self.clients[_OWNERS[node]], operation)
            except BmiError as error:
                raise StageFailedError(node, watch.last_stage(node), error) from error
        return {
            node: stages_of(self.clients[_OWNERS[node]], node, operation)
            for node, operation in operations.items()
        }

    def boot_all(self) -> None:
        with self.chapter("Three nodes boot from clones, side by side"):
            stages = self.provision(list(_OWNERS))
        rows = []
        for node, project in _OWNERS.items():
            client = self.clients[project]
            shown = client.get_node(node)
            rows.append(
                {
                    "name": node,
                    "project": project,
                    "image": shown["image"],
                    "address": shown["address"],
                    "up": shown["state"] == "active",
                    "hostname": self.site.login(node).run("hostname").stdout.strip(),
                    "stages": [{"name": stage.name, "seconds": stage.seconds} for stage in stages[node]],
                    "bytes_served": checks.bytes_served(self.site, node),
                }
            )
        self.summary["nodes"] = rows
        self.console.print(_table(rows))

    def check(self) -> None:
        site, summary = self.site, self.summary
        with self.chapter("Isolation: red's nodes meet each other, and nothing of blue's"):
            summary["isolation"] = checks.isolation(site, "n1", "n2", "n3")
            self.say(_told(summary["isolation"]))
        with self.chapter("Reboot: the data stays"):
            summary["reboot_keeps_data"] = checks.reboot_keeps_data(site, self.clients["red"], "n1")
            self.say(_told({"reboot_keeps_data": summary["reboot_keeps_data"]}))
        with self.chapter("The iSCSI target is killed (-9) under a node that writes"):
            summary["target_killed"] = checks.target_killed(site, "n1", "red")
            self.say(_told(summary["target_killed"]))
        with self.chapter("Snapshot of a running node; another node boots from it"):
            summary["snapshot"] = self._snapshot()
            self.say(_told(summary["snapshot"]))

    def _snapshot(self) -> dict[str, Any]:
        red = self.clients["red"]
        marker = checks.write_marker(self.site, "n1")
        began = time.monotonic()
        finished(red, red.create_snapshot("n1", "before-upgrade"))
        seconds = time.monotonic() - began
        finished(red, red.release_node("n2"))
        self.provision(["n2"], snapshot="before-upgrade")
        return {
            "seconds": round(seconds, 3),
            "booted_from_snapshot": red.get_node("n2")["snapshot"] == "before-upgrade",
            "sees_marker_file": checks.read_marker(self.site, "n2") == marker,
        }

    def release(self) -> None:
        with self.chapter("Release: off, port closed, clone gone"):
            self.summary["release"] = checks.release(
                self.site, {n: self.clients[p] for n, p in _OWNERS.items()}
            )
            self.say(_told(self.summary["release"]))

    def ways_in(self) -> None:
        self.say("")
        for node in _OWNERS:
            self.say(f"into {node}:  " + " ".join(self.site.login(node).command))
        self.say(
            f"the CLI:  export BMI_CONFIG={self.site.config_path}; {Path(sys.executable).with_name('bmi')} node list"
        )
        settings = self.site.settings
        self.say(f"the API:  http://{settings.server.host}:{settings.server.port}/v1/openapi.json")
        self.say(f"consoles: {self.site.directory}/lab/nodes/*/console.log")


class StageFailedError(Exception):
    """A node did not come up."""

    def __init__(self, node: str, stage: str, problem: BmiError) -> None:
        super().__init__(f"Node {node} failed after stage {stage!r}: {problem}")
        self.node = node


def _told(facts: dict[str, Any]) -> str:
    return "\n".join(f"  {name.replace('_', ' ')}: [bold]{_shown(value)}[/]" for name, value in facts.items())


def _shown(value: object) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("node", "project", "address", "hostname", "stages (seconds since the request)", "read")
    for row in rows:
        stages = "  ".join(f"{stage['name']} {stage['seconds']:.1f}" for stage in row["stages"])
        read = f"{row['bytes_served'] / (1 << 20):.0f} MiB"
        table.add_row(row["name"], row["project"], row["address"], row["hostname"], stages, read)
    return table


def _failures(summary: dict[str, Any]) -> list[str]:
    """Every check that did not come out as it must."""
    expected: list[tuple[str, Callable[[dict[str, Any]], bool]]] = [
        (
            "all nodes are up under their names",
            lambda s: all(n["up"] and n["hostname"] == n["name"] for n in s["nodes"]),
        ),
        ("nodes of one project reach each other", lambda s: s["isolation"]["same_project_reachable"]),
        ("another project's node is out of reach", lambda s: not s["isolation"]["other_project_reachable"]),
        (
            "another project's volume cannot be read",
            lambda s: not s["isolation"]["other_project_volume_readable"],
        ),
        ("a reboot keeps the data", lambda s: s["reboot_keeps_data"]),
        ("a killed target costs no I/O error", lambda s: s["target_killed"]["io_errors"] == 0),
        ("a node boots from a snapshot", lambda s: s["snapshot"]["booted_from_snapshot"]),
        ("… and sees the marker file", lambda s: s["snapshot"]["sees_marker_file"]),
        ("released volumes are gone", lambda s: s["release"]["volume_gone"]),
        ("released ports are closed", lambda s: s["release"]["port_closed"]),
        ("nothing is left behind", lambda s: not s["left_behind"]),
    ]
    return [sentence for sentence, holds in expected if not holds(summary)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/demo", description=__doc__)
    parser.add_argument(
        "--storage", choices=["local", "ceph"], default="local", help="where the images are (%(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running, and say how to get in")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the summary to FILE")
    parser.add_argument(
        "--name",
        default="demo",
        help="what its namespaces are called, for a second one beside it (%(default)s)",
    )
    parser.add_argument("--port", type=int, default=7560, help="where its server answers (%(default)s)")
    parser.add_argument(
        "--dir", type=Path, help="where everything of the demo is (/var/lib/bmi-NAME when it is not said)"
    )
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where the golden image is kept")
    parser.add_argument("--down", action="store_true", help="take down what --keep left, and nothing else")
    return parser.parse_args()


def main() -> int:
    """Runs the demo; the exit status is 0 when every check holds."""
    arguments = _arguments()
    console = Console(highlight=False)
    site = Site(
        arguments.dir or Path(f"/var/lib/bmi-{arguments.name}"), arguments.name, storage=arguments.storage
    )
    if arguments.down:
        try:
            site.down()
        except BmiError as error:
            console.print(str(error), style="bold red", markup=False)
            return 1
        return 0
    began = time.monotonic()
    golden = ensure_golden(arguments.cache, progress=lambda said: console.print(f"[dim]golden image: {said}"))
    demo = Demo(site, console, golden, arguments.port, summary={"storage": arguments.storage})
    try:
        demo.build()
        demo.boot_all()
        demo.check()
        if arguments.keep:
            demo.ways_in()
            return 0
        demo.release()
    except (StageFailedError, BmiError) as error:
        console.print(str(error), style="bold red", markup=False)
        for node in [error.node] if isinstance(error, StageFailedError) else _OWNERS:
            console.print(
                f"The last lines of the console of {node}:\n{site.console_tail(node)}", markup=False
            )
        return 1
    finally:
        if not arguments.keep:
            site.down()
        demo.summary["left_behind"] = [] if arguments.keep else site.leftovers()
        demo.summary["seconds_total"] = round(time.monotonic() - began, 1)
        if arguments.json:
            arguments.json.write_text(json.dumps(demo.summary, indent=2) + "\n", encoding="utf-8")
    failures = _failures(demo.summary)
    for failure in failures:
        console.print(f"[bold red]NOT TRUE: {failure}")
    verdict = "Some checks failed" if failures else "All checks hold"
    console.print(f"{verdict}; {demo.summary['seconds_total']} s in all.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
