"""Secrets at rest."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bmi.errors import ConfigError
from bmi.store.vault import Vault


def test_what_is_sealed_can_be_opened_with_the_same_key_only(tmp_path: Path) -> None:
    ours, again, theirs = Vault.at(tmp_path / "a"), Vault.at(tmp_path / "a"), Vault.at(tmp_path / "b")
    sealed = ours.seal("calvin")

    assert "calvin" not in sealed
    assert again.open(sealed) == "calvin"
    with pytest.raises(ConfigError, match="cannot be opened"):
        theirs.open(sealed)


def test_the_key_is_its_owners_alone(tmp_path: Path) -> None:
    Vault.at(tmp_path / "secrets.key")
    assert stat.S_IMODE((tmp_path / "secrets.key").stat().st_mode) == 0o600


def test_no_secret_stays_no_secret(tmp_path: Path) -> None:
    vault = Vault.at(tmp_path / "secrets.key")
    assert vault.seal("") == ""
    assert vault.open("") == ""


def test_the_same_secret_looks_different_each_time(tmp_path: Path) -> None:
    vault = Vault.at(tmp_path / "secrets.key")
    assert vault.seal("calvin") != vault.seal("calvin")


def test_what_is_derived_is_the_same_each_time_and_depends_on_the_key(tmp_path: Path) -> None:
    ours, again, theirs = Vault.at(tmp_path / "a"), Vault.at(tmp_path / "a"), Vault.at(tmp_path / "b")
    assert ours.derive("n1") == again.derive("n1")
    assert len({ours.derive("n1"), ours.derive("n2"), theirs.derive("n1")}) == 3


def test_processes_that_start_together_agree_on_the_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        vaults = list(threads.map(Vault.at, [tmp_path / "secrets.key"] * 8))
    sealed = vaults[0].seal("calvin")
    assert {vault.open(sealed) for vault in vaults} == {"calvin"}
    assert [path.name for path in tmp_path.iterdir()] == ["secrets.key"]


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 44])
def test_a_damaged_key_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secrets.key"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"secrets\.key"):
        Vault.at(path)
