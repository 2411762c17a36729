"""Switches whose configuration is stanzas of interfaces: IOS, NX-OS, EOS, OS10 and OS9, as far as VLANs go."""

import re
from dataclasses import dataclass, field

from bmi.drivers.switch.running_config import names, numbers
from tests.switches.server import Dialogue, Simulator

ALL = frozenset(range(1, 4095))
_CONFIG = "(config)"


@dataclass
class Port:
    """As it comes from the factory."""

    up: bool = True
    mode: str = "access"
    access: int = 1
    native: int = 1
    allowed: frozenset[int] = ALL
    switched: bool = True
    extra: set[str] = field(default_factory=set)


def ranges(vlans: frozenset[int]) -> str:
    """As switches print them: `2,101-103`."""
    parts: list[list[int]] = []
    for vlan in sorted(vlans):
        if parts and vlan == parts[-1][-1] + 1:
            parts[-1].append(vlan)
        else:
            parts.append([vlan])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


class Stanzas(Simulator):
    """What they have in common: modes within modes, and a complaint about what is not understood."""

    # VLANs that it keeps for itself.
    reserved = range(0)
    # Whether a port of which nothing is said is routed.
    routed = False
    complaint = "% Invalid input detected at '^' marker."
    show = "show running-config"
    save = "write memory"
    hostname = "sw"

    def __init__(self, ports: tuple[str, ...]) -> None:
        super().__init__(ports)
        self.state = {port: Port() for port in ports}
        self.existing = {1}

    def prompt(self, mode: str) -> str:
        return f"{self.hostname}{mode}#" + (" " if self.show.startswith("show running-configuration") else "")

    def do(self, line: str, dialogue: Dialogue) -> str:
        if line in {"end", "exit"} and dialogue.mode:
            dialogue.mode = _CONFIG if line == "exit" and dialogue.mode != _CONFIG else ""
            return ""
        if not dialogue.mode:
            return self._do_outside(line, dialogue)
        if line.startswith("interface "):
            return self._enter(line.removeprefix("interface ").strip(), dialogue)
        if match := re.fullmatch(r"vlan (\d+)", line):
            if int(match[1]) in self.reserved:
                return "% VLAN is reserved for internal use."
            self.existing.add(int(match[1]))
            dialogue.mode = "(config-vlan)"
            return ""
        done = dialogue.mode == "(config-if)" and self.configure(self.state[dialogue.notes["port"]], line)
        return "" if done else self.complaint

    def _do_outside(self, line: str, dialogue: Dialogue) -> str:
        if line in {"exit", "logout"}:
            dialogue.closed = True
        elif line.startswith("configure"):
            dialogue.mode = _CONFIG
        elif line == self.show:
            return self.running()
        elif line == self.save:
            self.saves += 1
            return "[OK]"
        elif not line.startswith(("terminal ", "enable")):
            return self.complaint
        return ""

    def _enter(self, name: str, dialogue: Dialogue) -> str:
        if name not in self.state:
            return self.complaint
        dialogue.mode, dialogue.notes["port"] = "(config-if)", name
        return ""

    def configure(self, port: Port, line: str) -> bool:
        """Whether this was understood."""
        if (extra := line.removeprefix("no ")) != line and extra in port.extra:
            port.extra.remove(extra)
            return True
        kept = any(word.isdigit() and int(word) in self.reserved for word in line.split())
        if kept or (line.startswith("switchport ") and not port.switched):
            return False
        return self._configure(port, line)

    def _configure(self, port: Port, line: str) -> bool:
        match line.split():
            case ["shutdown"]:
                port.up = False
            case ["no", "shutdown"]:
                port.up = True
            case ["switchport"]:
                port.switched = True
            case ["switchport", "access", "vlan", vlan]:
                port.access = int(vlan)
            case ["switchport", "mode", ("access" | "trunk") as mode]:
                port.mode = mode
            case ["switchport", "trunk", "native", "vlan", vlan]:
                port.native = int(vlan)
            case ["switchport", "trunk", "allowed", "vlan", listed]:
                port.allowed = frozenset() if listed == "none" else numbers(listed)
            case _:
                return False
        return True

    def vlans(self, port: str) -> frozenset[int]:
        state = self.state[port]
        if not (state.up and state.switched):
            return frozenset()
        if state.mode == "trunk":
            return state.allowed
        return frozenset({state.access}) if state.mode == "access" else ALL

    def running(self) -> str:
        return "\n".join(f"interface {name}\n{self.stanza(port)}!" for name, port in self.state.items())

    def stanza(self, port: Port, indent: str = " ", default_mode: str = "access") -> str:
        lines = [
            ("" if self.routed else "no switchport")
            if not port.switched
            else "switchport"
            if self.routed
            else "",
            f"switchport access vlan {port.access}" if port.access != 1 else "",
            *sorted(line for line in port.extra if "encapsulation" in line),
            f"switchport trunk native vlan {port.native}" if port.native != 1 else "",
            f"switchport trunk allowed vlan {ranges(port.allowed) or 'none'}" if port.allowed != ALL else "",
            f"switchport mode {port.mode}" if port.mode != default_mode else "",
            *sorted(line for line in port.extra if "encapsulation" not in line),
            "" if port.up else "shutdown",
        ]
        return "".join(f"{indent}{line}\n" for line in lines if line)


