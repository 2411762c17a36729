"""What was made from what, as far as the one who asks may see."""

from collections.abc import Sequence

import pytest

from bmi.domain.nouns import Actor
from bmi.errors import NotFoundError
from bmi.service import nodes, snapshots, volumes
from bmi.service.image_sources import Source
from bmi.service.lineage import Kin, lineage
from bmi.service.nodes import Order
from bmi.store import records
from tests.installation import SITE, Site
from tests.service.test_images import make


def drawn(family: Sequence[Kin]) -> list[tuple[str, str | None]]:
    """Each with its parent, by names."""
    names = {kin.id: f"{kin.kind} {kin.name}" for kin in family}
    return [(names[kin.id], names[kin.parent] if kin.parent else None) for kin in family]


@pytest.fixture
def family(site: Site, red: Actor) -> Site:
    """n1 from the image, frozen as s; n2 from that."""
    site.provision("n1", "red")
    snapshots.create_snapshot(site.core, red, "n1", "s")
    site.settle()
    nodes.provision_node(site.core, red, "n2", Order(snapshot="s"))
    site.settle("n2")
    return site


WHOLE = [
    ("image debian-12@1", None),
    ("volume n1", "image debian-12@1"),
    ("snapshot s", "volume n1"),
    ("volume n2", "snapshot s"),
]


def test_what_comes_of_something_stands_behind_it(family: Site, red: Actor) -> None:
    found = lineage(family.core, red)
    assert drawn(found) == WHOLE
    assert [kin.node for kin in found] == [None, "n1", None, "n2"]
    assert drawn(lineage(family.core, SITE)) == WHOLE
    assert drawn(lineage(family.core, red, image="debian-12")) == WHOLE
    assert drawn(lineage(family.core, red, image="debian-12@1")) == WHOLE


def test_others_are_not_seen(family: Site, blue: Actor) -> None:
    assert drawn(lineage(family.core, blue)) == WHOLE[:1]
    assert drawn(lineage(family.core, SITE, project="blue")) == WHOLE[:1]
    family.add_image("secret", "red")
    with pytest.raises(NotFoundError):
        lineage(family.core, blue, image="secret")


def test_what_a_snapshot_was_taken_of_may_be_gone(family: Site, red: Actor) -> None:
    nodes.release_node(family.core, red, "n1")
    family.settle()
    assert drawn(lineage(family.core, red)) == [
        ("image debian-12@1", None),
        ("snapshot s", "image debian-12@1"),
        ("volume n2", "snapshot s"),
    ]


def test_an_image_made_from_a_snapshot_comes_of_it(family: Site, red: Actor) -> None:
    image_id = family.add_image("web", "red")
    with family.database.write() as tx:
        snapshot = records.snapshots.find(tx, name="s")
        assert snapshot is not None
        origin = {"kind": "snapshot", "name": "s", "id": snapshot.id}
        records.images.update(tx, id=image_id, values={"origin": origin})
    assert ("image web@1", "snapshot s") in drawn(lineage(family.core, red))
    assert drawn(lineage(family.core, red, image="web")) == [("image web@1", None)]


def test_a_circle_is_cut(family: Site, red: Actor) -> None:
    """n1 gets the bytes of a snapshot of its own grandchild."""
    snapshots.create_snapshot(family.core, red, "n2", "t")
    nodes.release_node(family.core, red, "n1", keep_volume=True)
    family.settle()
    volumes.roll_back_volume(family.core, red, "n1", "t", force=True)
    family.settle()
    found = lineage(family.core, red)
    assert len(found) == 5
    assert len({kin.id for kin in found}) == 5
    seen: set[str] = set()
    for kin in found:
        assert kin.parent is None or kin.parent in seen
        seen.add(kin.id)


def test_an_image_made_of_a_volume_comes_of_it(site: Site, red: Actor) -> None:
    site.provision("n1", "red")
    make(site, red, "web", Source(volume="n1"))
    site.settle()
    assert ("image web@1", "volume n1") in drawn(lineage(site.core, red))
