"""A node that is not what it was said to be."""

import pytest

from bmi.errors import BusyError, NotFoundError, TimedOutError
from tests.bad_input.conftest import Place


def test_a_node_with_another_mac_is_never_seen(place: Place) -> None:
    """Nothing that it asks is ever answered as this node: it is out of time, and cut off again."""
    place.equip(boot_timeout_s=0.2)
    before, outside = place.everything(), place.outside()

    failed = place.client.provision_node("n1", image="debian-12", project="red")
    problem = place.fails(failed)

    assert isinstance(problem, TimedOutError)
    assert "never asked for an address" in problem.detail
    assert "MAC address" in problem.remedy
    assert place.outside() == outside
    place.succeeds(place.client.release_node("n1"))
    place.succeeds(place.client.free_node("n1"))
    assert place.everything() == before
    place.succeeds(place.client.provision_node("n1", image="debian-12", project="red"), "n1")


def test_what_is_refused_at_once_changes_nothing(place: Place) -> None:
    before = place.everything()
    with pytest.raises(NotFoundError, match="no image 'debian-13'"):
        place.client.provision_node("n1", image="debian-13", project="red")
    assert place.everything() == before

    first = place.client.provision_node("n1", image="debian-12", project="red")
    asked = place.everything()
    with pytest.raises(BusyError, match=first["id"]):
        place.client.provision_node("n1", image="debian-12", project="blue")
    assert place.everything() == asked
    place.succeeds(first, "n1")
