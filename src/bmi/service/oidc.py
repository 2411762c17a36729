"""Logging in through an OpenID provider: authorization code with PKCE, for which this server is the client.

1. `begin`: the caller keeps a verifier and gives its hash; they send their browser to the provider.
2. `find`: the provider sends the browser back to us with a code. We show from where and when the login was begun,
   and a word that the caller's terminal shows as well, and ask the person whether it is theirs: whoever follows
   another's link meets this page, which is all that keeps them from giving that other their login.
3. `finish`: they say so. We exchange the code, learn who it is, and send the browser on to the caller's loopback
   address (RFC 8252, 7.3), or show it a code to copy.
4. `redeem`: the caller shows that code with the verifier, and has logged in. The code alone is worth nothing.
"""

import base64
import hashlib
import hmac
import json
import logging
import re
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from requests import RequestException
from sqlalchemy import Connection

from bmi.config import OidcSettings
from bmi.domain.names import user_name
from bmi.domain.nouns import Json, Membership, OidcLogin, Role, User
from bmi.errors import (
    ConfigError,
    ConflictError,
    DriverError,
    ForbiddenError,
    InvalidInputError,
    InvalidStateError,
    UnauthenticatedError,
)
from bmi.service import login
from bmi.service.access import NewToken, hash_secret
from bmi.service.attempts import Attempt, count, counted
from bmi.service.core import Core
from bmi.store import records, schema
from bmi.store.ids import new_id

log = logging.getLogger(__name__)

_LIFETIME_S = 600
_TIMEOUT_S = 10
_LEEWAY_S = 60
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_LOOPBACK = re.compile(r"http://(127\.0\.0\.1|\[::1\]):[0-9]{1,5}/[A-Za-z0-9_-]{0,64}")
# What the libraries raise about answers that no provider should give.
_ODD = (RequestException, OAuthError, JoseError, AttributeError, LookupError, TypeError, ValueError)
# Signatures that only the provider can make; one with our shared secret proves less.
_ALGORITHMS = [f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)] + ["EdDSA"]


@dataclass(frozen=True)
class Finished:
    """What the browser is told: where to go on, or the code to copy when there is no such place."""

    redirect: str
    code: str
    user: User
    # What the provider's groups give now, as `oidc.groups` says it; None when they decide nothing.
    rights: tuple[str, ...] | None


@dataclass(frozen=True)
class Begun:
    """What a person is asked about: whether it was they who began this login."""

    login: OidcLogin
    address: str
    at: float
    word: str


