"""The Redfish driver against services that answer well, badly, late or never."""

import datetime as dt
import ipaddress
import json
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bmi.drivers.bmc import BmcAccess, redfish
from bmi.errors import DriverError, TimedOutError
from tests.drivers.bmc.misbehaving import dripping, serving, system

SYSTEM = "/redfish/v1/Systems/1"
GET = f"GET {SYSTEM}"
PATCH = f"PATCH {SYSTEM}"
RESET = f"POST {SYSTEM}/Actions/ComputerSystem.Reset"
PASSWORD = "correct horse"


def _access(url: str, path: str = SYSTEM, **more: Any) -> BmcAccess:
    return BmcAccess(url + path, "admin", PASSWORD, **more)


def _bmc(timeout_s: float = 0.5, off_timeout_s: float = 5, pool_size: int = 8) -> redfish.RedfishBmc:
    return redfish.create(timeout_s=timeout_s, off_timeout_s=off_timeout_s, pool_size=pool_size)


def test_a_power_on_from_the_network_takes_four_round_trips() -> None:
    replies = {GET: (200, system()), PATCH: (204, b""), RESET: (204, b"")}
    with serving(replies) as service:
        bmc, access = _bmc(), _access(service.url)
        assert bmc.power_state(access) == "off"
        bmc.boot_network_once(access)
        bmc.power_on(access)
    assert service.requests == [GET, GET, PATCH, RESET]
    once = {"Boot": {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"}}
    assert service.bodies == [once, {"ResetType": "On"}]


def test_power_off_returns_when_the_bmc_reports_it() -> None:
    states = [(200, system("On")), (200, system("PoweringOff")), (200, system("Off"))]
    with serving({GET: states, RESET: (204, b"")}) as service:
        _bmc().power_off(_access(service.url))
    assert service.requests == [GET, RESET, GET, GET]
    assert service.bodies == [{"ResetType": "ForceOff"}]


def test_a_node_that_stays_on_is_said_to_do_so() -> None:
    with (
        serving({GET: (200, system("On")), RESET: (204, b"")}) as service,
        pytest.raises(TimedOutError, match="reports the node on"),
    ):
        _bmc(off_timeout_s=0.1).power_off(_access(service.url))


@pytest.mark.parametrize("status", [400, 409, 500])
def test_a_bmc_that_refuses_what_is_so_already_is_right(status: int) -> None:
    refusal = (status, {"error": {"message": "The system is in that state."}})
    with serving({GET: (200, system("On")), RESET: refusal}) as service:
        _bmc().power_on(_access(service.url))
    with serving({GET: (200, system("Off")), RESET: refusal}) as service:
        _bmc().power_off(_access(service.url))


@pytest.mark.parametrize(("status", "retryable"), [(400, False), (409, True), (500, True), (503, True)])
def test_a_refusal_is_passed_on_with_the_bmcs_reason(status: int, retryable: bool) -> None:
    refusal = (status, {"error": {"message": "The power supply is missing."}})
    with (
        serving({GET: (200, system("Off")), RESET: refusal}) as service,
        pytest.raises(DriverError, match="power supply is missing") as caught,
    ):
        _bmc().power_on(_access(service.url))
    assert caught.value.retryable is retryable


@pytest.mark.parametrize("status", [401, 403])
def test_wrong_credentials(status: int) -> None:
    with (
        serving({GET: (status, {"error": {"message": "no"}})}) as service,
        pytest.raises(DriverError, match="does not accept") as caught,
    ):
        _bmc().power_state(_access(service.url))
    assert not caught.value.retryable
    assert PASSWORD not in f"{caught.value!r} {caught.value.problem()} {caught.value.__cause__!r}"


def test_an_unknown_system() -> None:
    with serving({}) as service, pytest.raises(DriverError, match=f"knows no {SYSTEM}") as caught:
        _bmc().power_state(_access(service.url))
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "garbage",
    [b"", b"<html>Login</html>", b"[]", b"null", b'"on"', b"{}", b'{"Id": "1"', b'{"Id": "1", "Boot": 7}'],
)
def test_what_is_not_redfish_is_said_not_to_be(garbage: bytes) -> None:
    with serving({GET: (200, garbage)}) as service, pytest.raises(DriverError) as caught:
        _bmc().power_state(_access(service.url))
    assert "127.0.0.1" in caught.value.detail


def test_a_bmc_that_refuses_connections() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(DriverError, match="cannot be reached") as caught:
            _bmc().power_state(_access(url))
    assert caught.value.retryable


def test_a_bmc_that_hangs() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        access = _access(f"http://127.0.0.1:{silent.getsockname()[1]}")
        for call in (_bmc().power_state, _bmc().power_on, _bmc().power_off, _bmc().boot_network_once):
            with pytest.raises(TimedOutError, match="does not answer") as caught:
                call(access)
            assert caught.value.retryable


@pytest.mark.parametrize("from_the", ["head", "body"])
def test_a_bmc_that_answers_byte_by_byte_hangs_too(from_the: str) -> None:
    """Each byte comes in time, and the answer would be a good one; it takes far too long as a whole."""
    body = json.dumps(system("On")).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    answer = (b"", head + body) if from_the == "head" else (head, body)
    with (
        dripping(*answer, pause_s=0.02) as url,
        pytest.raises(TimedOutError, match="does not answer") as caught,
    ):
        _bmc(timeout_s=0.3).power_state(_access(url))
    assert caught.value.retryable


def test_a_bmc_that_hangs_up() -> None:
    with socket.socket() as rude:
        rude.bind(("127.0.0.1", 0))
        rude.listen()

        def hang_up() -> None:
            rude.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(DriverError):
            _bmc().power_state(_access(f"http://127.0.0.1:{rude.getsockname()[1]}"))
        thread.join()


def test_a_bmc_that_comes_back_is_spoken_to_again() -> None:
    answers = [(200, system("Off")), (503, b""), (503, b""), (200, system("On"))]
    with serving({GET: answers}) as service:
        bmc, access = _bmc(), _access(service.url)
        assert bmc.power_state(access) == "off"
        with pytest.raises(DriverError):
            bmc.power_state(access)
        assert bmc.power_state(access) == "on"


def test_without_a_path_the_only_system_is_meant() -> None:
    replies = {
        "GET /redfish/v1/": (
            200,
            {"Id": "root", "Name": "root", "Systems": {"@odata.id": "/redfish/v1/Systems"}},
        ),
        "GET /redfish/v1/Systems": (200, {"Name": "all", "Members": [{"@odata.id": SYSTEM}]}),
        GET: (200, system("On")),
    }
    with serving(replies) as service:
        bmc, access = _bmc(), _access(service.url, path="")
        assert bmc.power_state(access) == "on"
        asked = len(service.requests)
        assert bmc.power_state(access) == "on"
        assert service.requests[asked:] == [GET]


def test_without_a_path_several_systems_are_too_many() -> None:
    members = [{"@odata.id": SYSTEM}, {"@odata.id": "/redfish/v1/Systems/2"}]
    replies = {
        "GET /redfish/v1/": (
            200,
            {"Id": "root", "Name": "root", "Systems": {"@odata.id": "/redfish/v1/Systems"}},
        ),
        "GET /redfish/v1/Systems": (200, {"Name": "all", "Members": members}),
        GET: (200, system()),
        "GET /redfish/v1/Systems/2": (200, system()),
    }
    with serving(replies) as service, pytest.raises(DriverError, match="several systems") as caught:
        _bmc().power_state(_access(service.url, path="/"))
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "address", ["", "10.0.0.5", "ftp://10.0.0.5/", "https://", "https://u:hidden@h/", "http://["]
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(DriverError) as caught:
        _bmc().power_state(BmcAccess(address))
    assert not caught.value.retryable
    assert "hidden" not in f"{caught.value!r} {caught.value.problem()}"


def test_old_acquaintances_are_forgotten() -> None:
    with serving({GET: (200, system())}) as service:
        bmc = _bmc(pool_size=2)
        for port in ("a", "b", "c"):
            assert bmc.power_state(BmcAccess(service.url + SYSTEM, port)) == "off"
    assert len(bmc._pool) == 2


def test_one_bmc_is_asked_by_one_thread_at_a_time() -> None:
    replies = {GET: (200, system("On")), PATCH: (204, b"")}
    with serving(replies) as service:
        bmc, access, failures = _bmc(timeout_s=5), _access(service.url), []

        def work() -> None:
            try:
                for _ in range(5):
                    bmc.boot_network_once(access)
                    assert bmc.power_state(access) == "on"
            except Exception as error:  # noqa: BLE001  # handed to the main thread
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert service.requests.count(PATCH) == 20


def _certificate(directory: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bmc")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = directory / "bmc.pem"
    path.write_bytes(private + certificate.public_bytes(pem))
    return path


def test_a_certificate_is_verified_unless_told_otherwise(tmp_path: Path) -> None:
    bundle = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle)
    with serving({GET: (200, system("On"))}, tls=context) as service:
        with pytest.raises(DriverError, match="cannot be verified") as caught:
            _bmc().power_state(_access(service.url))
        assert not caught.value.retryable
        assert _bmc().power_state(_access(service.url, verify_tls=str(bundle))) == "on"
        assert _bmc().power_state(_access(service.url, verify_tls=False)) == "on"
