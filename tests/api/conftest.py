"""A site behind its API, and callers that check every answer they get."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.asgi import AsgiTransport, running_loop
from tests.installation import BMC_PASSWORD, Site, furnished, site
from tests.live import api_of

__all__ = ["furnished", "site"]


@pytest.fixture
def app(site: Site) -> FastAPI:
    return api_of(site)


@pytest.fixture
def transport(app: FastAPI) -> Iterator[AsgiTransport]:
    with running_loop() as loop:
        yield AsgiTransport(app, loop)


class Caller:
    """One token. Every answer must be what an answer must be: a problem if it is a refusal, and no secret
    in it either way.
    """

    def __init__(self, site: Site, transport: AsgiTransport, token: str | None) -> None:
        self._site = site
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(transport=transport, headers=headers, base_url="http://bmi.test")

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The answer's headers and status, with `data` as the parsed body."""
        if body is not None:
            more["json"] = body
        response = self._http.request(method, f"/v1{path}", **more)
        self._check(response)
        return response

    def get(self, path: str, **query: Any) -> Any:
        response = self("GET", path, params=query)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, body: Any = None, **more: Any) -> Any:
        response = self("POST", path, body, **more)
        assert response.status_code in {201, 202}, response.text
        return response.json()

    def delete(self, path: str, **more: Any) -> Any:
        response = self("DELETE", path, **more)
        assert response.status_code in {202, 204}, response.text
        return response.json() if response.content else None

    def refused(self, status: int, method: str, path: str, body: Any = None, **more: Any) -> dict[str, Any]:
        """The problem of a request that must be refused with this status, and must change nothing."""
        before = self._site.everything()
        response = self(method, path, body, **more)
        assert response.status_code == status, response.text
        assert self._site.everything() == before
        problem: dict[str, Any] = response.json()
        return problem

    def _check(self, response: httpx.Response) -> None:
        text = response.text
        for secret in (BMC_PASSWORD, *self._site.chap_secrets()):
            assert secret not in text
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        if response.is_success:
            if response.status_code == 202:
                assert response.headers["location"] == f"/v1/operations/{response.json()['id']}"
            return
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["status"] == response.status_code
        assert problem["type"].startswith("urn:bmi:problem:")
        assert problem["title"]
        assert problem["detail"].endswith((".", "?")), problem
        assert problem["remedy"], problem
        assert isinstance(problem["retryable"], bool)


@pytest.fixture
def admin(site: Site, transport: AsgiTransport) -> Caller:
    return Caller(site, transport, site.token("root"))


@pytest.fixture
def red(site: Site, transport: AsgiTransport) -> Caller:
    """A member of red, whose n1 is."""
    site.give("red", "n1")
    return Caller(site, transport, site.token("red-token", "red"))


@pytest.fixture
def blue(site: Site, transport: AsgiTransport) -> Caller:
    """A member of blue, whose n2 is."""
    site.give("blue", "n2")
    return Caller(site, transport, site.token("blue-token", "blue"))


@pytest.fixture
def nobody(site: Site, transport: AsgiTransport) -> Caller:
    return Caller(site, transport, None)