def challenge_of(verifier: str) -> str:
    """What a verifier is known by before it is shown (RFC 7636, S256)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def word_of(challenge: str) -> str:
    """What a terminal and a browser both show of one login."""
    return challenge[:6]


def begin(core: Core, address: str, *, challenge: str, redirect: str) -> str:
    """The provider's page to send a browser to. `redirect` is the caller's loopback address, or empty."""
    settings = _settings(core)
    if redirect and not _LOOPBACK.fullmatch(redirect):
        raise InvalidInputError(
            "redirect",
            "it is not an address of the caller's own machine.",
            remedy="Use http://127.0.0.1:PORT/.",
        )
    # Whoever begins logins and never ends them counts as somebody who fails.
    count(core, Attempt(address))
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    with _provider(settings) as provider:
        url, _ = provider.client.create_authorization_url(
            provider.metadata["authorization_endpoint"], state=state, nonce=nonce, code_verifier=verifier
        )
    begun = OidcLogin(
        id=new_id(),
        state_hash=hash_secret(state),
        sealed=core.vault.seal(json.dumps({"nonce": nonce, "verifier": verifier})),
        challenge=challenge,
        redirect=redirect,
        address=address[:64],
        expires_at=core.now() + _LIFETIME_S,
    )
    with core.database.write() as tx:
        records.oidc_logins.delete(tx, schema.oidc_logins.c.expires_at <= core.now())
        records.oidc_logins.insert(tx, begun)
    return str(url)


def find(core: Core, state: str) -> Begun:
    """The login that a browser comes back from; raises UnauthenticatedError."""
    with core.database.read() as tx:
        found = records.oidc_logins.find(
            tx, schema.oidc_logins.c.expires_at > core.now(), state_hash=hash_secret(state), code_hash=None
        )
    if found is None:
        raise _ended()
    return Begun(found, found.address, found.expires_at - _LIFETIME_S, word_of(found.challenge))


def finish(core: Core, begun: OidcLogin, code: str) -> Finished:
    """Learns from the provider who it is. Raises UnauthenticatedError, and ForbiddenError for a stranger."""
    settings = _settings(core)
    own = json.loads(core.vault.open(begun.sealed))
    with _provider(settings) as provider:
        claims = provider.claims(code, verifier=own["verifier"], nonce=own["nonce"])
    try:
        return _let_in(core, settings, begun, claims)
    except ConflictError:
        # A first login of the same person at the same moment may have made the user.
        return _let_in(core, settings, begun, claims)


def _let_in(core: Core, settings: OidcSettings, begun: OidcLogin, claims: Mapping[str, Any]) -> Finished:
    ours = secrets.token_urlsafe(32)
    with core.write() as tx:
        user = _user(core, tx, settings, claims)
        values = {"code_hash": hash_secret(ours), "user_id": user.id}
        if not records.oidc_logins.update(tx, id=begun.id, code_hash=None, values=values):
            raise _ended()
    rights = tuple(sorted(_rights(settings, claims))) if settings.groups else None
    return Finished(begun.redirect, ours, user, rights)


def redeem(
    core: Core, address: str, code: str, *, verifier: str, project: str | None
) -> tuple[User, NewToken]:
    """The session of whoever began the login, in `project` as for a password; once."""
    # With `begin`, two tries of one login.
    with counted(core, Attempt(address), tries=2), core.write() as tx:
        begun = records.oidc_logins.find(
            tx, schema.oidc_logins.c.expires_at > core.now(), code_hash=hash_secret(code), lock=True
        )
        if (
            begun is None
            or begun.user_id is None
            or not hmac.compare_digest(challenge_of(verifier), begun.challenge)
        ):
            raise _ended()
        user = records.users.get(tx, begun.user_id)
        if user.disabled:
            raise _ended()
        made = login.open_session(core, tx, user, project)
        records.oidc_logins.delete(tx, id=begun.id)
    return user, made


def _ended() -> UnauthenticatedError:
    return UnauthenticatedError(
        "This login is unknown or has ended.", remedy="Begin again: bmi login --oidc."
    )


def _settings(core: Core) -> OidcSettings:
    if not core.settings.oidc.issuer:
        raise InvalidStateError(
            "There is no OpenID provider here.", remedy="Log in with a password, or set oidc.issuer."
        )
    return core.settings.oidc


# ---- who it is --------------------------------------------------------------------------------------


def _user(core: Core, tx: Connection, settings: OidcSettings, claims: Mapping[str, Any]) -> User:
    """The user who is linked to the subject; by the site's groups a new one, with the rights of the groups."""
    subject = str(claims["sub"])[:255]
    user = records.users.find(tx, issuer=settings.issuer, subject=subject, lock=True)
    rights = _rights(settings, claims)
    if user is None and not rights:
        raise ForbiddenError(
            f"Nobody here is known as {subject!r} of {settings.issuer}.",
            remedy="Ask an administrator for it: bmi user link.",
        )
    if user is None:
        user = _new_user(core, tx, settings, subject, str(claims.get(settings.name_claim) or ""))
    if user.disabled:
        raise ForbiddenError(f"The user {user.name!r} is disabled.", remedy="Ask an administrator.")
    if settings.groups:
        _grant(tx, user, rights)
    return records.users.get(tx, user.id)


def _rights(settings: OidcSettings, claims: Mapping[str, Any]) -> set[str]:
    said = claims.get(settings.groups_claim) or []
    groups = [said] if isinstance(said, str) else said if isinstance(said, list) else []
    return {right for group in groups for right in settings.groups.get(str(group), [])}


def _new_user(core: Core, tx: Connection, settings: OidcSettings, subject: str, said: str) -> User:
    name = user_name(said.lower(), settings.name_claim)
    if records.users.find(tx, name=name):
        # Only an administrator knows whether it is the same person.
        raise ConflictError(
            f"There is another user {name!r}.", remedy="Ask an administrator to link it: bmi user link."
        )
    user = User(new_id(), name, core.now(), issuer=settings.issuer, subject=subject)
    return records.users.insert(tx, user)


def _grant(tx: Connection, user: User, rights: set[str]) -> None:
    records.users.update(tx, id=user.id, values={"admin": "admin" in rights})
    records.memberships.delete(tx, user_id=user.id)
    roles: dict[str, Role] = {}
    for right in sorted(rights - {"admin"}):  # member comes before reader, and stays
        project, _, role = right.partition(":")
        roles.setdefault(project, Role(role))
    for name, role in roles.items():
        project_found = records.projects.find(tx, name=name)
        if project_found:
            records.memberships.insert(tx, Membership(user.id, project_found.id, role))
        else:
            log.warning("oidc.groups names a project %s, which is not there", name)


