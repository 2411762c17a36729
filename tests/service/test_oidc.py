"""OpenID providers that answer otherwise than they should."""

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from bmi.config import OidcSettings
from bmi.errors import DriverError, UnauthenticatedError
from bmi.service import oidc
from tests.installation import Site, furnished, site

__all__ = ["furnished", "site"]

HERE = "192.0.2.1"


class Provider:
    """Answers each address with what is in `answers`, which a test changes."""

    def __init__(self) -> None:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(provider.answers[self.path]).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_said: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = issuer = f"http://127.0.0.1:{self.server.server_port}"
        self.key = ECKey.generate_key("P-256", {"kid": "k"})
        self.answers: dict[str, Any] = {
            "/.well-known/openid-configuration": {
                "issuer": issuer,
                "authorization_endpoint": f"{issuer}/authorize",
                "token_endpoint": f"{issuer}/token",
                "jwks_uri": f"{issuer}/keys",
                "userinfo_endpoint": f"{issuer}/userinfo",
            },
            "/keys": {"keys": [self.key.as_dict(private=False)]},
            "/token": {"access_token": "a", "token_type": "Bearer", "expires_in": 60},
            "/userinfo": {"sub": "s-1", "preferred_username": "carol", "groups": ["physics"]},
        }

    def log_in(self, core: Any) -> oidc.Finished:
        url = oidc.begin(core, HERE, challenge="c" * 43, redirect="")
        asked = {name: value[0] for name, value in parse_qs(urlsplit(url).query).items()}
        if isinstance(self.answers["/token"], dict) and "id_token" not in self.answers["/token"]:
            now = int(time.time())
            claims = {"iss": self.issuer, "aud": "bmi", "sub": "s-1", "nonce": asked["nonce"]}
            header = {"alg": "ES256", "kid": "k"}
            self.answers["/token"]["id_token"] = jwt.encode(
                header, claims | {"iat": now, "exp": now + 60}, self.key
            )
        return oidc.finish(core, oidc.find(core, asked["state"]).login, "code")


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join()


def core_of(site: Site, provider: Provider) -> Any:
    settings = OidcSettings(
        issuer=provider.issuer,
        callback_url="http://bmi.test/v1/login/oidc/callback",
        groups={"physics": ["red:member"]},
    )
    return dataclasses.replace(site.core, settings=site.core.settings.model_copy(update={"oidc": settings}))


def test_an_access_token_of_a_minute_is_good_enough(site: Site, provider: Provider) -> None:
    assert provider.log_in(core_of(site, provider)).user.name == "carol"


@pytest.mark.parametrize("missing", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
def test_a_provider_without_an_endpoint_is_named_before_anybody_logs_in(
    site: Site, provider: Provider, missing: str
) -> None:
    del provider.answers["/.well-known/openid-configuration"][missing]
    with pytest.raises(DriverError, match=missing):
        oidc.begin(core_of(site, provider), HERE, challenge="c" * 43, redirect="")


@pytest.mark.parametrize(
    ("address", "answer"),
    [
        ("/keys", {}),
        ("/keys", {"keys": []}),
        ("/keys", {"keys": 5}),
        ("/keys", {"keys": ["x"]}),
        ("/keys", {"keys": [{"kty": "RSA"}]}),
        ("/keys", {"keys": [{"kty": "EC", "crv": "P-256", "x": 1, "y": 2}]}),
        ("/keys", []),
        ("/token", []),
        ("/token", 5),
        ("/token", None),
        ("/token", {"token_type": "Bearer"}),
        ("/token", {"access_token": "a", "token_type": "mac"}),
        ("/token", {"access_token": "a", "token_type": 5}),
        ("/token", {"access_token": "a", "token_type": "Bearer", "expires_in": "soon"}),
        ("/token", {"access_token": "a", "token_type": "Bearer", "expires_in": -1}),
        ("/userinfo", []),
    ],
)
def test_an_odd_answer_is_a_clear_problem(site: Site, provider: Provider, address: str, answer: Any) -> None:
    provider.answers[address] = answer
    with pytest.raises(DriverError, match="OpenID provider does not answer") as refused:
        provider.log_in(core_of(site, provider))
    assert refused.value.remedy


@pytest.mark.parametrize("word", ["", "x", "a.b.c", 5, None, {}])
def test_an_odd_id_token_is_not_believed(site: Site, provider: Provider, word: Any) -> None:
    provider.answers["/token"]["id_token"] = word
    with pytest.raises(UnauthenticatedError):
        provider.log_in(core_of(site, provider))
