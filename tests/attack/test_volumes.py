"""What red's machine may do to volumes: blue's, and its neighbour's in red."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.attack.conftest import Attempt, Battlefield
from tests.attack.initiator import FULL, OK, OPERATIONAL, SECURITY, Answer, Initiator, fresh_isid
from tests.attack.machine import PORTAL_PORT, Machine, Told

pytestmark = [pytest.mark.real, pytest.mark.attack]

_PATIENCE_S = 15


@contextmanager
def portal(field: Battlefield, machine: Machine, project: str = "red") -> Iterator[Initiator]:
    with machine.connect(field.foot(project).address, PORTAL_PORT) as connection:
        yield Initiator(connection, fresh_isid())


def credentials(told: Told) -> tuple[str, str, str, str]:
    names = ("initiator-iqn", "", "username", "password")
    initiator, _, user, secret = (told.settings.get(name, "") for name in names)
    return initiator, told.iqn, user, secret


def test_the_portal_of_blue_cannot_be_reached(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    attempt.tried("blue's portal, from red's port: by its address, and with an address of blue's network")
    theirs = field.foot("blue").address
    red.run("ip", "address", "add", f"{theirs.rpartition('.')[0]}.77/24", "dev", red.nic)
    try:
        reached = [red.reaches(theirs, port) for port in (PORTAL_PORT, 8080)]
    finally:
        red.run("ip", "address", "del", f"{theirs.rpartition('.')[0]}.77/24", "dev", red.nic)
    attempt.seen("no connection")
    assert not any(reached)


def test_red_knows_no_volume_of_blue(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    attempt.tried("login at red's portal to blue's volume, with its name, initiator and both secrets stolen")
    with portal(field, red) as initiator:
        said = initiator.log_in(*credentials(field["n4"].told))
    attempt.seen(f"login status {said.status}: there is no such target")
    assert said.status == (2, 3)


def test_discovery_shows_a_node_its_own_target(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    attempt.tried("discovery: as itself, as a stranger, and asking for n2's target by its name")
    ours, theirs = red.told, field["n2"].told
    found: dict[str, list[str]] = {}
    for who, name, wanted in (
        ("itself", ours.settings["initiator-iqn"], "All"),
        ("a stranger", "iqn.2024-07.internal.bmi:node-none", "All"),
        ("itself, for n2's", ours.settings["initiator-iqn"], theirs.iqn),
    ):
        with portal(field, red) as initiator:
            found[who] = initiator.discover(name, wanted)
    attempt.seen(f"its own target ({len(found['itself'])}), and nothing else")
    assert found == {"itself": [ours.iqn], "a stranger": [], "itself, for n2's": []}


def test_a_stolen_name_is_not_enough(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    attempt.tried("login to n2's volume with its initiator name, and without its secret, in five ways")
    initiator, iqn, user, _ = credentials(field["n2"].told)
    names = [("InitiatorName", initiator), ("TargetName", iqn), ("SessionType", "Normal")]
    tries: dict[str, Answer] = {}
    for what, keys, stage, following in (
        ("no authentication", [*names, ("AuthMethod", "None")], SECURITY, FULL),
        ("none mentioned", names, SECURITY, OPERATIONAL),
        ("security skipped", names, OPERATIONAL, FULL),
        ("CHAP skipped", [*names, ("AuthMethod", "CHAP")], SECURITY, FULL),
    ):
        with portal(field, red) as opened:
            said = opened.login(keys, stage=stage, next_stage=following)
            if said.status == OK:
                said = opened.finish()
            tries[what] = said
    with portal(field, red) as opened:
        tries["a guess"] = opened.log_in(initiator, iqn, user, "0" * 24)
    attempt.seen(f"login status {sorted({said.status for said in tries.values()})}")
    assert all(said.status[0] in {2, -1} for said in tries.values()), tries


def test_own_credentials_open_no_other_volume(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    attempt.tried("login to n2's volume with the attacker's own CHAP account, as itself and as n2")
    ours, theirs = credentials(red.told), credentials(field["n2"].told)
    with portal(field, red) as opened:
        as_itself = opened.log_in(ours[0], theirs[1], ours[2], ours[3])
    with portal(field, red) as opened:
        as_victim = opened.log_in(theirs[0], theirs[1], ours[2], ours[3])
    attempt.seen(f"login status {as_itself.status} and {as_victim.status}")
    assert (as_itself.status[0], as_victim.status[0]) == (2, 2)
    with portal(field, red) as opened:
        assert opened.log_in(*ours).is_full, "its own volume opens with it"


def test_the_target_does_not_answer_its_own_challenge(
    field: Battlefield, red: Machine, attempt: Attempt
) -> None:
    attempt.tried("reflection: n2's target is asked to answer the challenge that it has just sent")
    initiator, iqn, user, _ = credentials(field["n2"].told)
    with portal(field, red) as opened:
        said = opened.log_in(initiator, iqn, user, "", challenge=b"0" * 16, answer_with="0x" + "0" * 32)
    attempt.seen(f"login status {said.status}, no answer")
    assert said.status[0] == 2
    assert "CHAP_R" not in said.keys


def test_a_stolen_secret_is_not_enough_either(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    """Whoever has the secret is in for a moment, from wherever; the guard looks twice a second."""
    attempt.tried("second session on n2's volume in use, with everything stolen, from the attacker's address")
    victim = field["n2"]
    with portal(field, victim) as held, portal(field, red) as stolen:
        assert held.log_in(*credentials(victim.told)).is_full
        began = time.monotonic()
        assert stolen.log_in(*credentials(victim.told)).is_full
        while stolen.alive:
            assert time.monotonic() < began + _PATIENCE_S
        attempt.seen(f"cut off after {time.monotonic() - began:.1f} s, while n2's own session stays")
        assert held.alive
    deadline = time.monotonic() + _PATIENCE_S
    while "intruder" not in field.stages("n2"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    attempt.seen("an event at n2 names the address")


def test_a_node_that_starts_anew_is_not_kept_out_by_its_old_session(
    field: Battlefield, attempt: Attempt
) -> None:
    attempt.tried("two sessions of n2 itself, as after a power cut")
    victim = field["n2"]
    with portal(field, victim) as old, portal(field, victim) as new:
        assert old.log_in(*credentials(victim.told)).is_full
        assert new.log_in(*credentials(victim.told)).is_full
        deadline = time.monotonic() + _PATIENCE_S
        while old.alive:
            assert time.monotonic() < deadline
        attempt.seen("the new one is let in at once and stays, the old one is ended")
        assert new.alive
