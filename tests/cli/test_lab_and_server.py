"""bmi lab and bmi server: their words around what others do."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bmi import wiring
from bmi.cli.main import main
from bmi.config import Settings
from bmi.errors import BmiError, ConfigError
from bmi.lab.lab import Lab, LabStatus
from bmi.lab.spec import LabSpec


@pytest.fixture
def spec(tmp_path: Path) -> LabSpec:
    return LabSpec(tmp_path / "lab", "try", 2, 1024, 0, 8000)


def run(*words: str, exits: int = 0) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == exits, (result.output, result.exception)
    return result.stdout


def test_lab_up_says_how_to_register_its_nodes(spec: LabSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def up(directory: Path, **more: object) -> Lab:
        asked.append((directory, more))
        return Lab(spec)

    monkeypatch.setattr(Lab, "up", up)
    said = run("lab", "up", "--nodes", "2", "--name", "try", "--dir", str(spec.directory))
    assert asked == [(spec.directory, {"nodes": 2, "name": "try", "memory_mib": 1024, "disk_gib": 0})]
    commands = [line for line in said.splitlines() if line.startswith("bmi ")]
    first = spec.nodes[0]
    assert (
        commands[0]
        == f"bmi switch register try --driver ovs --option bridge=br0 --option db={spec.switch_db}"
    )
    assert commands[1] == (
        f"bmi node register --bmc-user admin --bmc-password-file {spec.bmc_directory}/password n1 --mac {first.mac} "
        "--bmc redfish+http://127.0.0.1:8000/redfish/v1/Systems/n1 --switch try --port port1"
    )
    assert len(commands) == 3
    described = json.loads(run("lab", "up", "--json"))
    assert [node["port"] for node in described["nodes"]] == ["port1", "port2"]
    assert described["switch"]["options"] == {"bridge": "br0", "db": spec.switch_db}


def test_lab_status_and_down(spec: LabSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    spec.save(wanted="up")
    state = LabStatus("try", switch_answers=True, bmc_answers=False, power={"n1": "on", "n2": "off"})
    monkeypatch.setattr(Lab, "status", lambda _lab: state)
    said = run("lab", "status", "--dir", str(spec.directory))
    assert "Switch answers: yes; BMCs answer: no" in said
    assert "n1    on" in said
    assert json.loads(run("lab", "status", "--dir", str(spec.directory), "--json"))["power"]["n2"] == "off"
    monkeypatch.setattr(Lab, "down", lambda _lab: None)
    assert "is down" in run("lab", "down", "--dir", str(spec.directory))
    run("lab", "status", "--dir", str(spec.directory / "elsewhere"), exits=3)
    assert "no lab" in run("lab", "down", "--dir", str(spec.directory / "elsewhere"))


def test_server_check_names_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[str, str | BmiError]] = [("storage", "42 GiB are free.")]
    monkeypatch.setattr(wiring, "check", lambda _settings: found)
    assert "storage  yes   42 GiB are free." in run("server", "check")
    found.append(("export", ConfigError("Port 3260 is taken.", remedy="End what listens there.")))
    assert "export   no    Port 3260 is taken. End what listens there." in run("server", "check", exits=1)
    parts = json.loads(run("server", "check", "--json", exits=1))
    assert [part["ok"] for part in parts] == [True, False]


def test_server_run_serves_with_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served: list[Settings] = []
    monkeypatch.setattr(wiring, "serve", served.append)
    config = tmp_path / "bmi.toml"
    config.write_text("[server]\nport = 7000\n")
    run("--config", str(config), "server", "run")
    assert served[0].server.port == 7000
    config.write_text("[server]\nports = 7000\n")
    run("--config", str(config), "server", "run", exits=1)
