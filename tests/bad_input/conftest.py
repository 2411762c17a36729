"""A site behind a real server, and the look at everything that there is, known or outside."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from bmi.client import Client, Operation
from bmi.drivers.switch import CLOSED
from bmi.errors import BmiError, from_problem
from bmi.workflow.engine import Engine
from bmi.workflow.steps import OUTCOMES, STEPS
from bmi.workflow.tools import Tools
from tests.installation import Site, furnished, site
from tests.live import api_of, serving

__all__ = ["furnished", "site"]

# What happened stays written down; everything else must be as it was.
_HISTORY = {"operations", "steps", "events", "boot_sessions", "tokens", "ports"}


@dataclass
class Place:
    """A site as an administrator sees it, and with its worker's tools to look behind it."""

    site: Site
    client: Client
    tools: Tools

    def equip(self, **tools: Any) -> None:
        """Gives the worker other tools; its steps are tried again without a pause."""
        self.tools = replace(self.tools, **tools)
        quick = {name: replace(step, backoff_s=0.01) for name, step in STEPS.items()}
        self.site.close()
        self.site.engine = Engine(self.site.database, quick, OUTCOMES, self.tools, owner="test", threads=4)

    def ended(self, operation: Operation, *came_up: str) -> Operation:
        """The operation when the worker has done what it can; the nodes that `came_up` boot meanwhile."""
        self.site.settle(*came_up)
        return self.client.get_operation(operation["id"])

    def succeeds(self, operation: Operation, *came_up: str) -> None:
        ended = self.ended(operation, *came_up)
        assert ended["state"] == "succeeded", ended["problem"]

    def fails(self, operation: Operation) -> BmiError:
        """The problem of an operation that has to fail: a sentence about this case, and what to do."""
        ended = self.ended(operation)
        assert ended["state"] == "failed"
        problem = ended["problem"]
        assert problem
        assert problem["detail"].endswith(".")
        assert problem["remedy"]
        left = [step["problem"] for step in ended["steps"] if (step["problem"] or {}).get("undo")]
        assert left == [], "something could not be undone"
        return from_problem(problem)

    def outside(self) -> dict[str, Any]:
        """What there is in the world."""
        files = {
            place: sorted(path.name for path in (self.site.directory / place).glob("*"))
            for place in ("uploads", "boot", "work")
        }
        fakes = self.site.fakes
        return files | {
            "store": sorted(found.ref.outside_name for found in self.tools.storage.list()),
            "staged": sorted(self.tools.storage.list_staged()),
            "portals": fakes["export"].world.read("portals"),
            "feet": fakes["uplink"].world.read("feet"),
            "ports": {name: found for name, found in self.site.switch.list().items() if found != CLOSED},
        }

    def everything(self) -> dict[str, Any]:
        """The world, and what is known of it."""
        known = {name: found for name, found in self.site.everything().items() if name not in _HISTORY}
        return self.outside() | known


@pytest.fixture
def place(site: Site) -> Iterator[Place]:
    with (
        serving(api_of(site)) as url,
        Client(url, site.token("root")) as client,
    ):
        made = Place(site, client, site._tools(site.core.settings))
        made.equip()
        yield made
