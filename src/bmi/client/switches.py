"""The client's calls about switches, their ports and cables."""

from collections.abc import Sequence
from typing import cast

from bmi.client.documents import Json, Operation, Port, Switch
from bmi.client.transport import Transport, path


class SwitchCalls(Transport):
    """What the nodes are cabled to."""

    def list_switches(self) -> list[Switch]:
        """All switches."""
        return cast("list[Switch]", self._list("/switches"))

    def get_switch(self, name: str) -> Switch:
        """One switch."""
        return cast("Switch", self._get(path("switches", name)))

    def register_switch(self, name: str, *, driver: str, options: Json | None = None) -> Switch:
        """Makes a switch known."""
        body = {"name": name, "driver": driver, "options": options or {}}
        return cast("Switch", self._call("POST", "/switches", body))

    def change_switch(self, name: str, *, options: Json) -> Switch:
        """Says anew how a switch is reached: what is left out stays, and None drops an option."""
        return cast("Switch", self._call("PATCH", path("switches", name), {"options": options}))

    def remove_switch(self, name: str, *, force: bool = False) -> None:
        """Forgets a switch that no node is cabled to; with `force`, even one that is gone with its cables."""
        self._call("DELETE", path("switches", name), force="true" if force else None)

    def list_ports(self, switch: str) -> list[Port]:
        """The ports of a switch that BMI manages."""
        return cast("list[Port]", self._list(path("switches", switch, "ports")))

    def check_switch(self, name: str, *, repair: bool = False, widen: bool = False) -> Operation:
        """Asks the switch and compares its ports; the step `compare_ports` has the result."""
        body = {"repair": repair, "widen": widen}
        return self._operate("POST", path("switches", name, "check"), body)

    def cable(self, cables: Sequence[Json], *, force: bool = False) -> int:
        """Says what is cabled to which port: dictionaries with `switch`, `port` and, where there is one, `node`,
        `nic` and `mac`; all or nothing. With `force`, even off ports that were not seen closed. Returns how many
        there were.
        """
        body = {"cables": list(cables), "force": force}
        return cast("int", self._call("POST", "/switches/cables", body)["cables"])
