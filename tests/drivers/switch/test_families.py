"""CLI switches of every family that refuse, that show less than there is, and whose ports are not as BMI makes them."""

import re
from collections.abc import Callable, Iterator

import pytest

from bmi.drivers.switch import CLOSED, PortConfig, industry, ssh
from bmi.errors import DriverError, TimedOutError
from tests.switches.candidate import Junos, ModalSonic, Nvue
from tests.switches.direct import direct
from tests.switches.families import COURSE, FAMILIES, simulator
from tests.switches.server import Dialogue, Simulator
from tests.switches.stanza import Os10, RoutedEos, Stanzas

NATIVE, OTHER = PortConfig(101), PortConfig(103)
BOTH = PortConfig(101, frozenset({102}))
STANZAS = ("cisco_ios", "cisco_nxos", "arista_eos", "dell_os9", "dell_os10")

of = pytest.mark.parametrize
every = of("family", FAMILIES)


# ---- switches that refuse -----------------------------------------------------------------------------------


def _closed(family: str) -> Simulator:
    made = simulator(family)
    one = made.ports[0]
    assert direct(family, made).apply({one: CLOSED}) == {one: CLOSED}
    return made


def _shut(family: str) -> Simulator:
    """As from the factory, but for `shutdown`."""
    made = simulator(family)
    if isinstance(made, Stanzas):
        made.state[made.ports[0]].up = False
    return made


def _on(config: PortConfig) -> Callable[[str], Simulator]:
    def make(family: str) -> Simulator:
        made = _closed(family)
        direct(family, made).apply({made.ports[0]: config})
        return made

    return make


@every
def test_a_port_goes_the_whole_course(family: str) -> None:
    made = _closed(family)
    one, was = made.ports[0], CLOSED
    switch = direct(family, made)
    for config in COURSE:
        if isinstance(made, Os10) and config.tagged and config.native is None:
            continue  # it has no such ports
        made.reached.clear()
        assert switch.apply({one: config}) == {one: config}
        assert switch.list()[one] == config
        assert made.vlans(one) == config.vlans
        assert made.reached[one] <= was.vlans | config.vlans
        was = config


def _lines(family: str, make: Callable[[str], Simulator], asked: PortConfig) -> Iterator[str]:
    """What is said to make a port so, line by line; without the ways in and out, which netmiko sees to."""
    made = make(family)
    made.said.clear()
    direct(family, made).apply({made.ports[0]: asked})
    yield from dict.fromkeys(
        line for line in made.said if not re.match(r"show |nv show|nv config show|configure|exit|end", line)
    )


@every
@of("asked", [NATIVE, OTHER, BOTH, CLOSED], ids=str)
@of("make", [_shut, _closed, _on(NATIVE), _on(BOTH)], ids=["factory", "closed", "native", "both"])
def test_whatever_is_refused_no_port_gets_wider(
    family: str, make: Callable[[str], Simulator], asked: PortConfig
) -> None:
    """Not for a moment, and not to VLAN 1; and what is said to be done is done."""
    for line in _lines(family, make, asked):
        made = make(family)
        one, two = made.ports[:2]
        before = made.vlans(one)
        made.refused[re.escape(line)] = "% Error: command rejected"
        made.reached.clear()
        found = direct(family, made).apply({one: asked})[one]
        assert made.reached[one] <= before | asked.vlans, line
        assert made.vlans(two) == simulator(family).vlans(two), line
        if found == asked:
            assert made.vlans(one) == asked.vlans, line
        else:
            assert isinstance(found, DriverError), line


@every
def test_what_is_not_shown_is_not_closed(family: str) -> None:
    for line in _shows(family):
        for said in (
            "% Authorization failed.",
            "error: permission denied",
            "Traceback (most recent call last):",
            "",
        ):
            made = _on(NATIVE)(family)
            made.refused[re.escape(line)] = said
            try:
                found = direct(family, made).apply({made.ports[0]: CLOSED})[made.ports[0]]
            except (DriverError, ValueError):  # a session turns the latter into the former
                continue
            assert not said, line
            assert found != CLOSED or not made.vlans(made.ports[0])


def _shows(family: str) -> list[str]:
    made = simulator(family)
    direct(family, made).list()
    return list(made.said)


