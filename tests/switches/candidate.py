"""Switches with a candidate configuration that is applied as a whole (Junos, NVUE), and SONiC beside them."""

import json
import re

from bmi.drivers.switch.running_config import numbers
from tests.switches.server import Dialogue, Simulator
from tests.switches.stanza import ranges

_SWITCHING = "unit 0 family ethernet-switching"


class Junos(Simulator):
    """A set of `set` lines; a commit refuses members that are no VLAN."""

    def __init__(self, ports: tuple[str, ...]) -> None:
        super().__init__(ports)
        self.active: set[str] = set()
        # What ports get from ranges and groups that they are in.
        self.inherited: set[str] = set()

    def prompt(self, mode: str) -> str:
        return f"\r\n[edit]\r\nbmi@sw{mode} " if mode == "#" else "bmi@sw> "

    def do(self, line: str, dialogue: Dialogue) -> str:
        if dialogue.mode == "#":
            return self._configure(line, dialogue)
        if line == "configure private":
            dialogue.mode = "#"
            dialogue.notes["candidate"] = "\n".join(self.active)
            return "warning: uncommitted changes will be discarded on exit\nEntering configuration mode\nUsers: none"
        if line == "show interfaces terse":
            rows = [f"{port:<24}up    up\n{port + '.0':<24}up    up   eth-switch" for port in self.ports]
            return "\n".join(
                ["Interface               Admin Link Proto", *rows, "me0                     up    up"]
            )
        if found := re.fullmatch(
            r"show configuration (\S+)( \| display inheritance no-comments)? \| display set", line
        ):
            shown = self.active | self.inherited if found[2] else self.active
            return "\n".join(sorted(words for words in shown if words.startswith(f"set {found[1]} ")))
        if line in {"exit", "quit"}:
            dialogue.closed = True
            return ""
        return {
            "set cli screen-width 511": "Screen width set to 511",
            "set cli complete-on-space off": "Disabling complete-on-space",
            "set cli screen-length 0": "Screen length set to 0",
        }.get(line, "unknown command.")

    def _configure(self, line: str, dialogue: Dialogue) -> str:
        lines = set(dialogue.notes["candidate"].splitlines())
        said = ""
        if line.startswith("set "):
            lines.add(line)
        elif line.startswith("delete "):
            gone = {
                words for words in lines if f"{words} ".startswith(f"set {line.removeprefix('delete ')} ")
            }
            said = "" if gone else "warning: statement not found"
            lines -= gone
        elif line == "commit":
            members = {words.rpartition(" ")[2] for words in lines if " vlan members " in words}
            if not members <= {words.split()[2] for words in lines if words.startswith("set vlans ")}:
                return "error: vlan not found\nerror: configuration check-out failed"
            self.active = lines
            self.saves += 1
            return "commit complete"
        elif line == "rollback 0":
            lines = set(self.active)
            said = "load complete"
        elif line == "exit configuration-mode":
            dialogue.mode = ""
            return "Exiting configuration mode"
        else:
            said = "syntax error."
        dialogue.notes["candidate"] = "\n".join(lines)
        return said

    def vlans(self, port: str) -> frozenset[int]:
        mine = {
            words.removeprefix(f"set interfaces {port} ")
            for words in self.active | self.inherited
            if f" {port} " in words
        }
        if "disable" in mine or not any(words.startswith(_SWITCHING) for words in mine):
            return frozenset()
        ids = {words.split()[2]: int(words.split()[4]) for words in self.active if " vlan-id " in words}
        members = [ids[words.rpartition(" ")[2]] for words in mine if " vlan members " in words]
        return frozenset(members or {1})


class Shell(Simulator):
    """Programs behind a prompt of Linux."""

    def prompt(self, mode: str) -> str:
        return "bmi@sw:~$ "

    def do(self, line: str, dialogue: Dialogue) -> str:
        if line == "exit":
            dialogue.closed = True
            return ""
        # The exit status, as far as it is known here: of what complains.
        program, _, otherwise = line.partition(" || ")
        printed = self.program(program)
        failed = otherwise and re.match(r"(.*\n)*(Error|bash: )", printed)
        return f"{printed}\n{otherwise.removeprefix('echo ')}" if failed else printed

    def program(self, line: str) -> str:
        raise NotImplementedError


