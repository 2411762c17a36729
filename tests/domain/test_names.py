"""What things may be called."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmi.domain.names import image_name, image_reference, label, labels, mac_address, sha256
from bmi.domain.nouns import iscsi_name
from bmi.errors import InvalidInputError

_PAIR = st.integers(0, 255).map(lambda byte: f"{byte:02x}")


@pytest.mark.parametrize("name", ["n", "n7", "rack-1-node-12", "0", "a" * 63])
def test_a_label_is_a_host_name(name: str) -> None:
    assert label(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "-n", "n-", "N7", "n.7", "n_7", "n 7", "n/7", "../x", "n7\n", "ñ", "a" * 64, "n\x00", "٣"],
)
def test_what_is_no_label_is_refused_and_the_field_is_named(name: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        label(name, "hostname")
    assert refused.value.facts["field"] == "hostname"
    assert refused.value.remedy


@pytest.mark.parametrize("name", ["debian-12.5", "a", "x_86-64", "a" * 100])
def test_an_image_name_may_hold_dots_and_underscores(name: str) -> None:
    assert image_name(name) == name


@pytest.mark.parametrize(
    ("said", "name", "version"), [("debian-12", "debian-12", None), ("debian-12@3", "debian-12", 3)]
)
def test_a_version_stands_behind_an_at_sign(said: str, name: str, version: int | None) -> None:
    found = image_reference(said)
    assert (found.name, found.version, str(found)) == (name, version, said)


@pytest.mark.parametrize("said", ["os@", "@3", "os@0", "os@03", "os@x", "os@1@2", "os @1", "os@1\n", "os@٣"])
def test_what_names_no_version_is_refused(said: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        image_reference(said)
    assert refused.value.facts["field"] == "image"


def test_labels_and_checksums_are_checked() -> None:
    assert labels({"role": "web server"}) == {"role": "web server"}
    assert sha256("AB" * 32 + "\n") == "ab" * 32
    for bad in ({"": "x"}, {"a": "x" * 201}, {"a": "\0"}, {f"k{i}": "" for i in range(65)}):
        with pytest.raises(InvalidInputError):
            labels(bad)
    for digits in ("", "ab", "g" * 64, "a" * 65):
        with pytest.raises(InvalidInputError):
            sha256(digits)


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "x.", "a/b", "a@3", "A", "x\n", "a" * 101])
def test_what_is_no_image_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError):
        image_name(name)


@given(st.text())
def test_a_name_that_is_accepted_is_safe_as_a_file_name(text: str) -> None:
    try:
        name = image_name(text)
    except InvalidInputError:
        return
    assert re.fullmatch(r"[a-z0-9._-]+", name)
    assert not name.startswith((".", "-"))


@given(st.lists(_PAIR, min_size=6, max_size=6), st.sampled_from(":-"), st.booleans())
def test_every_unicast_address_is_accepted_in_every_writing(
    pairs: list[str], separator: str, upper: bool
) -> None:
    pairs[0] = f"{int(pairs[0], 16) & 0xFE:02x}"
    if set(pairs) == {"00"}:
        pairs[5] = "01"
    written = separator.join(pairs)
    assert mac_address(f" {written.upper() if upper else written} ") == ":".join(pairs)


@pytest.mark.parametrize(
    "mac",
    [
        "",
        "52:54:00:12:34",
        "52:54:00:12:34:56:78",
        "525400123456",
        "52:54:00:12:34:5g",
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
    ],
)
def test_what_no_nic_has_is_refused(mac: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        mac_address(mac)
    assert refused.value.facts["field"] == "mac"


def test_an_iscsi_name_tells_what_it_is_the_name_of() -> None:
    assert iscsi_name("iqn.2024-07.internal.bmi", "volume", "01x") == "iqn.2024-07.internal.bmi:volume-01x"
