"""bmi volume, snapshot, storage, image tree, project usage and quota."""

import json
from xml.etree import ElementTree as ET

import pytest

from bmi.cli.sizes import NO_LIMIT, limit, size
from bmi.drivers.storage import Ref
from bmi.store import records
from tests.cli.conftest import Shell
from tests.installation import Site


def test_a_volume_goes_from_node_to_node(site: Site, red: Shell) -> None:
    site.give("red", "n2")
    site.will_boot("n1", "n2")
    with site.working():
        red("provision", "n1", "--image", "debian-12", "--size", "1GiB", "--wait")
        red("release", "n1", "--keep-volume", "--as", "web", "--wait")
        assert "1.0 GiB" in red("volume", "show", "web").stdout
        red("volume", "rename", "web", "site")
        red("snapshot", "create", "site", "s", "--volume", "--wait")
        assert "site" in red("snapshot", "list").stdout
        red("snapshot", "rename", "s", "before")
        red("volume", "rollback", "site", "before", "--wait")
        red("provision", "n2", "--volume", "site", "--wait")
        assert "n2" in red("volume", "list").stdout
        assert red.json("node", "show", "n2")["volume"]["name"] == "site"
        refused = red("node", "rollback", "n2", "before", "--wait", exits=1)
        assert "The node 'n2' is on." in refused.stderr
        red("node", "power", "n2", "off", "--wait")
        red("node", "rollback", "n2", "before", "--wait")
        red("volume", "flatten", "site", "--wait")
        assert "0 B in 0 extents may differ." in red("volume", "diff", "before", "site").stdout
        found = red.json("volume", "diff", "snapshot:before", "volume:site")
        assert (found["bytes"], found["first_extents"]) == (0, [])
        red("release", "n2", "--keep-volume", "--wait")
        red("volume", "delete", "site", "--wait")
        red("snapshot", "delete", "before", "--wait")
    assert red.json("volume", "list") == []


def test_what_does_not_go_together_is_refused_at_once(red: Shell) -> None:
    red("provision", "n1", "--image", "debian-12", "--volume", "v", exits=2)
    red("provision", "n1", "--image", "debian-12", "--size", "much", exits=2)
    red("release", "n1", "--as", "v", exits=2)
    red("volume", "diff", "nothing", "debian-12", exits=4)


@pytest.mark.parametrize(
    ("text", "meant"),
    [("4096", 4096), ("40GiB", 40 << 30), ("1.5T", 3 << 39), ("500 m", 500 << 20), ("2KB", 2048)],
)
def test_sizes(text: str, meant: int) -> None:
    assert size(text) == limit(text) == meant
    assert limit("none") == NO_LIMIT


def test_quotas(site: Site, bmi: Shell, red: Shell) -> None:
    bmi("project", "quota", "red", "--volumes", "1", "--volume-bytes", "1TiB")
    site.provision("n1", "red")
    told = red("project", "usage").stdout
    assert ["volumes", "1", "1"] in [line.split() for line in told.splitlines()]
    assert "1.0 TiB" in told
    site.give("red", "n2")
    refused = red("provision", "n2", "--image", "debian-12", exits=4)
    assert "Project 'red' may have 1 volume; it has 1 volume" in refused.stderr
    assert bmi.json("project", "quota", "red", "--volumes", "none")["quota"] == {"volume_bytes": 1 << 40}
    red("project", "quota", "red", "--volumes", "5", exits=5)
    bmi("project", "quota", "red", exits=2)
    bmi("project", "usage", exits=2)


def test_the_family_is_drawn(site: Site, red: Shell) -> None:
    site.provision("n1", "red")
    with site.working():
        red("snapshot", "create", "n1", "s", "--wait")
    text = red("image", "tree", "debian-12").stdout
    assert text.splitlines()[0].startswith("image debian-12@1")
    assert "└── volume n1" in text
    assert "    └── snapshot s" in text
    assert [kin["kind"] for kin in red.json("image", "tree")] == ["image", "volume", "snapshot"]
    assert json.loads(red("image", "tree", "--format", "json").stdout) == red.json("image", "tree")
    dot = red("image", "tree", "--format", "dot").stdout
    assert dot.count(" -> ") == 2
    picture = ET.fromstring(red("image", "tree", "--format", "svg").stdout)
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(picture.findall("{*}g")) == 3
    assert len(picture.findall("{*}path")) == 2


def test_the_store_is_checked_and_mended(site: Site, bmi: Shell) -> None:
    with site.working():
        assert "1 object as written down, 0 differences." in bmi("storage", "check").stdout
        site.provision("n1", "red")
        with site.database.read() as tx:
            [volume] = records.volumes.list(tx)
        site.fakes["storage"].delete(Ref("volume", volume.id))
        lost = f"volume n1 ({volume.id}) is not in the store"
        assert lost in bmi("storage", "check", exits=1).stdout
        assert f"{lost}: mended" in bmi("storage", "check", "--repair").stdout
        assert bmi.json("volume", "show", "n1", "--project", "red")["state"] == "error"
        assert bmi.json("storage", "check")["different"] == 0