class Nvue(Shell):
    """A port in the bridge is on VLAN 1 untagged, and on all VLANs of the bridge, unless it says otherwise."""

    def __init__(self, ports: tuple[str, ...]) -> None:
        super().__init__(ports)
        self.applied: set[str] = set()
        self.candidate: set[str] = set()

    def program(self, line: str) -> str:
        words = line.removeprefix("nv ")
        if words == "show interface -o json":
            found = {port: {"link": {"state": {"up": {}}}, "type": "swp"} for port in self.ports}
            return json.dumps(found | {"lo": {"type": "loopback"}, "eth0": {"type": "eth"}}, indent=2)
        if words == "config show -o commands":
            return "\n".join(
                ["nv set system hostname sw", *sorted(f"nv set {said}" for said in self.applied)]
            )
        if words == "config detach":
            self.candidate = set(self.applied)
        elif words.startswith("set "):
            leaf = words.removeprefix("set ").rpartition(" ")[0]
            single = not leaf.endswith(" vlan")
            self.candidate = {said for said in self.candidate if not (single and said.startswith(f"{leaf} "))}
            self.candidate.add(words.removeprefix("set "))
        elif words.startswith("unset "):
            gone = words.removeprefix("unset ") + " "
            self.candidate = {said for said in self.candidate if not f"{said} ".startswith(gone)}
        elif words == "config apply -y":
            self.applied = set(self.candidate)
            return "applied [rev_id: 7]"
        elif words == "config save":
            self.saves += 1
        else:
            return "Error: Invalid parameter"
        return ""

    def vlans(self, port: str) -> frozenset[int]:
        head = f"interface {port} "
        mine = [said.removeprefix(head) for said in self.applied if said.startswith(head)]
        bridged = [said.split() for said in mine if said.startswith("bridge domain br_default ")]
        if "link state down" in mine or not bridged:
            return frozenset()
        said = {words[-2]: words[-1] for words in bridged}
        if "access" in said:
            return frozenset({int(said["access"])})
        native = said.get("untagged", "1")
        untagged = frozenset() if native == "none" else frozenset({int(native)})
        return untagged | (numbers(said["vlan"]) if "vlan" in said else frozenset(range(1, 4095)))


class Sonic(Shell):
    def __init__(self, ports: tuple[str, ...]) -> None:
        super().__init__(ports)
        self.members: dict[int, dict[str, str]] = {}
        self.up = dict.fromkeys(ports, True)

    def program(self, line: str) -> str:
        match line.removeprefix("sudo config ").split():
            case ["show", what, _]:
                return self._status() if what == "interfaces" else self._vlans()
            case ["vlan", *words]:
                return self._vlan(words)
            case ["interface", ("shutdown" | "startup") as what, port] if port in self.up:
                self.up[port] = what == "startup"
            case ["save", "-y"]:
                self.saves += 1
                return (
                    "Running command: /usr/local/bin/sonic-cfggen -d --print-data > /etc/sonic/config_db.json"
                )
            case _:
                return f'Error: No such command "{line}".'
        return ""

    def _vlan(self, words: list[str]) -> str:
        match words:
            case ["add", vlan]:
                if int(vlan) in self.members:
                    return f"Usage: config vlan add [OPTIONS] <vid>\nError: Vlan{vlan} already exists."
                self.members[int(vlan)] = {}
            case ["member", "add", *_, vlan, _] if int(vlan) not in self.members:
                return f"Error: Vlan{vlan} does not exist"
            case ["member", "add", "-u", vlan, port]:
                if any(how.get(port) == "untagged" for how in self.members.values()):
                    return f"Error: {port} is already untagged member!"
                self.members[int(vlan)][port] = "untagged"
            case ["member", "add", vlan, port]:
                if port in self.members[int(vlan)]:
                    return f"Error: {port} is already a member of Vlan{vlan}!"
                self.members[int(vlan)][port] = "tagged"
            case ["member", "del", vlan, port]:
                if self.members.get(int(vlan), {}).pop(port, None) is None:
                    return f"Error: {port} is not a member of Vlan{vlan}!"
            case _:
                return "Error: No such command."
        return ""

    def _status(self) -> str:
        head = "  Interface        Lanes    Speed    MTU    FEC     Alias    Vlan    Oper    Admin             Type    Asym PFC"
        rows = [
            f"{port:>11}  25,26,27,28     100G   9100     rs  Eth{number}/1  routed    down{'up' if self.up[port] else 'down':>9}"
            "  QSFP28 or later         N/A"
            for number, port in enumerate(self.ports, 1)
        ]
        return "\n".join([head, "-" * 11, *rows])

    def _vlans(self) -> str:
        rows = []
        for vlan, members in sorted(self.members.items()):
            rows += [f"Vlan{vlan:<6} {vlan:>4}  {port:<12} {how}" for port, how in sorted(members.items())]
            rows += [] if members else [f"Vlan{vlan:<6} {vlan:>4}"]
        return "\n".join(
            ["Name        VID  Member       Mode", "-------  ------  -----------  --------", *rows]
        )

    def vlans(self, port: str) -> frozenset[int]:
        mine = frozenset(vlan for vlan, members in self.members.items() if port in members)
        return mine if self.up[port] else frozenset()


class ModalSonic(Sonic):
    """From release 202405 on: a port is routed until it is told that it is a trunk."""

    def __init__(self, ports: tuple[str, ...]) -> None:
        super().__init__(ports)
        self.trunks: set[str] = set()

    def program(self, line: str) -> str:
        match line.removeprefix("sudo config ").split():
            case ["switchport", "mode", "trunk", port]:
                if port in self.trunks:
                    return f"Error: {port} is already in trunk mode"
                self.trunks.add(port)
                return ""
            case ["vlan", "member", "add", *_, port] if port not in self.trunks:
                return f"Error: {port} is in routed mode!\nUse switchport mode command to change port mode"
        return super().program(line)


__all__ = ["Junos", "ModalSonic", "Nvue", "Sonic", "ranges"]