@every
def test_a_port_that_is_not_there_is_not_closed(family: str) -> None:
    made = simulator(family)
    missing = made.ports[0] + "9"
    found = direct(family, made).apply({missing: CLOSED})[missing]
    assert isinstance(found, DriverError)
    assert missing in str(found)


@every
def test_what_is_not_saved_is_not_done(family: str) -> None:
    made = _closed(family)
    one, save = made.ports[0], made.said[-1]
    if family == "juniper_junos":
        save = "commit"
    made.refused[re.escape(save)] = "% Error: no space left"
    found = direct(family, made).apply({one: NATIVE})[one]
    assert isinstance(found, DriverError)
    assert "no space left" in str(found)
    assert found.retryable
    made.refused.clear()
    saves = made.saves
    assert direct(family, made).apply({one: NATIVE}) == {one: NATIVE}
    assert made.saves == saves + 1


# ---- ports that are not as BMI makes them -------------------------------------------------------------------


@of("family", STANZAS)
@of(
    "line",
    [
        "switchport voice vlan 200",
        "switchport vlan mapping 101 200",
        "source template phones",
        "channel-group 3 mode active",
        "service instance 5 ethernet",
        "dot1x guest-vlan 200",
    ],
)
def test_what_leads_elsewhere_is_seen_and_taken_away(family: str, line: str) -> None:
    made = _on(NATIVE)(family)
    assert isinstance(made, Stanzas)
    one = made.ports[0]
    made.state[one].extra.add(line)
    switch = direct(family, made)
    assert switch.list()[one] is None
    assert switch.apply({one: NATIVE}) == {one: NATIVE}
    assert line not in made.state[one].extra
    made.state[one].extra.add(line)
    assert switch.apply({one: CLOSED}) == {one: CLOSED}


def test_what_is_within_something_within_a_port_is_not_said_of_the_port() -> None:
    """The instance is shut down, and the port is not."""
    config = "interface Gi1\n switchport mode access\n switchport access vlan 101\n service instance 5 ethernet\n  shutdown\n"
    seen = industry.ports(config)["Gi1"]
    assert seen.up
    assert seen.config is None


def test_junos_ports_get_vlans_from_ranges() -> None:
    made = _on(NATIVE)("juniper_junos")
    assert isinstance(made, Junos)
    one, two = made.ports[:2]
    switch = direct("juniper_junos", made)
    made.active.add("set vlans blue vlan-id 300")
    for port in (one, two):
        made.inherited.add(f"set interfaces {port} unit 0 family ethernet-switching vlan members blue")
    assert switch.list()[one] == PortConfig(101) or switch.list()[one] is None
    found = switch.apply({one: NATIVE, two: NATIVE})
    assert all(isinstance(error, DriverError) for error in found.values())
    assert not made.vlans(one) | made.vlans(two)


@of(
    "where",
    [
        "vlans blue interface {}.0",
        "switch-options voip interface {}.0",
        "switch-options voip interface access-ports",
    ],
)
def test_junos_ports_that_others_name_are_on_more_than_they_say(where: str) -> None:
    made = _on(NATIVE)("juniper_junos")
    assert isinstance(made, Junos)
    made.active |= {"set vlans blue vlan-id 300", f"set {where.format(made.ports[0])}"}
    assert direct("juniper_junos", made).list()[made.ports[0]] is None


def test_ports_of_eos_that_are_routed_unless_told_otherwise_are_opened() -> None:
    made = RoutedEos(simulator("arista_eos").ports)
    one = made.ports[0]
    switch = direct("arista_eos", made)
    for config in (NATIVE, BOTH, CLOSED, NATIVE):
        assert switch.apply({one: config}) == {one: config}
        assert made.vlans(one) == config.vlans


def test_sonic_ports_are_made_trunks_where_there_are_such() -> None:
    made = ModalSonic(simulator("sonic").ports)
    one = made.ports[0]
    switch = direct("sonic", made)
    for config in (BOTH, NATIVE, CLOSED):
        assert switch.apply({one: config}) == {one: config}


