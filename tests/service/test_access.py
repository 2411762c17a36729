"""Tokens: made, checked, ended."""

from pathlib import Path

import pytest

from bmi.domain.nouns import Role
from bmi.errors import (
    AlreadyExistsError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    UnauthenticatedError,
)
from bmi.service import access
from bmi.store.database import Database
from tests.installation import SITE, Site


@pytest.fixture
def empty(database: Database, tmp_path: Path) -> Site:
    return Site(database, tmp_path / "site")


def test_a_token_is_who_it_was_made_for(empty: Site) -> None:
    empty.project("red")
    member = access.authenticate(empty.core, empty.token("m", "red"))
    assert (member.name, member.role, member.is_admin) == ("m", Role.MEMBER, False)
    assert access.whoami(empty.core, member) == access.Identity("red", None, None)
    assert access.authenticate(empty.core, empty.token("a")).is_admin
    with pytest.raises(ForbiddenError):
        access.create_token(empty.core, member, "x", project="red")
    with pytest.raises(NotFoundError):
        access.create_token(empty.core, SITE, "x", project="green")
    with pytest.raises(AlreadyExistsError):
        empty.token("m")


@pytest.mark.parametrize("role", [Role.READER, Role.MEMBER])
def test_a_role_without_a_project_is_no_administrator(empty: Site, role: Role) -> None:
    with pytest.raises(InvalidInputError, match="role"):
        access.create_token(empty.core, SITE, "watch", project=None, role=role)
    with pytest.raises(NotFoundError):
        access.create_token(empty.core, SITE, "watch", project="", role=role)


def test_a_token_ends_when_it_should(empty: Site) -> None:
    lasting = access.create_token(empty.core, SITE, "lasting", project=None, lifetime_s=60)
    access.authenticate(empty.core, lasting.secret)
    empty.database.now = lambda: lasting.token.created_at + 60
    with pytest.raises(UnauthenticatedError):
        access.authenticate(empty.core, lasting.secret)
    revoked = empty.token("revoked")
    access.revoke_token(empty.core, SITE, "revoked")
    with pytest.raises(UnauthenticatedError):
        access.authenticate(empty.core, revoked)
    with pytest.raises(NotFoundError):
        access.revoke_token(empty.core, SITE, "revoked")


def test_one_tokens_secret_does_not_open_another(empty: Site) -> None:
    first, second = empty.token("first"), empty.token("second")
    swapped = f"{first.rpartition('_')[0]}_{second.split('_', 2)[2]}"
    for wrong in (swapped, first[:-1], first + "x", first.replace("bmi_", "imb_"), "", "_", "bmi__", "bmi"):
        with pytest.raises(UnauthenticatedError, match="unknown, expired or revoked"):
            access.authenticate(empty.core, wrong)


def test_a_new_installation_has_an_administrators_token_in_a_private_file(empty: Site) -> None:
    path = empty.directory / "admin-token"
    assert access.ensure_admin_token(empty.core, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert access.authenticate(empty.core, path.read_text().strip()).is_admin
    assert not access.ensure_admin_token(empty.core, path)
    path.unlink()
    assert access.ensure_admin_token(empty.core, path)
    names = [view.token.name for view in access.list_tokens(empty.core, SITE)]
    assert names == ["admin", "admin-2"]
