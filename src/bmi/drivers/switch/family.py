"""What a family of command-line switches is: what shows its ports, what is said to change them, and how it is said so
that a switch that refuses in the middle leaves no port open on more than it was or shall be.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from netmiko.base_connection import BaseConnection

from bmi.drivers.switch import CLOSED, PortConfig
from bmi.errors import DriverError

# A line by which a switch says that it did not understand, or does not want to.
_COMPLAINT = re.compile(
    # But not what it only reports (%LINK-3-UPDOWN), or does besides (IOS).
    r"^\s*(%(?! Access VLAN does not exist|[A-Z0-9_]+-\d-)|\^|error|invalid|usage:|.*\b(error|failed|rejected)\b)",
    re.IGNORECASE,
)
# The same where it was to show something, which may well contain such words.
_REFUSAL = re.compile(
    r"^(%|\s*\^\s*$|error\b|invalid\b|unknown command|syntax error|usage:|traceback\b|sudo:|-?bash:|permission denied"
    r"|(command )?authorization failed)",
    re.IGNORECASE,
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
# Returns what was said against it.
Run = Callable[["Family", BaseConnection, Sequence[Script], float], str]


def in_config_mode(
    family: "Family", connection: BaseConnection, scripts: Sequence[Script], timeout_s: float
) -> str:
    """Each line counts as soon as it is said. A script enters something, is left by its last `exit`, and may do so
    several times.
    """
    say = partial(
        connection.send_config_set, enter_config_mode=False, exit_config_mode=False, read_timeout=timeout_s
    )
    connection.config_mode()
    said = ""
    for script in scripts:
        inside = False
        for line in script:
            answer = str(say([line]))
            if family.refuses(line, answer):
                said += answer
                if inside:
                    say(["exit"])
                break
            inside = line != "exit"
    connection.exit_config_mode()
    return said


def in_shell(
    family: "Family", connection: BaseConnection, scripts: Sequence[Script], timeout_s: float
) -> str:
    """Programs of a Linux shell, one after the other."""
    said = ""
    for script in scripts:
        for line in script:
            answer = str(connection.send_command(line, read_timeout=timeout_s))
            if family.refuses(line, answer):
                said += f"{answer}\n"
                break
    return said


@dataclass(frozen=True)
class Family:
    """Switches that understand the same commands.

    `show` are the commands that show all, `parse` makes ports of what they print, and `commands` are those that
    make ports so, a script for each port or one for all: in an order in which no port is for any moment on more than
    it was or shall be on, wherever it ends. `run` says them; `save` keeps them.
    """

    device_type: str
    show: tuple[str, ...]
    parse: Callable[[Sequence[str]], Mapping[str, Seen]]
    commands: Callable[[Sequence[Change], int], Sequence[Script]]
    save: str | None
    run: Run = in_config_mode
    # Lines that some of them refuse, and others need.
    may_fail: str = r"(?!)"
    # A family whose ports cannot be without an untagged VLAN: what falls there must not be VLAN 1.
    needs_native: bool = False
    # Ports come and go with what is plugged in: one that is not there is closed.
    ports_vanish: bool = False
    # What stands where a setting must name a VLAN and means none, and those that the switches keep for themselves.
    unused_vlan: int = 4094
    reserved: range = range(0)

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