def test_a_routed_port_of_cumulus_is_neither_closed_nor_kept_routed() -> None:
    made = simulator("cumulus_nvue")
    assert isinstance(made, Nvue)
    one = made.ports[0]
    made.applied.add(f"interface {one} ip address 192.0.2.1/24")
    switch = direct("cumulus_nvue", made)
    assert switch.list()[one] is None
    assert switch.apply({one: NATIVE}) == {one: NATIVE}
    assert not [said for said in made.applied if " ip " in said]


@of(("family", "vlan"), [("cisco_nxos", 3968), ("cisco_nxos", 4094), ("cisco_ios", 1002)])
def test_vlans_that_a_family_keeps_for_itself_are_refused(family: str, vlan: int) -> None:
    made = simulator(family)
    found = direct(family, made).apply({made.ports[0]: PortConfig(vlan)})[made.ports[0]]
    assert isinstance(found, DriverError)
    assert not found.retryable
    assert f"VLAN {vlan}" in str(found)
    assert not made.said


def test_many_vlans_are_said_in_few_words() -> None:
    made = _closed("cisco_ios")
    made.said.clear()
    config = PortConfig(None, frozenset(range(200, 260)) | {300})
    assert direct("cisco_ios", made).apply({made.ports[0]: config}) == {made.ports[0]: config}
    assert "switchport trunk allowed vlan 200-259,300" in made.said


@every
def test_what_another_port_cannot_be_keeps_none_from_being_closed(family: str) -> None:
    """Be it that its VLAN is refused, when it is made or when it is left, or the port itself."""
    for refused in (r".*\b300\b.*", r"exit"):
        made = _on(NATIVE)(family)
        one, two = made.ports[:2]
        direct(family, made).apply({two: CLOSED})
        made.refused[refused] = "% Error: failed to create VLAN 300"
        found = direct(family, made).apply({one: CLOSED, two: PortConfig(300)})
        if refused != "exit":
            assert isinstance(found[two], DriverError)
            assert "VLAN 300" in str(found[two])
        assert found[one] == CLOSED
        assert not made.vlans(one) | made.vlans(two) - {300}


@every
def test_a_vlan_that_could_not_be_made_is_tried_again(family: str) -> None:
    made = _closed(family)
    one = made.ports[0]
    lines = [line for line in _lines(family, _closed, NATIVE) if re.search(r"vlan(-id| add)? 101\b", line)]
    made.refused[re.escape(lines[0])] = "% Error: the VLAN table is full"
    assert isinstance(direct(family, made).apply({one: NATIVE})[one], DriverError)
    made.refused.clear()
    made.said.clear()
    assert direct(family, made).apply({one: NATIVE}) == {one: NATIVE}
    assert lines[0] in made.said


def test_a_shell_that_refuses_in_words_of_its_own_is_understood() -> None:
    """By the exit status: a real shell says what is after `||`."""
    made = _closed("sonic")
    one = made.ports[0]
    made.refused[r"sudo config save -y \|\| .*"] = "Sorry, user bmi is not allowed to.\nerror: it failed"
    found = direct("sonic", made).apply({one: NATIVE})[one]
    assert isinstance(found, DriverError)
    assert "does not save" in str(found)


def test_a_session_that_takes_too_long_says_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "_SESSION_S", -100)
    made = simulator("cisco_ios")
    with pytest.raises(TimedOutError, match="too long"):
        direct("cisco_ios", made).apply({made.ports[0]: NATIVE})
    assert not [line for line in made.said if line.startswith(("vlan", "interface"))]


def test_a_port_that_is_too_wide_when_the_switch_shows_no_more_is_closed() -> None:
    made = _closed("cisco_ios")
    one = made.ports[0]
    talked = made.do
    shown = 0

    def do(line: str, dialogue: Dialogue) -> str:
        nonlocal shown
        shown += line.startswith("show ")
        return "% Authorization failed." if line.startswith("show ") and shown > 1 else talked(line, dialogue)

    made.do = do  # type: ignore[method-assign]
    with pytest.raises(DriverError, match="does not show"):
        direct("cisco_ios", made).apply({one: NATIVE})
    assert not made.vlans(one)


def test_a_port_of_ios_is_opened_although_a_vlan_is_made_besides() -> None:
    """The one that stands for none: `% Access VLAN does not exist. Creating vlan 4094`."""
    made = simulator("cisco_ios")
    one = made.ports[0]
    assert direct("cisco_ios", made).apply({one: BOTH}) == {one: BOTH}
