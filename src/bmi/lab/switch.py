"""The lab's switch: Open vSwitch in userspace, with directories of its own, inside the lab's namespace."""

import json
import socket
from pathlib import Path

from bmi import process
from bmi.drivers import netns
from bmi.drivers.ovsdb import CLOSED, UPLINK_MARK, OvsDatabase
from bmi.lab.spec import BRIDGE, LabSpec

_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
_TIMEOUT_S = 15


def up(lab: LabSpec) -> None:
    """Starts what does not run, and gives each node a port, closed. What exists stays as it is."""
    at = lab.switch_directory
    at.mkdir(exist_ok=True)
    if not _answers(at / "db.sock"):
        _start_database(lab)
    if not _answers(at / "vswitchd.ctl"):
        _run(lab, "ovs-vswitchd", lab.switch_db, *_daemon(at, "vswitchd"))
    database = OvsDatabase(lab.switch_db, _TIMEOUT_S)
    database.run("--may-exist", "add-br", BRIDGE, "--", "set", "Bridge", BRIDGE, "datapath_type=netdev")
    [ports] = database.rows(Port="name")
    present = {row["name"] for row in ports}
    for node in lab.nodes:
        _make_tap(lab.netns, node.switch_port)
        if node.switch_port not in present:
            port = node.switch_port
            database.run("add-port", BRIDGE, port, "--", "set", "Port", port, *CLOSED)


def answers(lab: LabSpec) -> bool:
    """Whether both daemons of the switch take connections."""
    return all(_answers(lab.switch_directory / name) for name in ("db.sock", "vswitchd.ctl"))


def feet(lab: LabSpec) -> list[str]:
    """The namespaces that hang on this switch, by its database file: it need not run."""
    database = lab.switch_directory / "conf.db"
    if not database.exists():
        return []
    question = ["Open_vSwitch", {"op": "select", "table": "Port", "where": [], "columns": ["external_ids"]}]
    done = process.run(["ovsdb-tool", "query", database, json.dumps(question)], ok_codes=(0, 1))
    if done.returncode:
        return []  # a database that was never finished has no ports
    rows = json.loads(done.stdout)[0]["rows"]
    return sorted({value for row in rows for key, value in row["external_ids"][1] if key == UPLINK_MARK})


def _start_database(lab: LabSpec) -> None:
    at = lab.switch_directory
    if not (at / "conf.db").exists():
        fresh = at / "conf.db.new"
        fresh.unlink(missing_ok=True)
        _run(lab, "ovsdb-tool", "create", str(fresh), _SCHEMA)
        fresh.replace(at / "conf.db")
    remote = f"--remote=p{lab.switch_db}"
    _run(lab, "ovsdb-server", str(at / "conf.db"), remote, *_daemon(at, "ovsdb"))
    _run(lab, "ovs-vsctl", f"--db={lab.switch_db}", f"--timeout={_TIMEOUT_S}", "--no-wait", "init")


def _daemon(at: Path, name: str) -> list[str]:
    """Options that send a daemon to the background once it is ready, with all its files in `at`."""
    return [
        "--detach",
        f"--pidfile={at / name}.pid",
        f"--unixctl={at / name}.ctl",
        f"--log-file={at / name}.log",
        "-vconsole:off",
    ]


def _run(lab: LabSpec, *command: str) -> None:
    directories = dict.fromkeys(
        ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), str(lab.switch_directory)
    )
    process.run(command, netns=lab.netns, env=directories, timeout_s=_TIMEOUT_S)


def _make_tap(namespace: str, name: str) -> None:
    if name not in netns.links(namespace):
        netns.ip(namespace, "tuntap", "add", "dev", name, "mode", "tap")
    netns.ip(namespace, "link", "set", "dev", name, "up")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
