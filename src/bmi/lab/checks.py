"""What the demo and the system tests prove about a running site; each returns facts, none decides."""

import os
import secrets
import signal
import time
from itertools import pairwise
from typing import Any

from bmi.client import Client
from bmi.domain.nouns import Volume, iscsi_name
from bmi.drivers.storage import Ref
from bmi.drivers.switch import CLOSED
from bmi.drivers.switch.ovs import create as open_switch
from bmi.lab.site import Login, Site, await_event, finished
from bmi.process import run
from bmi.store import records
from bmi.wiring import open_core, open_tools

_MARKER = "bmi-marker"
_WRITE_S = 25
_KILL_AFTER_S = 5


def bytes_served(site: Site, node: str) -> int:
    """Bytes that the node's last boot read: of its volume, and its kernel and initramfs."""
    client = site.client()
    up = next(
        step["result"] or {}
        for operation in client.list_operations(subject=node)
        for step in operation["steps"]
        if step["name"] == "await_up" and step["state"] == "done"
    )
    files = {e["stage"]: e["detail"] for e in client.list_events(node) if e["stage"] in {"kernel", "initrd"}}
    return int(up["bytes_served"]) + sum(int(detail.partition("bytes=")[2]) for detail in files.values())


# ---- isolation --------------------------------------------------------------------------------------


def isolation(site: Site, node: str, neighbour: str, stranger: str) -> dict[str, bool]:
    """Whether `node` reaches a node of its own project, and one of another project's or its volume.

    The node takes an address in the other project's network first: routing alone must not be what keeps
    it out.
    """
    admin = site.client()
    login = site.login(node)
    theirs = admin.get_node(stranger)
    network = admin.get_project(str(theirs["project"]))["network"]
    foot = network["address"] if network else ""
    prefix = foot.rpartition("/")[2]
    intruder = f"{foot.rpartition('.')[0]}.77/{prefix}"
    login.run(f"sudo ip address add {intruder} dev $(ls /sys/class/net | grep -v lo | head -1)")
    return {
        "same_project_reachable": _pings(login, str(admin.get_node(neighbour)["address"])),
        "other_project_reachable": _pings(login, str(theirs["address"]))
        or _pings(login, foot.partition("/")[0]),
        "other_project_volume_readable": _connects(login, foot.partition("/")[0], site.settings.export.port)
        or _volume_readable(site, stranger, str(admin.get_node(node)["project"])),
    }


def _pings(login: Login, address: str) -> bool:
    return login.run(f"ping -c 3 -W 2 -q {address}", ok_codes=(0, 1, 2)).returncode == 0


def _connects(login: Login, address: str, port: int) -> bool:
    """Whether a TCP connection from inside the node is taken."""
    script = f"timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/{port}'"
    return login.run(script, ok_codes=(0, 1, 124)).returncode == 0


def _volume_readable(site: Site, node: str, project: str) -> bool:
    """Whether a machine in `project`'s network can read the volume of another project's `node` although
    it knows its name, its initiator and its CHAP secret; in the volume's own network, it can.
    """
    core = open_core(site.settings)
    with core.database.read() as tx:
        shown = records.nodes.find(tx, name=node)
        volume = records.volumes.find(tx, node_id=shown.id) if shown else None
        if volume is None:
            raise LookupError(node)
        home = records.networks.get(tx, volume.network_id)
        owner = records.projects.find(tx, name=project)
        away = records.networks.find(tx, project_id=owner.id, boot=True) if owner else None
    if away is None:
        raise LookupError(project)
    secret = core.vault.open(volume.chap_secret)
    core.database.engine.dispose()
    prefix = site.settings.export.iqn_prefix
    # Without this, a tool that never works would look like isolation.
    if not _inquires(prefix, home.netns, str(home.interface.ip), volume, secret):
        raise RuntimeError("The volume cannot be read even from its own network: the check is worthless.")
    return any(
        _inquires(prefix, away.netns, address, volume, secret)
        for address in (str(home.interface.ip), str(away.interface.ip))
    )


