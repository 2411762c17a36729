"""A whole server from a configuration file, with fake drivers, on loopback."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bmi import wiring
from bmi.client import Client, succeeded
from bmi.config import Settings, load
from bmi.drivers.isolation.hil import HilIsolation
from bmi.drivers.storage import Ref
from bmi.errors import BmiError, ConfigError, DriverError, UnavailableError
from bmi.store import operations as journal
from bmi.store import records
from bmi.workflow.tools import Tools
from tests import rows

_START_S, _STOP_S = 30, 20


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of an installation in a directory."""
    path = tmp_path / "bmi.toml"
    fakes = "\n".join(
        f'[{kind}]\ndriver = "fake"\noptions = {{ root = "{tmp_path / kind}" }}'
        for kind in ("storage", "export", "uplink")
    )
    path.write_text(
        f'{fakes}\n[server]\ndata_dir = "{tmp_path / "data"}"\nrun_dir = "{tmp_path / "run"}"\nport = {free_port()}\n'
    )
    return path


@contextmanager
def server(config: Path) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    """A server process, which has to end by itself when it is told to; its log is beside the configuration."""
    settings = load(config)
    program = Path(sys.executable).with_name("bmi")
    with config.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen([program, "--config", config, "server", "run"], stdout=log, stderr=log)
    try:
        url = f"http://{settings.server.host}:{settings.server.port}"
        wait_for_health(process, url)
        with Client(url, settings.admin_token_path.read_text().strip()) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()


def wait_for_health(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _START_S
    with Client(url, "") as client:
        while True:
            try:
                client.health()
            except UnavailableError:
                assert process.poll() is None, "the server has ended"
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.05)
            else:
                return


