"""Switches, ports and cables on the command line."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from tests.installation import Site


@pytest.fixture
def rack(site: Site, bmi: Shell, tmp_path: Path) -> Iterator[Shell]:
    """A switch sw2 with a port that nothing is cabled to, and a worker that works."""
    bmi("switch", "register", "sw2", "--driver", "fake")
    file = tmp_path / "cables.csv"
    file.write_text("switch,port,node,nic\nsw2,spare,,\n")
    assert bmi("switch", "cable", str(file)).stdout == "1 cable taken down.\n"
    site.settle()
    with site.working():
        yield bmi


def test_cables_from_json_and_csv(site: Site, bmi: Shell, tmp_path: Path) -> None:
    bmi("switch", "register", "sw2", "--driver", "fake")
    file = tmp_path / "cables.json"
    file.write_text(json.dumps([{"switch": "sw2", "port": "p1", "node": "n3", "nic": "boot"}]))
    assert bmi.json("switch", "cable", str(file)) == {"cables": 1}
    shown = bmi("switch", "show", "sw2").stdout
    assert shown.splitlines()[0] == "sw2: fake, 1 port"
    assert ["p1", "n3", "boot", "closed", "no", "-"] in [line.split() for line in shown.splitlines()]
    assert bmi.json("switch", "show", "sw2")["ports"][0]["node"] == "n3"


@pytest.mark.parametrize(
    ("name", "text"),
    [("c.json", "{"), ("c.json", '{"switch": "sw1"}'), ("c.csv", "switch,port\nsw1,p1,n1,boot\n")],
)
def test_a_file_that_is_no_list_of_cables(bmi: Shell, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    bmi("switch", "cable", str(tmp_path / name), exits=2)


def test_a_wrong_line_is_named(bmi: Shell, tmp_path: Path) -> None:
    file = tmp_path / "c.csv"
    file.write_text("switch,port,node\nsw1,p1,\nsw7,p2,\n")
    assert "Cable 2 (sw7 p2)" in bmi("switch", "cable", str(file), exits=3).stderr


def test_check_diff_and_repair(site: Site, rack: Shell) -> None:
    assert "fake switch" in rack("switch", "check", "sw2").stdout
    assert "0 differences left" in rack("switch", "diff", "sw2").stdout
    site.switch.world.change("ports", lambda table: table.update(spare={"native": 300, "tagged": []}))
    differs = rack("switch", "diff", "sw2", exits=1).stdout
    assert "Port spare should be closed, and is VLAN 300.\n" in differs
    assert rack.json("switch", "diff", "sw2", exits=1)["differences"][0]["mended"] is False
    assert "is VLAN 300: mended." in rack("switch", "repair", "sw2").stdout
    assert "0 differences left" in rack("switch", "repair", "sw2", "--widen").stdout


def test_a_replaced_switch_gets_other_options(rack: Shell) -> None:
    changed = rack.json("switch", "set", "sw2", "--option", "root=far", "--option", "timeout_s=5")
    assert changed["options"] == {"root": "far", "timeout_s": 5}
    assert "is changed" in rack("switch", "set", "sw2", "--option", "timeout_s=null").stdout
    assert rack.json("switch", "show", "sw2")["options"] == {"root": "far"}
    rack("switch", "set", "sw2", "--option", "password=calvin", exits=4)


def test_hardware_that_is_gone_is_let_go_by_force(bmi: Shell, tmp_path: Path) -> None:
    file = tmp_path / "cables.csv"
    bmi("switch", "register", "sw2", "--driver", "fake")
    file.write_text("switch,port,node,nic\nsw2,p1,n3,boot\n")
    bmi("switch", "cable", str(file), "--force")
    file.write_text("switch,port,node,nic\nsw1,p1,n3,boot\n")
    assert "--force" in bmi("switch", "cable", str(file), exits=4).stderr
    bmi("switch", "cable", str(file), "--force")
    assert "--force" in bmi("switch", "delete", "sw2", exits=4).stderr
    assert "removed" in bmi("switch", "delete", "sw2", "--force").stdout
