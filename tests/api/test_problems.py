"""Every error is a problem document, whatever goes wrong and wherever."""

import logging

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError

from bmi.api.envelope import MAX_BODY_BYTES
from bmi.errors import BmiError
from bmi.service import access
from tests.api.conftest import Caller
from tests.api.test_walls import routes
from tests.asgi import AsgiTransport
from tests.installation import BMC_PASSWORD, Site


def test_an_address_that_is_not_there(admin: Caller) -> None:
    assert "/v1/flowers" in admin.refused(404, "GET", "/flowers")["detail"]
    admin.refused(404, "GET", "/nodes/")
    admin.refused(404, "GET", "/docs")
    admin.refused(404, "GET", "/nodes/a/b/c")


def test_a_method_that_is_not_possible(admin: Caller) -> None:
    response = admin("PATCH", "/nodes/n1", {})
    assert (response.status_code, response.json()["type"]) == (405, "urn:bmi:problem:method-not-allowed")
    assert "GET" in response.headers["allow"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 5000, b"null", b"12", b'{"name": "\\ud800"}']
)
def test_a_body_that_is_not_what_it_should_be(admin: Caller, content: bytes) -> None:
    problem = admin.refused(
        422, "POST", "/projects", content=content, headers={"Content-Type": "application/json"}
    )
    assert problem["type"] == "urn:bmi:problem:invalid-input"


def test_a_body_that_is_too_large(admin: Caller) -> None:
    admin.refused(413, "POST", "/projects", content=b" " * (MAX_BODY_BYTES + 1))
    admin.refused(422, "POST", "/projects", content=b" " * MAX_BODY_BYTES)


def test_a_refused_value_is_named_and_not_repeated(admin: Caller) -> None:
    body = {"name": "n9", "mac": 7, "bmc": "x", "bmc_password": [BMC_PASSWORD], "bmc_verify_tls": "?"}
    problem = admin.refused(422, "POST", "/nodes", body)
    assert [error["field"] for error in problem["errors"]] == ["mac", "bmc_password", "bmc_verify_tls"]


def test_a_defect_is_logged_and_not_told(
    site: Site, admin: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_args: object) -> None:
        raise ZeroDivisionError("secret thing")

    monkeypatch.setattr(access, "whoami", broken)
    problem = admin.refused(500, "GET", "/whoami")
    assert "secret thing" not in str(problem)
    assert problem["reference"] in problem["remedy"]
    assert problem["reference"] in caplog.text
    assert "ZeroDivisionError: secret thing" in caplog.text


def test_a_database_that_is_away(
    admin: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_args: object) -> None:
        raise OperationalError("SELECT secret", {}, OSError("gone"))

    monkeypatch.setattr(access, "whoami", away)
    problem = admin.refused(503, "GET", "/whoami")
    assert problem["retryable"]
    assert "SELECT" not in str(problem)
    assert "gone" in caplog.text
    assert "SELECT" not in caplog.text


def test_a_problem_of_the_servers_own_is_logged(
    admin: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unfit(*_args: object) -> None:
        raise BmiError("The key is gone.", remedy="Restore it.")

    monkeypatch.setattr(access, "whoami", unfit)
    assert admin.refused(500, "GET", "/whoami")["remedy"] == "Restore it."
    assert "The key is gone." in caplog.text


def test_no_secret_is_logged(site: Site, admin: Caller, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = admin.post("/tokens", {"name": "t"})["secret"]
    site.add_nodes("n8")
    site.bmc.world.set_fault("power_on", error="It refuses.", retryable=False)
    admin.post("/nodes/n8/provision", {"image": "debian-12", "project": "red"})
    secrets = [token, BMC_PASSWORD, *site.chap_secrets()]
    assert len(secrets) == 3
    site.settle()
    assert "It refuses" in caplog.text
    assert not [secret for secret in secrets if secret in caplog.text]


# What asks for no token; a login may be refused like one that has none.
WITHOUT_TOKEN = {"health", "begin_oidc_login"}


def test_the_description_names_every_refusal(app: FastAPI) -> None:
    described = app.openapi()
    assert described["components"]["schemas"]["Problem"]["required"] == [
        "type",
        "title",
        "status",
        "detail",
        "retryable",
    ]
    assert "HTTPValidationError" not in described["components"]["schemas"]
    for method, path, name in routes(app):
        operation = described["paths"][f"/v1{path}"][method.lower()]
        assert operation["summary"], name
        assert operation["tags"], name
        assert "default" in operation["responses"], name
        assert ("401" in operation["responses"]) == (name not in WITHOUT_TOKEN)
        for status, response in operation["responses"].items():
            if status == "default" or status >= "400":
                assert list(response["content"]) == ["application/problem+json"], name


def test_what_is_answered_beside_an_api_is_nothing(transport: AsgiTransport) -> None:
    with httpx.Client(transport=transport, base_url="http://bmi.test") as http:
        assert http.get("/").status_code == 404
        assert http.get("/docs").status_code == 404