def stop(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    """Tells it to end; a thread that does not end keeps the process and fails the test."""
    process.send_signal(number)
    return process.wait(_STOP_S)


def test_a_server_starts_ends_and_finds_its_data_again(config: Path) -> None:
    with server(config) as (process, client):
        assert client.health()["status"] == "ok"
        made = client.register_node("n1", mac="52:54:00:00:00:01", bmc="fake+https://bmc.example.net/n1")
        assert succeeded(client.wait(made["id"], timeout_s=20))
        assert stop(process) == 0
    with server(config) as (process, client):
        assert [node["name"] for node in client.list_nodes()] == ["n1"]
        assert client.get_operation(made["id"])["state"] == "succeeded"
        assert stop(process, signal.SIGINT) == 0
    assert "Traceback" not in config.with_suffix(".log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("proxy", "told"), [("false", "127.0.0.1"), ("true", "192.0.2.7")])
def test_only_a_proxy_that_there_is_says_where_requests_come_from(
    config: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, told: str
) -> None:
    monkeypatch.setenv("BMI_SERVER__PROXY", proxy)
    with server(config) as (_, client):
        said = {"X-Forwarded-For": "192.0.2.7"}
        url = f"http://127.0.0.1:{load(config).server.port}/v1/nodes"
        assert httpx.get(url, headers=said, trust_env=False).status_code == 401
        assert [entry["address"] for entry in client.list_audit(limit=1)] == [told]


def hang(tools: Tools, part: str, call: str, seconds: float) -> None:
    """Makes one call of a fake driver, and only the next, take that long."""
    getattr(tools, part).world.set_fault(call, sleep_s=seconds, times=1)


@pytest.mark.slow
def test_a_server_that_ends_awaits_its_steps_and_gives_back_what_it_had_begun(config: Path) -> None:
    """A lease that is not given back would hold the next server up until it runs out."""
    core = wiring.open_core(load(config))
    hang(wiring.open_tools(core), "export", "ensure_portal", 2)
    with server(config) as (process, client):
        made = client.create_project("red")
        while client.get_operation(made["id"])["steps"][1]["state"] != "running":
            time.sleep(0.02)
        assert stop(process) == 0
    with core.database.read() as tx:
        operation, steps = journal.operations.get(tx, made["id"]), journal.steps_of(tx, made["id"])
    assert [step.state for step in steps] == ["done", "done"]
    assert operation.owner is None


@pytest.mark.slow
def test_a_part_that_hangs_does_not_keep_the_server(config: Path) -> None:
    hang(wiring.open_tools(wiring.open_core(load(config))), "storage", "list", 60)
    with server(config) as (process, _):
        assert stop(process) == 0
    assert "Still at work and broken off: sweep." in config.with_suffix(".log").read_text()


def test_a_port_that_is_taken_is_named_and_nothing_runs(config: Path) -> None:
    settings = load(config)
    threads = threading.active_count()
    with (
        socket.create_server((settings.server.host, settings.server.port)),
        pytest.raises(ConfigError, match=f"{settings.server.port}: Address already in use") as caught,
    ):
        wiring.serve(settings)
    assert "server.port" in caught.value.remedy
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[storage]\ndriver = "floppy"', "storage driver 'floppy'"),
        ('[storage]\ndriver = "fake"\noptions = { rot = "/x" }', "rot"),
        ("", "'existing'.*interfaces"),
    ],
)
def test_a_driver_that_cannot_be_made_is_a_problem_of_the_configuration(
    tmp_path: Path, text: str, named: str
) -> None:
    path = tmp_path / "bmi.toml"
    path.write_text(f'[server]\ndata_dir = "{tmp_path / "data"}"\n{text}\n')
    [(_, database), (part, said)] = wiring.check(load(path))
    assert "up to date" in str(database)
    assert part == "configuration"
    assert isinstance(said, ConfigError)
    assert said.remedy
    with pytest.raises(ConfigError, match=named):
        wiring.serve(load(path))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[storage]\nreserv_gib = 1", "storage.reserv_gib"),
        ("[stroage]", "stroage"),
        ("[server]\nport = 70000", "server.port"),
        ('[networks]\nvlans = "5"', "networks.vlans"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "bmi.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"bmi.toml: {key}: "):
        load(path)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bmi.toml"
    path.write_text("[server")
    with pytest.raises(ConfigError, match=r"bmi\.toml is not TOML"):
        load(path)


def _check(settings: Settings) -> dict[str, str | BmiError]:
    return dict(wiring.check(settings))


def test_the_check_says_what_each_part_is(config: Path) -> None:
    said = _check(load(config))
    assert list(said) == ["database", "storage", "contents", "export", "uplink", "isolation"]
    assert not [part for part, words in said.items() if isinstance(words, BmiError)]
    assert said["contents"] == "0 images, volumes and snapshots are there."


def test_the_check_names_what_is_not_in_the_store(config: Path) -> None:
    core = wiring.open_core(load(config))
    with core.database.write() as tx:
        records.images.insert(tx, rows.image(id="image-1", project_id=None))
    said = _check(load(config))["contents"]
    assert isinstance(said, DriverError)
    assert "image image-1" in said.detail
    tools = wiring.open_tools(core)
    tools.storage.staging_path("image-1").write_bytes(bytes(512))
    tools.storage.commit_image("image-1")
    assert _check(load(config))["contents"] == "1 images, volumes and snapshots are there."
    tools.storage.clone(Ref("image", "image-1"), "volume-9")
    assert "1 that this database does not know" in str(_check(load(config))["contents"])


def test_settings_reach_the_tools(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMI_STORAGE__RESERVE_GIB", "7")
    tools = wiring.open_tools(wiring.open_core(load(config)))
    assert (tools.reserve_gib, tools.reserve_percent) == (7, 2)
    assert tools.data_dir == load(config).server.data_dir
    assert tools.bmc("fake") is tools.bmc("fake")
    options = {"root": str(config.parent / "switch")}
    assert tools.switch("fake", options) is tools.switch("fake", dict(options))


def test_hils_account_is_that_of_its_switches_and_its_power(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("secret\n")
    account = {"url": "https://hil.example", "username": "bmi", "password_file": str(tmp_path / "password")}
    monkeypatch.setenv("BMI_ISOLATION__DRIVER", "hil")
    monkeypatch.setenv("BMI_ISOLATION__OPTIONS", json.dumps(account))
    tools = wiring.open_tools(wiring.open_core(load(config)))
    assert isinstance(tools.isolation, HilIsolation)
    switch: Any = tools.switch("hil", {"poll_s": 1})
    assert switch._hil.url == tools.isolation._hil.url == account["url"]
    bmc: Any = tools.bmc("hil")
    assert bmc._own == ("https://hil.example", "bmi")
    monkeypatch.setenv("BMI_ISOLATION__OPTIONS", json.dumps(account | {"password_file": "/nowhere"}))
    with pytest.raises(ConfigError, match="/nowhere"):
        wiring.open_tools(wiring.open_core(load(config)))
