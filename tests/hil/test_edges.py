"""What people and programs see of HIL: the command line over a real server, and the refusals where there is none."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bmi.api.app import create_app
from bmi.config import IsolationSettings
from bmi.drivers.faults import FakeWorld
from bmi.drivers.isolation.fake import FakeIsolation
from bmi.service import allocation
from bmi.workflow import inventory
from tests.cli.conftest import Shell
from tests.installation import SITE, Site, furnished, site
from tests.live import serving

__all__ = ["furnished", "site"]


def _shell(site: Site, url: str) -> Shell:
    return Shell(url, site.token("root"))


@pytest.fixture
def service(site: Site, tmp_path: Path) -> FakeIsolation:
    """A service that the site takes its nodes from, with the nodes that the site has."""
    settings = site.core.settings.model_copy(update={"isolation": IsolationSettings(driver="fake")})
    site.core = replace(site.core, settings=settings)
    made = FakeIsolation(FakeWorld(tmp_path / "isolation"))
    site.engine._tools = replace(site.engine._tools, isolation=made)
    for name in ("n1", "n2", "n3"):
        made.put(name)
    return made


@pytest.fixture
def bmi(site: Site, service: FakeIsolation) -> Iterator[Shell]:
    with serving(create_app(site.core, uploads_dir=site.uploads)) as url, site.working():
        yield _shell(site, url)


def test_nodes_are_taken_over(bmi: Shell, service: FakeIsolation) -> None:
    nics = [("boot", "52:54:00:aa:00:01", "n4/boot"), ("data", "52:54:00:aa:00:02", None)]
    service.put("n4", nics=nics)
    service.put("n5", nics=[("boot", "52:54:00:aa:00:01", "n5/boot")])
    service.put("n6")
    service.put("n7", nics=nics, owner="somebody")
    said = bmi("node", "sync").output
    assert "n4 is being registered" in said
    assert "n5 is left: mac: another node has this address." in said
    assert "n6 is left: node: it has no NIC there." in said
    assert "n7 is left: node: it belongs to project somebody there." in said
    assert "7 nodes there, 1 new." in said
    assert bmi.json("node", "sync")["added"] == []
    assert bmi.json("node", "show", "n4")["mac"] == "52:54:00:aa:00:01"


def test_a_project_may_have_another_name_there(bmi: Shell, service: FakeIsolation) -> None:
    bmi("project", "create", "green", "--claims-as", "verde", "--wait")
    assert bmi.json("project", "show", "green")["claims_as"] == "verde"
    assert bmi.json("project", "show", "red")["claims_as"] is None


def test_a_member_does_not_learn_who_else_has_the_node(
    site: Site, bmi: Shell, service: FakeIsolation
) -> None:
    [begun] = allocation.allocate_nodes(site.core, SITE, 1, project="red").operations
    bmi("operation", "wait", begun.operation.id)
    service.put("n1", owner="somebody", claimed=False)
    inventory.look(site.engine._tools)
    assert "to somebody where it is taken from" in bmi.json("node", "show", "n1")["problem"]["detail"]
    member = Shell(bmi.url, site.token("member", "red"))
    problem = member.json("node", "show", "n1")["problem"]
    assert problem["type"].endswith(":not-held")
    assert "somebody" not in str(problem)


def test_a_service_that_is_away(bmi: Shell, service: FakeIsolation) -> None:
    service.world.set_fault("nodes", error="The service is away.", retryable=False)
    assert "The service is away." in bmi("node", "sync", exits=1).stderr


def test_without_such_a_service_there_is_nothing_to_take(site: Site) -> None:
    with serving(create_app(site.core, uploads_dir=site.uploads)) as url:
        bmi = _shell(site, url)
        assert "takes its nodes from nowhere else" in bmi("node", "sync", exits=4).stderr
        refused = bmi("project", "create", "green", "--claims-as", "verde", exits=4)
        assert "claims_as" in refused.stderr
