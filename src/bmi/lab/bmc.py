"""The BMCs of a lab: one process that speaks Redfish, made of the public emulator sushy-tools.

`python -m bmi.lab.bmc DIR` returns as soon as it answers and goes on in the background. One runs per lab;
when it dies the nodes run on, and the next one takes them over.
"""

import fcntl
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import bcrypt
import flask
from sushy_tools import error as emulated
from sushy_tools.emulator import main as emulator
from sushy_tools.emulator.resources.systems.base import AbstractSystemsDriver
from werkzeug.serving import BaseWSGIServer, make_server

from bmi.lab import spec as specs
from bmi.lab.node import Machine
from bmi.lab.spec import BMC_USERNAME, LabSpec


class LabSystems(AbstractSystemsDriver):  # type: ignore[misc]  # sushy-tools has no types
    """The emulator's view of the machines; a system's id is the node's name."""

    def __init__(self, lab: LabSpec) -> None:
        super().__init__()
        self._machines = {node.name: Machine(node, lab.netns) for node in lab.nodes}

    @property
    def driver(self) -> str:
        return "<bmi lab>"

    @property
    def systems(self) -> list[str]:
        return list(self._machines)

    def machine(self, identity: str) -> Machine:
        """By the node's name or, as the emulator's other resources do, by its UUID."""
        for name, machine in self._machines.items():
            if identity in {name, machine.node.uuid}:
                return machine
        raise emulated.NotFound(f"There is no system {identity}.")

    def uuid(self, identity: str) -> str:
        return self.machine(identity).node.uuid

    def name(self, identity: str) -> str:
        return self.machine(identity).node.name

    def get_power_state(self, identity: str) -> str:
        return "On" if self.machine(identity).is_on else "Off"

    def set_power_state(self, identity: str, state: str) -> None:
        machine = self.machine(identity)
        actions = {
            "On": machine.power_on,
            "ForceOn": machine.power_on,
            "ForceOff": machine.power_off,
            "ForceRestart": machine.power_cycle,
            "GracefulShutdown": machine.press_power_button,
        }
        if state not in actions:
            raise emulated.BadRequest(f"A lab node cannot do {state}.")
        actions[state]()

    def get_boot_device(self, identity: str) -> str:
        override = self.machine(identity).override
        return override[0] if override else "None"

    def set_boot_device(self, identity: str, boot_source: str) -> None:
        """The emulator passes on the device alone; for how long it holds is in the request."""
        machine = self.machine(identity)
        duration = flask.request.json["Boot"].get("BootSourceOverrideEnabled", "Once")
        match boot_source, duration:
            case ("None", _) | (_, "Disabled"):
                machine.override = None
            case (("Pxe" | "Hdd"), ("Once" | "Continuous")):
                machine.override = boot_source, duration
            case _:
                raise emulated.BadRequest(f"A lab node cannot boot from {boot_source} {duration}.")

    def get_boot_mode(self, identity: str) -> str:
        self.machine(identity)
        return "Legacy"

    def get_total_memory(self, identity: str) -> float:
        return self.machine(identity).node.memory_mib / 1024

    def get_total_cpus(self, identity: str) -> int:
        return self.machine(identity).node.cpus

    def get_nics(self, identity: str) -> list[dict[str, str]]:
        mac = self.machine(identity).node.mac
        return [{"id": mac, "mac": mac}]


def application(lab: LabSpec) -> Any:
    """The emulator's application, with the lab's machines behind it and the lab's password before it."""
    systems = LabSystems(lab)
    # The emulator chooses among its own drivers and offers no way to name another.
    emulator.Application.systems = systems
    app = emulator.app
    app.configure(extra_config={
        "SUSHY_EMULATOR_AUTH_FILE": str(_password_digest(lab)),
        "SUSHY_EMULATOR_STATE_DIR": str(lab.bmc_directory),
    })  # fmt: skip

    @app.after_request  # type: ignore[untyped-decorator]
    def tell_the_truth(response: flask.Response) -> flask.Response:
        """The emulator says of every override that it is Continuous, and promises actions we refuse."""
        if flask.request.endpoint == "system_resource" and response.status_code == 200:
            document = response.get_json()
            override = systems.machine(flask.request.view_args["identity"]).override  # type: ignore[index]
            document["Boot"]["BootSourceOverrideEnabled"] = override[1] if override else "Disabled"
            document["Boot"]["BootSourceOverrideTarget@Redfish.AllowableValues"] = ["None", "Pxe", "Hdd"]
            reset = document["Actions"]["#ComputerSystem.Reset"]
            for impossible in ("GracefulRestart", "Nmi"):
                reset["ResetType@Redfish.AllowableValues"].remove(impossible)
            response.data = flask.json.dumps(document)
        return response

    return app


def _password_digest(lab: LabSpec) -> Path:
    """The password as the emulator wants it: bcrypt, of the least cost, for the password is random."""
    password = (lab.bmc_directory / "password").read_bytes()
    digest = bcrypt.hashpw(password, bcrypt.gensalt(rounds=4)).decode()
    path = lab.bmc_directory / "htpasswd"
    path.write_text(f"{BMC_USERNAME}:{digest}\n", encoding="ascii")
    return path


def _become_daemon(log: Path) -> None:
    """Leaves the caller's session; the caller's process returns at once, for we listen already."""
    if os.fork():
        os._exit(0)
    os.setsid()
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    source = os.open(os.devnull, os.O_RDONLY)
    for descriptor, origin in ((0, source), (1, sink), (2, sink)):
        os.dup2(origin, descriptor)


def main(directory: Path) -> None:
    """Serves the BMCs of the lab in `directory` until killed."""
    lab, _ = specs.load(directory)
    at = lab.bmc_directory
    os.umask(0o077)
    lock = os.open(at / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # this lab's BMCs are served already
    server = make_server("127.0.0.1", lab.bmc_port, _loading, threaded=True)
    _become_daemon(at / "log")
    (at / "pid").write_text(str(os.getpid()), encoding="ascii")
    # In this order: whoever takes the lab down either finds our process id or has been seen here.
    if specs.load(directory)[1] != "up":
        return
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _serve(server, lab)


def _loading(_environ: Any, _start_response: Any) -> Any:
    raise NotImplementedError  # replaced before the first request is taken


def _serve(server: BaseWSGIServer, lab: LabSpec) -> None:
    # Only now: starting to watch nodes makes threads, which a fork would have lost.
    server.app = application(lab)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
