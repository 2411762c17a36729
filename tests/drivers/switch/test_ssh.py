"""Switches with a command line: who is let in, what is said, and what is never written anywhere."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest

from bmi.drivers import make
from bmi.drivers.switch import CLOSED, PortConfig
from bmi.errors import ConfigError, DriverError, TimedOutError
from tests.switches.families import FAMILIES, simulator
from tests.switches.server import PASSWORD, Dialogue, SshServer, options, serving
from tests.switches.stanza import Ios

ONE, TWO, THREE = (f"GigabitEthernet1/0/{number}" for number in (1, 2, 3))


@pytest.fixture
def server() -> Iterator[SshServer]:
    with serving(simulator("cisco_ios")) as made:
        yield made


def opened(server: SshServer, directory: Path, **other: Any) -> Any:
    return make("switch", "cisco_ios", options(server, directory) | {"timeout_s": 5} | other)


# ---- coming in ---------------------------------------------------------------------------------------------


def test_a_switch_with_another_host_key_never_sees_the_password(server: SshServer, tmp_path: Path) -> None:
    switch = opened(server, tmp_path, fingerprint="SHA256:" + "A" * 43)
    with pytest.raises(DriverError, match="host key") as caught:
        switch.list()
    assert not caught.value.retryable
    assert server.sessions == 0


def test_a_switch_that_is_in_no_known_hosts_is_not_trusted(server: SshServer, tmp_path: Path) -> None:
    empty, changed = tmp_path / "known_hosts", tmp_path / "known_hosts_of_old"
    empty.touch()
    key = paramiko.ECDSAKey.generate()
    changed.write_text(f"[127.0.0.1]:{server.port} {key.get_name()} {key.get_base64()}\n")
    for other in ({}, {"known_hosts": str(empty)}, {"known_hosts": str(changed)}):
        with pytest.raises(DriverError, match="host key") as caught:
            opened(server, tmp_path, fingerprint="", **other).list()
        assert not caught.value.retryable
    assert server.sessions == 0


def test_a_key_in_known_hosts_is_trusted(server: SshServer, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(server.known_hosts_line)
    assert opened(server, tmp_path, fingerprint="", known_hosts=str(known)).list().keys() == {ONE, TWO, THREE}


def test_a_wrong_password_is_not_tried_for_ever(server: SshServer, tmp_path: Path) -> None:
    switch = opened(server, tmp_path)
    (tmp_path / "switch-password").write_text("wrong")
    with pytest.raises(DriverError, match="does not let 'bmi' in") as caught:
        switch.check()
    assert not caught.value.retryable
    (tmp_path / "switch-password").unlink()
    with pytest.raises(DriverError, match="cannot be read"):
        switch.check()


def test_a_switch_that_is_away_may_come_back(server: SshServer, tmp_path: Path) -> None:
    switch = opened(server, tmp_path)
    server.close()
    with pytest.raises(TimedOutError) as caught:
        switch.apply({ONE: CLOSED})
    assert caught.value.retryable


def test_the_password_is_in_no_log_and_no_error(
    server: SshServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    opened(server, tmp_path).apply({ONE: PortConfig(101)})
    with pytest.raises(DriverError) as caught:
        opened(server, tmp_path, username="mallory").list()
    assert PASSWORD not in caplog.text + str(caught.value.problem())
    assert "switchport" not in caplog.text


def test_an_option_that_no_switch_has(server: SshServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="colour"):
        opened(server, tmp_path, colour="red")


# ---- saying as little as possible ---------------------------------------------------------------------------


def test_a_batch_is_one_session_and_saved_once(server: SshServer, tmp_path: Path) -> None:
    asked = {ONE: PortConfig(101), TWO: PortConfig(102, frozenset({103})), THREE: CLOSED}
    assert opened(server, tmp_path).apply(asked) == asked
    assert (server.sessions, server.simulator.saves) == (1, 1)


def test_what_is_so_already_is_not_said_again_but_saved(server: SshServer, tmp_path: Path) -> None:
    """The session that made it so may have ended before it was saved."""
    switch = opened(server, tmp_path)
    switch.apply({ONE: PortConfig(101)})
    server.simulator.said.clear()
    switch.apply({ONE: PortConfig(101)})
    assert not [line for line in server.simulator.said if line.startswith(("interface", "configure"))]
    assert server.simulator.saves == 2


# ---- switches that do not want ------------------------------------------------------------------------------


class _Stubborn(Ios):
    """Shows a port that cannot be entered, and one whose VLAN it does not change."""

    def do(self, line: str, dialogue: Dialogue) -> str:
        if line == f"interface {TWO}":
            return "% Command rejected: the interface is part of a bundle"
        if dialogue.notes.get("port") == THREE and line.startswith("switchport access"):
            return "% Invalid input detected"
        return super().do(line, dialogue)


def test_a_port_that_refuses_harms_no_other(tmp_path: Path) -> None:
    stubborn = _Stubborn((ONE, TWO, THREE))
    with serving(stubborn) as server:
        switch = opened(server, tmp_path)
        switch.apply({ONE: PortConfig(101)})
        stubborn.reached.clear()
        found = switch.apply({TWO: PortConfig(102), THREE: PortConfig(103), ONE: PortConfig(101)})
    assert found[ONE] == PortConfig(101)
    assert stubborn.reached[ONE] == {101}
    refused = found[TWO], found[THREE]
    assert all(isinstance(error, DriverError) for error in refused)
    assert "part of a bundle" in str(found[TWO])
    assert not stubborn.vlans(THREE) & {102}


def test_a_vlan_that_stands_for_none_is_refused(server: SshServer, tmp_path: Path) -> None:
    refused = opened(server, tmp_path, unused_vlan=101).apply({ONE: PortConfig(101)})[ONE]
    assert isinstance(refused, DriverError)
    assert "unused_vlan" in str(refused)
    assert not refused.retryable


def test_os10_has_no_port_without_an_untagged_vlan(tmp_path: Path) -> None:
    with serving(simulator("dell_os10")) as server:
        switch = make("switch", "dell_os10", options(server, tmp_path))
        port = server.simulator.ports[0]
        refused = switch.apply({port: PortConfig(None, frozenset({101}))})[port]
    assert isinstance(refused, DriverError)
    assert "natively" in str(refused)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_factory_new_switch_is_not_taken_for_what_bmi_makes(family: str, tmp_path: Path) -> None:
    """Where ports are born on VLAN 1, or on all of them, `list` must not call them closed."""
    with serving(simulator(family)) as server:
        seen = make("switch", family, options(server, tmp_path)).list()
        for port in server.simulator.ports:
            assert seen[port] != CLOSED or not server.simulator.vlans(port)
