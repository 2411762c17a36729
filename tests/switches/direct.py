"""A CLI driver that talks to a simulator directly: without SSH, which takes a second a session, and without netmiko."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from bmi.drivers.switch.ssh import Access, SshSwitch
from tests.switches.server import Dialogue, Simulator


class Talk:
    """As much of netmiko's connection as the driver uses."""

    def __init__(self, simulator: Simulator) -> None:
        self._dialogue = Dialogue(simulator)

    def send_command(self, line: str, **_: object) -> str:
        return self._dialogue.answer(line)

    def send_config_set(self, lines: Sequence[str], **_: object) -> str:
        return "\n".join(map(self._dialogue.answer, lines))

    def config_mode(self, config_command: str = "configure terminal") -> str:
        return self._dialogue.answer(config_command)

    def exit_config_mode(self) -> str:
        return self._dialogue.answer("exit configuration-mode" if self._dialogue.mode == "#" else "end")

    def commit(self) -> str:
        """As netmiko's for Junos."""
        said = self._dialogue.answer("commit")
        if "commit complete" not in said:
            raise ValueError(said)
        return said


class _Direct(SshSwitch):
    simulator: Simulator

    @contextmanager
    def _session(self) -> Iterator[Any]:
        yield Talk(self.simulator)


def direct(family: str, simulator: Simulator, *, unused_vlan: int = 0) -> SshSwitch:
    """The driver of a family for the simulator of a switch."""
    module = import_module(f"bmi.drivers.switch.{family}")
    made = _Direct(module.FAMILY, Access("simulator", "bmi"), unused_vlan)
    object.__setattr__(made, "simulator", simulator)
    return made