# ---- the provider -----------------------------------------------------------------------------------


class _provider:  # noqa: N801  # used like a function: one conversation
    """One conversation with the provider; its errors become ours."""

    def __init__(self, settings: OidcSettings) -> None:
        self._settings = settings
        secret = None
        if settings.client_secret_file:
            try:
                secret = settings.client_secret_file.read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    "The file of oidc.client_secret_file cannot be read.", remedy="Correct the setting."
                ) from error
        self.client = OAuth2Session(
            client_id=settings.client_id,
            client_secret=secret,
            scope=settings.scopes,
            redirect_uri=settings.callback_url,
            code_challenge_method="S256",
            default_timeout=_TIMEOUT_S,
            # It is used at once, however short it lasts.
            leeway=0,
        )
        # The system's own certificates, to which sites add theirs.
        trusted = ssl.get_default_verify_paths()
        self.client.verify = trusted.cafile or trusted.capath or True
        self.metadata: Json = {}

    def __enter__(self) -> Self:
        self.metadata = self._get(f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration")
        if self.metadata.get("issuer") != self._settings.issuer:
            raise self._failed("It calls itself otherwise")
        for name in _ENDPOINTS:
            if not isinstance(self.metadata.get(name), str):
                raise self._failed(f"It has no {name}")
        ways = self.metadata.get("token_endpoint_auth_methods_supported") or []
        if self.client.client_secret and ways and "client_secret_basic" not in ways:
            self.client.token_endpoint_auth_method = "client_secret_post"  # noqa: S105  # a way, not a secret
        return self

    def __exit__(self, *_raised: object) -> None:
        self.client.close()

    def _get(self, url: str, **more: Any) -> Json:
        try:
            answer = self.client.get(url, withhold_token=not more.pop("authorised", False))
            answer.raise_for_status()
            found = answer.json()
        except _ODD as error:
            raise self._failed(type(error).__name__) from error
        if not isinstance(found, dict):
            raise self._failed("Its answer is no JSON object")
        return found

    def _failed(self, why: str) -> DriverError:
        return DriverError(
            f"The OpenID provider does not answer as it should ({why}).",
            remedy="Try again; then ask an administrator to look at oidc.issuer.",
        )

    def claims(self, code: str, *, verifier: str, nonce: str) -> Json:
        """What the provider says of who has logged in, checked (OpenID Connect Core 1.0, 3.1.3.7)."""
        try:
            given = self.client.fetch_token(
                self.metadata["token_endpoint"],
                grant_type="authorization_code",
                code=code,
                code_verifier=verifier,
            )
        except OAuthError as error:
            log.warning("The OpenID provider refused a code: %s", error)
            raise UnauthenticatedError(
                "The OpenID provider does not know this login.", remedy="Begin again: bmi login --oidc."
            ) from error
        except _ODD as error:
            raise self._failed(type(error).__name__) from error
        if not isinstance(given, Mapping):
            raise self._failed("Its token is no JSON object")
        claims = self._checked(str(given.get("id_token", "")), nonce)
        wanted = {self._settings.groups_claim, self._settings.name_claim}
        if "userinfo_endpoint" in self.metadata and not wanted <= claims.keys():
            more = self._get(self.metadata["userinfo_endpoint"], authorised=True)
            if more.get("sub") == claims["sub"]:
                claims = more | claims
        return claims

    def _keys(self) -> KeySet:
        found = self._get(self.metadata["jwks_uri"])
        try:
            return KeySet.import_key_set(found)  # type: ignore[arg-type]  # any JSON
        except _ODD as error:
            raise self._failed(f"Its keys: {type(error).__name__}") from error

    def _checked(self, id_token: str, nonce: str) -> Json:
        keys = self._keys()
        options = {
            "iss": {"essential": True, "value": self._settings.issuer},
            "aud": {"essential": True, "value": self._settings.client_id},
        }
        asked = {"nonce": nonce, "client_id": self._settings.client_id}
        try:
            token = jwt.decode(id_token, keys, algorithms=_ALGORITHMS)
            claims = CodeIDToken(token.claims, token.header, options, asked)
            claims.validate(leeway=_LEEWAY_S)
        except (JoseError, ValueError) as error:
            log.warning("An ID token was refused: %s", error)
            raise UnauthenticatedError(
                "The OpenID provider's word cannot be believed.",
                remedy="Ask an administrator to see the log.",
            ) from error
        return dict(token.claims)