def _inquires(prefix: str, netns: str, address: str, volume: Volume, secret: str) -> bool:
    target = iscsi_name(prefix, "volume", volume.id)
    done = run(
        [
            "timeout",
            "5",
            "iscsi-inq",
            "-i",
            iscsi_name(prefix, "node", volume.node_id or "none"),
            f"iscsi://{address}:3260/{target}/1",
        ],
        netns=netns,
        env={"LIBISCSI_CHAP_USERNAME": volume.id, "LIBISCSI_CHAP_PASSWORD": secret},
        ok_codes=range(256),
    )
    return done.returncode == 0


# ---- data -------------------------------------------------------------------------------------------


def write_marker(site: Site, node: str) -> str:
    """Writes a file in the running node, as a user would, and returns what is in it."""
    text = secrets.token_hex(8)
    site.login(node).run(f"echo {text} > {_MARKER} && sync")
    return text


def read_marker(site: Site, node: str) -> str:
    """What is in that file on this node; empty when there is none."""
    return site.login(node).run(f"cat {_MARKER} 2>/dev/null || true").stdout.strip()


def reboot_keeps_data(site: Site, client: Client, node: str) -> bool:
    """Whether a file survives the reboot that the OS itself is asked for."""
    marker = write_marker(site, node)
    newest = max(event["id"] for event in client.list_events(node))
    site.login(node).run("sudo systemctl reboot", ok_codes=(0, 255))
    await_event(client, node, "up", after=newest, timeout_s=600)
    return read_marker(site, node) == marker


def target_killed(site: Site, node: str, project: str) -> dict[str, Any]:
    """Kills the exporter under a node that writes: I/O errors in the node, and the longest pause."""
    login = site.login(node)
    # Direct and synchronous, so that every line stands for a write that reached the volume.
    login.run(
        f"""cat > /dev/shm/writer <<'END'
end=$(($(date +%s) + {_WRITE_S}))
while [ $(date +%s) -lt $end ]; do
  dd if=/dev/zero of=bmi-written bs=64k count=4 oflag=direct conv=fsync 2>/dev/null || echo failed
  date +%s.%N
done > /dev/shm/writes
END
nohup sh /dev/shm/writer > /dev/null 2>&1 &"""
    )
    time.sleep(_KILL_AFTER_S)
    os.kill(site.tgtd_of(project), signal.SIGKILL)
    time.sleep(_WRITE_S - _KILL_AFTER_S + 1)
    lines = login.run("cat /dev/shm/writes", timeout_s=180).stdout.split()
    errors = login.run("sudo dmesg | grep -ciE 'I/O error|remounting.*read-only|Buffer I/O' || true").stdout
    moments = [float(line) for line in lines if line != "failed"]
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    return {
        "io_errors": lines.count("failed") + int(errors),
        "seconds_to_recover": round(max(pauses), 2),
        "writes_after": sum(moment > moments[pauses.index(max(pauses))] for moment in moments),
    }


# ---- release ----------------------------------------------------------------------------------------


def release(site: Site, owners: dict[str, Client]) -> dict[str, Any]:
    """Releases nodes; whether, in the store and on the switch, nothing of them is left."""
    core = open_core(site.settings)
    tools = open_tools(core)
    with core.database.read() as tx:
        volumes = {n.name: records.volumes.find(tx, node_id=n.id) for n in records.nodes.list(tx)}
    seconds = {}
    for node, client in owners.items():
        began = time.monotonic()
        finished(client, client.release_node(node))
        seconds[node] = round(time.monotonic() - began, 2)
    core.database.engine.dispose()
    stored = {item.ref for item in tools.storage.list()}
    ports = open_switch(bridge=site.lab.bridge, db=site.lab.switch_db).list()
    return {
        "seconds": seconds,
        "volume_gone": not any(Ref("volume", v.id) in stored for v in volumes.values() if v),
        "port_closed": all(ports[n.switch_port] == CLOSED for n in site.lab.nodes if n.name in owners),
    }
