"""The golden image's recipe, as far as it needs no network."""

import re
from pathlib import Path

import pytest

from bmi.errors import ConfigError
from bmi.lab import golden
from bmi.lab.golden import ensure_golden, find_apt_sources, recipe_digest

DEB822 = """\
Types: deb
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://other.test/tool
Suites: stable
Components: main
"""


def test_only_the_sources_of_the_release_are_used(tmp_path: Path) -> None:
    listings = tmp_path / "sources.list.d"
    listings.mkdir()
    (listings / "debian.sources").write_text(DEB822, encoding="utf-8")
    (listings / "tool.list").write_text("deb http://tool.test/apt tool-bookworm main\n", encoding="utf-8")
    (tmp_path / "sources.list").write_text(
        "# deb http://old.test/debian bookworm main\n"
        "deb [arch=amd64] http://security.test/debian bookworm-security main contrib\n",
        encoding="utf-8",
    )
    text = find_apt_sources(tmp_path)
    assert re.findall(r"^URIs: (.*)$", text, re.MULTILINE) == [
        "http://security.test/debian",
        "http://mirror.test/debian",
    ]
    assert "Components: main contrib" in text
    assert text.count("\n\n") == 1, "stanzas are kept apart"


def test_a_machine_without_such_a_source_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no source of Debian .* Add Debian"):
        find_apt_sources(tmp_path)


def test_a_golden_image_that_is_there_is_used_as_it_is(tmp_path: Path) -> None:
    made = tmp_path / f"debian-12-{recipe_digest()}.qcow2"
    made.touch()
    assert ensure_golden(tmp_path, progress=pytest.fail) == made


@pytest.mark.parametrize("part", ["_PACKAGES", "_CLOUD_INIT", "_DPKG_OPTIONS"])
def test_what_goes_into_the_image_is_in_its_name(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    before = recipe_digest()
    monkeypatch.setattr(golden, part, "something else")
    assert recipe_digest() != before