class Ios(Stanzas):
    """Negotiates until it is told not to, and wants an encapsulation before it trunks."""

    show = "show running-config | section ^interface"
    reserved = range(1002, 1006)

    def __init__(self, ports: tuple[str, ...]) -> None:
        super().__init__(ports)
        self.state = {port: Port(mode="dynamic") for port in ports}

    def do(self, line: str, dialogue: Dialogue) -> str:
        printed = super().do(line, dialogue)
        named = re.fullmatch(r"switchport access vlan (\d+)", line)
        if named and not printed and int(named[1]) not in self.existing:
            self.existing.add(int(named[1]))
            return f"% Access VLAN does not exist. Creating vlan {named[1]}"
        return printed

    def _configure(self, port: Port, line: str) -> bool:
        if line in {"switchport nonegotiate", "switchport trunk encapsulation dot1q"}:
            port.extra.add(line)
            return True
        if line == "switchport mode trunk" and "switchport trunk encapsulation dot1q" not in port.extra:
            return False
        return super()._configure(port, line)

    def running(self) -> str:
        stanzas = [
            f"interface {name}\n{self.stanza(port, ' ', 'dynamic')}" for name, port in self.state.items()
        ]
        return "".join([*stanzas, "interface Vlan1\n no ip address\n shutdown\n"])


class Nxos(Stanzas):
    reserved = range(3968, 4095)
    show = "show running-config interface"
    save = "copy running-config startup-config"
    complaint = "% Invalid command at '^' marker."

    def running(self) -> str:
        head = (
            "\n!Command: show running-config interface\n!Time: Sun Nov 22 10:00:00 2026\n\nversion 9.3(5)\n\n"
        )
        ports = "\n".join(f"interface {name}\n{self.stanza(port, '  ')}" for name, port in self.state.items())
        return f"{head}{ports}\ninterface mgmt0\n  vrf member management\n"


class Eos(Stanzas):
    show = "show running-config section interface"
    complaint = "% Invalid input"

    def _do_outside(self, line: str, dialogue: Dialogue) -> str:
        answers = {
            "terminal width 511": "Width set to 511 columns.",
            "terminal length 0": "Pagination disabled.",
        }
        return answers.get(line) or super()._do_outside(line, dialogue)

    def running(self) -> str:
        ports = "".join(f"interface {name}\n{self.stanza(port, '   ')}" for name, port in self.state.items())
        return f"{ports}interface Management1\n   ip address 192.0.2.1/24\n"


class RoutedEos(Eos):
    """After `switchport default mode routed`."""

    routed = True

    def __init__(self, ports: tuple[str, ...]) -> None:
        super().__init__(ports)
        self.state = {port: Port(switched=False) for port in ports}


class Os10(Stanzas):
    """The untagged VLAN of a trunk is its access VLAN; VLANs are added to a trunk, and have to exist."""

    show = "show running-configuration interface"
    save = "copy running-configuration startup-configuration"
    complaint = "% Error: Unrecognized command."

    def __init__(self, ports: tuple[str, ...]) -> None:
        super().__init__(ports)
        self.state = {port: Port(allowed=frozenset()) for port in ports}

    def _enter(self, name: str, dialogue: Dialogue) -> str:
        if match := re.fullmatch(r"vlan (\d+)", name):
            self.existing.add(int(match[1]))
            dialogue.mode = "(conf-if-vl)"
            return ""
        return super()._enter(name, dialogue)

    def _configure(self, port: Port, line: str) -> bool:
        match line.split():
            case ["switchport", "trunk", "allowed", "vlan", listed]:
                if port.mode != "trunk" or not numbers(listed) <= self.existing:
                    return False
                port.allowed |= numbers(listed)
            case ["no", "switchport", "trunk", "allowed", "vlan", listed]:
                port.allowed -= numbers(listed)
            case ["switchport", "access", "vlan", vlan] if int(vlan) not in self.existing:
                return False
            case ["switchport", "mode", "access"]:
                port.mode, port.allowed = "access", frozenset()
            case _:
                return super()._configure(port, line)
        return True

    def vlans(self, port: str) -> frozenset[int]:
        state = self.state[port]
        return state.allowed | {state.access} if state.up else frozenset()

    def stanza(self, port: Port, indent: str = " ", default_mode: str = "access") -> str:
        lines = [
            "no shutdown" if port.up else "shutdown",
            f"switchport mode {port.mode}" if port.mode != default_mode else "",
            f"switchport access vlan {port.access}",
            f"switchport trunk allowed vlan {ranges(port.allowed)}" if port.allowed else "",
            *sorted(port.extra),
            "flowcontrol receive on",
        ]
        return "".join(f"{indent}{line}\n" for line in lines if line)


