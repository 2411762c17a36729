"""What a family of command-line switches is: what shows its ports, what is said to change them, and how it is said so
that a switch that refuses in the middle leaves no port open on more than it was or shall be.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from netmiko.base_connection import BaseConnection

from bmi.drivers.switch import CLOSED, PortConfig
from bmi.errors import DriverError, TimedOutError

# What a shell adds to a line that has failed, whatever its program printed.
_OR_SAY_SO = " || echo error: it failed"

_NOT_DONE = r"unknown command|syntax error|usage:|traceback\b|sorry, user|sudo:|-?bash:|permission denied"
# A line by which a switch says that it did not understand, or does not want to.
_COMPLAINT = re.compile(
    # But not what it only reports (%LINK-3-UPDOWN), or does besides (IOS).
    r"^\s*(%(?! Access VLAN does not exist|[A-Z0-9_]+-\d-)|\^|error|invalid|.*\b(error|failed|rejected|aborted)\b|"
    rf"{_NOT_DONE})",
    re.IGNORECASE,
)
# The same where it was to show something, which may well contain such words.
_REFUSAL = re.compile(
    rf"^(%|\s*\^\s*$|error\b|invalid\b|(command )?authorization failed|{_NOT_DONE})", re.IGNORECASE
)


@dataclass(frozen=True)
class Seen:
    """A port as the switch shows it. One that is not `up`, administratively, passes nothing whatever else is
    said of it; one that is not `plain` is something that BMI does not make, or does not understand. `foreign` are
    lines of its configuration by which its frames may get elsewhere.
    """

    native: int | None = None
    tagged: frozenset[int] = field(default_factory=frozenset)
    up: bool = True
    plain: bool = True
    foreign: tuple[str, ...] = ()

    @property
    def is_ours(self) -> bool:
        return self.plain and not self.foreign

    @property
    def config(self) -> PortConfig | None:
        if not self.up:
            return CLOSED
        try:
            config = PortConfig(self.native, self.tagged)
        except DriverError:
            return None  # VLAN 1, for example
        # Up and in no VLAN, it may be routed, or get what it is in from where BMI does not look.
        return config if self.is_ours and config.vlans else None


@dataclass(frozen=True)
class Change:
    """A port, what it is, and what it shall be."""

    port: str
    was: Seen
    config: PortConfig

    def is_exceeded_by(self, now: Seen) -> bool:
        """Whether the port is on something that it neither was nor shall be on, or that nobody understands."""
        if now.config is None:
            return True
        before = self.was.config
        return not now.config.vlans <= self.config.vlans | (before.vlans if before else frozenset())


def vlans_of(changes: Sequence[Change]) -> list[int]:
    """All VLANs that these ports shall be on: they have to exist."""
    return sorted({vlan for change in changes for vlan in change.config.vlans})


# Lines that belong together: what follows one that was refused is left unsaid.
Script = Sequence[str]


@dataclass(frozen=True)
class Patience:
    """How long a session waits: for each answer, and for all of them until `ends_at` (monotonic). Who keeps the
    switch gives a session up some time later, and lets another in: this one must not say anything more then.
    """

    answer_s: float
    ends_at: float

    def now_s(self) -> float:
        """For the next answer; raises TimedOutError when the session's time is up."""
        if time.monotonic() > self.ends_at:
            raise TimedOutError(
                "The session with the switch took too long.",
                remedy="`bmi switch check` shows how fast it answers. It is tried again.",
            )
        return self.answer_s


# Returns what was said against it.
Run = Callable[["Family", BaseConnection, Sequence[Script], Patience], str]


def in_config_mode(
    family: "Family", connection: BaseConnection, scripts: Sequence[Script], patience: Patience
) -> str:
    """Each line counts as soon as it is said. A script enters something, is left by its last `exit`, and may do so
    several times.
    """

    def say(line: str) -> str:
        return str(
            connection.send_config_set(
                [line], enter_config_mode=False, exit_config_mode=False, read_timeout=patience.now_s()
            )
        )

    connection.config_mode()
    said = ""
    for script in scripts:
        inside = False
        for line in script:
            answer = say(line)
            if family.refuses(line, answer):
                said += answer
                if inside and line != "exit":
                    say("exit")
                break
            inside = line != "exit"
    connection.exit_config_mode()
    return said


def in_shell(
    family: "Family", connection: BaseConnection, scripts: Sequence[Script], patience: Patience
) -> str:
    """Programs of a Linux shell, one after the other."""
    said = ""
    for script in scripts:
        for line in script:
            answer = str(connection.send_command(line + _OR_SAY_SO, read_timeout=patience.now_s()))
            if family.refuses(line, answer):
                said += f"{answer}\n"
                break
    return said


@dataclass(frozen=True)
class Family:
    """Switches that understand the same commands.

    `show` are the commands that show all, `parse` makes ports of what they print, and `commands` are those that
    make ports so, a script for each port or one for all: in an order in which no port is for any moment on more than
    it was or shall be on, wherever it ends. `run` says them; `save` keeps them. `vlan` is the script that makes a VLAN,
    where that is none of the ports' own.
    """

    device_type: str
    show: tuple[str, ...]
    parse: Callable[[Sequence[str]], Mapping[str, Seen]]
    commands: Callable[[Sequence[Change], int], Sequence[Script]]
    save: str | None
    run: Run = in_config_mode
    vlan: Callable[[int], Script] | None = None
    # A refused line leaves all ports of the same script as they were.
    all_or_nothing: bool = False
    # Lines that some of them refuse, and others need.
    may_fail: str = r"(?!)"
    # A family whose ports cannot be without an untagged VLAN: what falls there must not be VLAN 1.
    needs_native: bool = False
    # Ports come and go with what is plugged in: one that is not there is closed.
    ports_vanish: bool = False
    # What stands where a setting must name a VLAN and means none, and those that the switches keep for themselves.
    unused_vlan: int = 4094
    reserved: range = range(0)

    def save_line(self) -> str | None:
        return self.save + _OR_SAY_SO if self.save and self.run is in_shell else self.save

    def refuses(self, line: str, answer: str) -> bool:
        return bool(complaints(answer)) and not re.fullmatch(self.may_fail, line)


def complaints(said: str) -> list[str]:
    """What a switch said against what it was told."""
    return list(_matching(_COMPLAINT, said))


def refusals(printed: str) -> list[str]:
    """What a switch printed instead of what it was to show."""
    return list(_matching(_REFUSAL, printed))


def _matching(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if pattern.match(line) and len(line.strip()) > 1)
