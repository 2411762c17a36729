"""An SSH server that is a switch: a shell with a prompt, that counts who comes and notes what they say."""

import re
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

USERNAME, PASSWORD = "bmi", "sw1tch-pa55-word"
_HOST_KEY = paramiko.ECDSAKey.generate()


class Simulator:
    """A switch's state and command line. A subclass has `ports`, says what a command does in a `mode` ("" is the
    outermost), and what its prompt is.
    """

    def __init__(self, ports: tuple[str, ...]) -> None:
        self.ports = ports
        self.lock = threading.RLock()
        self.said: list[str] = []
        self.saves = 0
        # Every VLAN that a port was on, at any moment since somebody cleared this.
        self.reached: dict[str, set[int]] = defaultdict(set)
        # What it does not do, as patterns of lines, and what it says instead.
        self.refused: dict[str, str] = {}

    def prompt(self, mode: str) -> str:
        raise NotImplementedError

    def do(self, line: str, dialogue: "Dialogue") -> str:
        """What is printed; changes the dialogue's mode, or closes it."""
        raise NotImplementedError

    def vlans(self, port: str) -> frozenset[int]:
        """The VLANs that frames of a port get into; VLAN 1 as well."""
        raise NotImplementedError


@dataclass
class Dialogue:
    """One person at the switch."""

    simulator: Simulator
    mode: str = ""
    closed: bool = False
    notes: dict[str, str] = field(default_factory=dict)

    def answer(self, line: str) -> str:
        with self.simulator.lock:
            self.simulator.said.append(line)
            refusals = (said for what, said in self.simulator.refused.items() if re.fullmatch(what, line))
            printed = next(refusals, None)
            if printed is None:
                printed = self.simulator.do(line, self)
            for port in self.simulator.ports:
                self.simulator.reached[port] |= self.simulator.vlans(port)
        return printed

    @property
    def prompt(self) -> str:
        return self.simulator.prompt(self.mode)


class _Door(paramiko.ServerInterface):
    def __init__(self, came_in: Callable[[], None]) -> None:
        self._came_in = came_in
        self.wants_shell = threading.Event()

    def get_allowed_auths(self, username: str) -> str:
        return "password"

    def check_auth_password(self, username: str, password: str) -> int:
        if (username, password) != (USERNAME, PASSWORD):
            return paramiko.common.AUTH_FAILED
        self._came_in()
        return paramiko.common.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_pty_request(self, *_: object) -> bool:
        return True

    def check_channel_shell_request(self, channel: paramiko.Channel) -> bool:
        self.wants_shell.set()
        return True


class SshServer:
    """Lets people talk to a simulator."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.sessions = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._transports: list[paramiko.Transport] = []
        self._thread = threading.Thread(target=self._accept, name="fake-switch")
        self._thread.start()

    @property
    def fingerprint(self) -> str:
        return str(_HOST_KEY.fingerprint)

    @property
    def known_hosts_line(self) -> str:
        return f"[127.0.0.1]:{self.port} {_HOST_KEY.get_name()} {_HOST_KEY.get_base64()}\n"

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for transport in self._transports:
            transport.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _came_in(self) -> None:
        with self.simulator.lock:
            self.sessions += 1

    def _serve(self, connection: socket.socket) -> None:
        with suppress(Exception):  # a client that leaves in the middle is no failure of the switch
            transport = paramiko.Transport(connection)
            self._transports.append(transport)
            transport.add_server_key(_HOST_KEY)
            door = _Door(self._came_in)
            transport.start_server(server=door)
            channel = transport.accept(20)
            if channel is not None and door.wants_shell.wait(20):
                self._talk(channel)
            transport.close()

    def _talk(self, channel: paramiko.Channel) -> None:
        dialogue = Dialogue(self.simulator)
        channel.sendall(f"\r\n{dialogue.prompt}".encode())
        pending = b""
        while not dialogue.closed and (received := channel.recv(4096)):
            pending += received.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            while b"\n" in pending and not dialogue.closed:
                line, _, pending = pending.partition(b"\n")
                text = line.decode()
                printed = dialogue.answer(text.strip()) if text.strip() else ""
                printed = printed.rstrip("\n").replace("\n", "\r\n") + "\r\n" if printed else ""
                channel.sendall(f"{text}\r\n{printed}{dialogue.prompt}".encode())


@contextmanager
def serving(simulator: Simulator) -> Iterator[SshServer]:
    """The simulator as a switch, for the length of a block."""
    server = SshServer(simulator)
    try:
        yield server
    finally:
        server.close()


def options(server: SshServer, directory: Path) -> dict[str, object]:
    """With which a driver gets in."""
    password = directory / "switch-password"
    password.write_text(PASSWORD + "\n", encoding="utf-8")
    return {
        "host": "127.0.0.1",
        "port": server.port,
        "username": USERNAME,
        "password_file": str(password),
        "fingerprint": server.fingerprint,
    }
