"""A site removes only what is its own."""

from pathlib import Path

import pytest

from bmi.errors import ConfigError
from bmi.lab.site import Site


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    site = Site(tmp_path, "careful")
    for act in (site.down, lambda: site.up(nodes=1, port=7569)):
        with pytest.raises(ConfigError, match="something else"):
            act()
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_site_that_never_was_is_down_already(tmp_path: Path) -> None:
    site = Site(tmp_path / "nothing", "careful")
    site.down()
    assert site.leftovers() == []
