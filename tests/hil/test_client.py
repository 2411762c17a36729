"""The client of HIL: every refusal becomes one clear error, and no secret leaves it."""

import logging
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from bmi.drivers.hil import Hil, connect
from bmi.errors import ConfigError, DriverError, TimedOutError
from tests.hil.bench import Bench
from tests.hil.obm import Machine
from tests.hil.server import HilServer
from tests.hil.web import Answer, Service


def _hil(url: str, password: str = "secret", *, username: str = "admin", timeout_s: float = 5) -> Hil:
    return connect(url, username, password=password, timeout_s=timeout_s)


def _refused(hil: Hil, *call: Any, **body: Any) -> DriverError:
    with pytest.raises(DriverError) as caught:
        hil.call(*call, **body)
    return caught.value


@pytest.mark.parametrize("login", [("admin", "wrong"), ("nobody", "secret")])
def test_credentials_that_are_not_taken(either: Bench, login: tuple[str, str]) -> None:
    error = _refused(_hil(either.url, login[1], username=login[0]), "GET", "nodes", "all")
    assert not error.retryable
    assert "credentials" in error.remedy
    assert login[1] not in f"{error!r} {error.problem()} {error.__cause__!r} {error.__context__!r}"


def test_an_account_that_is_no_administrator(stand_in: Bench, hil: HilServer) -> None:
    hil.users["red"] = type(hil.users["admin"])("secret", projects={"red"})
    with pytest.raises(DriverError, match="administrator-only") as caught:
        _hil(stand_in.url, username="red").check()
    assert (caught.value.retryable, caught.value.facts["http_status"]) == (False, 401)


def test_refusals_say_whether_waiting_helps(either: Bench) -> None:
    hil, red, node = _hil(either.url, either.login[1]), f"{either.prefix}red", f"{either.prefix}n1"
    missing = _refused(hil, "GET", "node", "no such node?")
    assert (missing.retryable, missing.facts) == (False, {"http_status": 404, "hil_error": "NotFoundError"})
    double = _refused(hil, "PUT", "project", red)
    assert (double.retryable, double.facts["hil_error"]) == (False, "DuplicateError")
    blocked = _refused(hil, "POST", "node", node, "power_on")
    assert (blocked.retryable, blocked.facts["http_status"]) == (True, 409)
    wrong = _refused(hil, "PUT", "node", node, "obm", body={"enabled": "perhaps"})
    assert (wrong.retryable, wrong.facts["hil_error"]) == (False, "ValidationError")


def test_a_server_in_trouble(stand_in: Bench) -> None:
    service = Service(lambda _request: Answer(500, "<html>Internal Server Error</html>"))
    error = _refused(_hil(service.url), "GET", "projects")
    service.close()
    assert (error.retryable, error.facts["http_status"]) == (True, 500)


def test_a_server_that_is_away(stand_in: Bench, hil: HilServer) -> None:
    client = _hil(stand_in.url)
    hil.service.go_away()
    error = _refused(client, "GET", "projects")
    assert error.retryable
    assert "cannot be reached" in error.detail
    hil.service.come_back()
    assert client.call("GET", "projects") == ["blue", "red"]


def test_a_server_that_is_slow(stand_in: Bench, hil: HilServer) -> None:
    hil.service.slow_s = 30
    with pytest.raises(TimedOutError, match=r"did not answer within 0\.2 s") as caught:
        _hil(stand_in.url, timeout_s=0.2).call("GET", "projects")
    assert caught.value.retryable


def test_an_answer_that_comes_drop_by_drop_is_not_waited_for() -> None:
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            talk, _ = listener.accept()
            with talk:
                talk.recv(65536)
                talk.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                while not ended.wait(0.05):
                    try:
                        talk.sendall(b" ")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(TimedOutError):
            _hil(url, timeout_s=0.3).call("GET", "projects")
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, "<html>Welcome</html>"),
        Answer(302, "", {"Location": "http://elsewhere.example/"}),
        Answer(200, '{"nodes": 1}'),
    ],
    ids=["html", "redirect", "json"],
)
def test_what_is_not_hil_is_said_not_to_be(answer: Answer) -> None:
    service = Service(lambda _request: answer)
    with pytest.raises(DriverError, match="does not speak HIL") as caught:
        _hil(service.url).node("n1")
    service.close()
    assert not caught.value.retryable


@pytest.mark.parametrize("url", ["hil.example", "ftp://hil.example", "https://me:pass@hil.example", ""])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _hil(url)
    assert "pass@" not in str(caught.value)


def test_a_password_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        connect("https://hil.example", "bmi", password_file=str(tmp_path / "nope"), timeout_s=1)


# ---- out-of-band management -------------------------------------------------------------------------


def test_management_is_enabled_when_it_is_not(either: Bench) -> None:
    hil, node = _hil(either.url, either.login[1]), f"{either.prefix}n1"
    assert hil.manage("GET", node, "power_status") == {"power_status": "off"}
    assert hil.manage("POST", node, "power_on") is None
    assert hil.manage("PUT", node, "boot_device", {"bootdev": "pxe"}) is None
    assert (either.obm.machines[node].power, either.obm.machines[node].boot_device) == ("on", "pxe")


def test_a_token_that_is_no_longer_taken_is_replaced(stand_in: Bench) -> None:
    hil = _hil(stand_in.url)
    hil.manage("POST", "n1", "power_on")
    stand_in.obm.machines["n1"] = Machine()
    assert hil.manage("GET", "n1", "power_status") == {"power_status": "off"}


def test_an_obm_service_in_trouble(stand_in: Bench) -> None:
    hil = _hil(stand_in.url)
    hil.manage("GET", "n1", "power_status")
    stand_in.obm.broken = True
    with pytest.raises(DriverError, match="answered 500 for node n1") as caught:
        hil.manage("GET", "n1", "power_status")
    assert caught.value.retryable
    stand_in.obm.service.go_away()
    with pytest.raises(DriverError, match="cannot be reached"):
        hil.manage("GET", "n1", "power_status")


def test_a_redirect_to_less_than_https_is_not_followed(stand_in: Bench) -> None:
    target = {"Location": "gopher://127.0.0.1/"}
    service = Service(lambda _request: Answer(307, "", target))
    with pytest.raises(DriverError, match="does not speak HIL"):
        _hil(service.url).manage("GET", "n1", "power_status")
    service.close()


def test_no_secret_is_logged_and_none_goes_to_the_obm_service(
    stand_in: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []
    answer = stand_in.obm.service._answer

    def overhear(request: Any) -> Answer:
        if request.query:
            seen.append(request.authorization)
        return answer(request)

    stand_in.obm.service._answer = overhear
    caplog.set_level(logging.DEBUG, logger="bmi")
    caplog.set_level(logging.INFO)
    hil = _hil(stand_in.url)
    hil.manage("POST", "n1", "power_on")
    stand_in.obm.broken = True
    with pytest.raises(DriverError) as caught:
        hil.manage("POST", "n1", "power_on")
    said = f"{caplog.text} {caught.value!r} {caught.value.problem()} {hil!r} {vars(hil)!r}"
    assert seen
    assert set(seen) == {""}
    for secret in ("secret", stand_in.obm.machines["n1"].token, stand_in.obm.admin_token):
        assert secret not in said