class Os9(Stanzas):
    """VLANs list their ports; a switched port that is in none as it needs is in VLAN 1."""

    show = "show running-config interface"
    complaint = "% Error: Invalid input at '^' marker."

    def __init__(self, ports: tuple[str, ...]) -> None:
        super().__init__(ports)
        self.state = {port: Port(up=False, switched=False) for port in ports}
        self.tagged: dict[int, set[str]] = {}
        self.untagged: dict[int, set[str]] = {}

    def _enter(self, name: str, dialogue: Dialogue) -> str:
        if match := re.fullmatch(r"vlan (\d+)", name):
            self.tagged.setdefault(int(match[1]), set())
            self.untagged.setdefault(int(match[1]), set())
            dialogue.mode, dialogue.notes["vlan"] = "(conf-if-vl)", match[1]
            return ""
        return super()._enter(name, dialogue)

    def do(self, line: str, dialogue: Dialogue) -> str:
        member = re.fullmatch(r"(no )?(tagged|untagged) (.+)", line)
        if dialogue.mode != "(conf-if-vl)" or not member:
            return super().do(line, dialogue)
        members = (self.tagged if member[2] == "tagged" else self.untagged)[int(dialogue.notes["vlan"])]
        for port in names(member[3]):
            if port not in self.state:
                return self.complaint
            if member[1]:
                members.discard(port)
                continue
            state = self.state[port]
            elsewhere = (
                self._in(port, self.tagged) if member[2] == "untagged" else self._in(port, self.untagged)
            )
            if not state.switched or (elsewhere and "portmode hybrid" not in state.extra):
                return "% Error: Port is not in the right mode."
            if member[2] == "untagged":
                for others in self.untagged.values():
                    others.discard(port)
            members.add(port)
        return ""

    def _in(self, port: str, kind: dict[int, set[str]]) -> frozenset[int]:
        return frozenset(vlan for vlan, members in kind.items() if port in members)

    def _configure(self, port: Port, line: str) -> bool:
        name = next(name for name, state in self.state.items() if state is port)
        is_member = self._in(name, self.tagged) | self._in(name, self.untagged)
        match line.split():
            case ["no", "switchport"] if not is_member:
                port.switched = False
            case ["portmode", "hybrid"] if not port.switched:
                port.extra.add(line)
            case ["no", "portmode", "hybrid"] if not port.switched:
                port.extra.discard("portmode hybrid")
            case ["switchport"] | ["shutdown"] | ["no", "shutdown"]:
                return super()._configure(port, line)
            case _:
                return False
        return True

    def vlans(self, port: str) -> frozenset[int]:
        state = self.state[port]
        if not (state.up and state.switched):
            return frozenset()
        tagged, untagged = self._in(port, self.tagged), self._in(port, self.untagged)
        needs_native = "portmode hybrid" in state.extra or not tagged
        return tagged | (untagged or (frozenset({1}) if needs_native else frozenset()))

    def stanza(self, port: Port, indent: str = " ", default_mode: str = "access") -> str:
        lines = ["no ip address", *sorted(port.extra), *(["switchport"] if port.switched else [])]
        lines.append("no shutdown" if port.up else "shutdown")
        return "".join(f"{indent}{line}\n" for line in lines)

    def running(self) -> str:
        vlans = []
        for vlan in sorted(self.tagged):
            lines = [" no ip address"]
            for how, members in (("tagged", self.tagged[vlan]), ("untagged", self.untagged[vlan])):
                if members:
                    items = sorted(int(port.rpartition("/")[2]) for port in members)
                    lines.append(f" {how} {self.ports[0].rpartition('/')[0]}/{ranges(frozenset(items))}")
            vlans.append("\n".join([f"interface Vlan {vlan}", *lines, " no shutdown", "!"]))
        return "\n".join([super().running(), *vlans])
