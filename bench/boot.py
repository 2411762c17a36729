#!/usr/bin/env python3
"""How long until a bare node runs an image: BMI against writing the image to the node's local disk.

Both on the same virtual node, in the same run, over the same network, from the request until SSH answers: then
the node has its identity and can be used. The copy is done as installers do it: the firmware boots a small system from the
network, which streams the raw image, holes included, onto the local disk, leaves the node's identity there for
cloud-init (as BMI gives it too), and restarts from there. Needs root.

Also: BMI's own share of a provision, from the request to the node having power (median of 10), and how much
of the image the node reads.
"""

import http.server
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from bmi.client import Client, has_ended
from bmi.client.documents import Operation
from bmi.domain.boot import Offer, meta_data, user_data
from bmi.drivers.bmc import BmcAccess
from bmi.drivers.bmc.redfish import create as open_bmc
from bmi.drivers.switch import CLOSED, PortConfig
from bmi.drivers.switch.ovs import create as open_switch
from bmi.drivers.uplink import Foot
from bmi.drivers.uplink.ovs import create as open_uplink
from bmi.errors import TimedOutError
from bmi.image.bootable import build_boot
from bmi.image.convert import convert
from bmi.image.cpio import write_cpio
from bmi.image.disk import file_systems
from bmi.image.kernel_modules import copy_modules, read_index
from bmi.lab import benches, checks
from bmi.lab.golden import DEFAULT_CACHE, ensure_golden
from bmi.lab.site import Site, finished, running_site
from bmi.netboot import dhcp, link, ra
from bmi.netboot.namespace import inside

_IMAGE = "debian-12"
_PORT = 7561
_SSH_PORT = 22
_BOOT_TIMEOUT_S = 900
_COPY_VLAN = 400
_COPY_NET = "10.97.0.1/24"
_COPY_NODE = "10.97.0.10"

_COPY_INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
modprobe -a virtio_pci virtio_net virtio_blk ext4
until [ -e /sys/class/net/eth0 ] && [ -e /dev/vda ]; do usleep 100000; done
ip link set eth0 up
ip addr add @NODE@/24 dev eth0
until wget -q -O - http://@SERVER@:8080/disk.raw | dd of=/dev/vda bs=4M iflag=fullblock oflag=direct; do sleep 1; done
blockdev --rereadpt /dev/vda
mkdir -p /mnt
until mount -t ext4 /dev/vda2 /mnt; do sleep 1; done
mkdir -p /mnt/var/lib/cloud/seed/nocloud
cp /seed/* /mnt/var/lib/cloud/seed/nocloud/
umount /mnt
sync
echo "copied after $(cut -d' ' -f1 /proc/uptime) s" > /dev/console
reboot -f
"""


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    parser = benches.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="boots of each way (default 3)")
    parser.add_argument("--provisions", type=int, default=10, help="samples of BMI's own share (default 10)")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    arguments = parser.parse_args()
    golden = ensure_golden(arguments.cache, progress=lambda said: print(said, file=sys.stderr))
    with tempfile.TemporaryDirectory(prefix="bmi-bench-", dir="/var/tmp") as scratch:
        raw = Path(scratch) / "disk.raw"
        size_bytes = convert(golden, raw, timeout_s=600).size_bytes
        data_bytes = raw.stat().st_blocks * 512
        with running_site(
            Path(scratch) / "site", "bench", nodes=1, port=_PORT, disk_gib=(size_bytes >> 30) + 1
        ) as site:
            project = site.add_project("bench")
            admin = site.client()
            finished(admin, admin.import_image(_IMAGE, golden, public=True))
            shares = [own_share_s(project) for _ in range(arguments.provisions)]
            boots, copies = [], []
            # In turn, since the machine may be faster in one minute than in the next.
            for _ in range(arguments.rounds):
                boots.append(boot_with_bmi(project, site))
                copies.append(boot_with_copy(site, raw, Path(scratch)))
    bmi_s = statistics.median(seconds for seconds, _ in boots)
    copy_s = statistics.median(copies)
    row = {
        "bmi_s": round(bmi_s, 1),
        "own_share_s": round(statistics.median(shares), 3),
        "image_copy_s": round(copy_s, 1),
        "ratio": round(copy_s / bmi_s, 2),
        "bytes_read": max(read for _, read in boots),
        "image_bytes": size_bytes,
        "image_data_bytes": data_bytes,
    }
    benches.publish("boot", [row], arguments.json)


def _moment(text: str | None) -> float:
    return datetime.fromisoformat(text or "").timestamp()


def own_share_s(client: Client) -> float:
    """Seconds from the accepted request to the node having power; the boot is then cancelled."""
    operation = client.provision_node("n1", image=_IMAGE)
    while (powered := _step(operation, "power_on"))["state"] != "done":
        if has_ended(operation):
            raise TimedOutError(f"The provision ended early: {operation['problem']}")
        time.sleep(0.05)
        operation = client.get_operation(operation["id"])
    client.cancel_operation(operation["id"])
    client.wait(operation["id"])
    return _moment(powered["finished_at"]) - _moment(operation["created_at"])


def _step(operation: Operation, name: str) -> Any:
    return next(step for step in operation["steps"] if step["name"] == name)


def boot_with_bmi(client: Client, site: Site) -> tuple[float, int]:
    """Seconds from the request until SSH answers, and the bytes that the node read by then."""
    console = site.lab.nodes[0].console_path
    console.write_bytes(b"")
    began = time.monotonic()
    operation = client.provision_node("n1", image=_IMAGE, ssh_keys=[site.public_key()])
    address = str(client.get_node("n1")["address"])
    _await_ssh(site.netns_of("bench"), address, console)
    seconds = time.monotonic() - began
    finished(client, operation)
    read = checks.bytes_served(site, "n1")
    finished(client, client.release_node("n1"))
    return seconds, read


def boot_with_copy(site: Site, raw: Path, scratch: Path) -> float:
    """Seconds from power-on until SSH answers, the image running from the local disk."""
    lab = site.lab
    node = lab.nodes[0]
    uplink = open_uplink(bridge=lab.bridge, db=lab.switch_db, netns=lab.netns)
    switch = open_switch(bridge=lab.bridge, db=lab.switch_db)
    foot = Foot(netns=f"{site.netns_prefix}-copy", vlan=_COPY_VLAN, address=_COPY_NET)
    uplink.ensure(foot)
    served = _prepare_copy(raw, scratch)
    bmc = open_bmc()
    access = BmcAccess(
        node.bmc_url.removeprefix("redfish+"), lab.bmc_username, lab.bmc_password_file.read_text().strip()
    )
    node.console_path.write_bytes(b"")
    with _installer(foot, served):
        switch.apply({node.switch_port: PortConfig(_COPY_VLAN)})
        began = time.monotonic()
        bmc.boot_network_once(access)
        bmc.power_on(access)
        _await_ssh(foot.netns, _COPY_NODE, node.console_path)
        seconds = time.monotonic() - began
    bmc.power_off(access)
    switch.apply({node.switch_port: CLOSED})
    uplink.remove(foot.netns)
    return seconds


def _prepare_copy(raw: Path, scratch: Path) -> Path:
    """A directory with what the installer serves: script, kernel, initramfs and the disk."""
    served = scratch / "served"
    if served.exists():
        return served
    served.mkdir()
    artefacts = build_boot(raw, served / "boot", work_dir=scratch)
    tree = scratch / "overlay"
    tree.mkdir()
    (tree / "init").write_text(
        _COPY_INIT.replace("@NODE@", _COPY_NODE).replace("@SERVER@", str(IPv4Interface(_COPY_NET).ip))
    )
    (tree / "init").chmod(0o755)
    (tree / "seed").mkdir()
    identity = {"hostname": "n1", "ssh_keys": [], "user_data": ""}
    (tree / "seed" / "meta-data").write_text(meta_data("copied", identity))
    (tree / "seed" / "user-data").write_text(user_data(identity))
    (tree / "seed" / "network-config").write_text("version: 1\nconfig: disabled\n")
    root = next(fs for fs in file_systems(raw) if fs.find("/lib/modules") or fs.find("/usr/lib/modules"))
    index = read_index(root, artefacts.kernel_version)
    names = index.closure(["virtio_pci", "virtio_net", "virtio_blk", "ext4"])
    copy_modules(root, artefacts.kernel_version, index, names, tree)
    with (served / "overlay").open("wb") as out:
        write_cpio(tree, out)
    base = f"http://{IPv4Interface(_COPY_NET).ip}:8080"
    (served / "ipxe").write_text(
        "#!ipxe\n"
        f"kernel {base}/boot/kernel console=ttyS0,115200\n"
        f"initrd {base}/boot/initrd\n"
        f"initrd {base}/overlay\n"
        "boot\n"
    )
    (served / "disk.raw").symlink_to(raw)
    return served


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        """The console shows how far the copy is."""


@contextmanager
def _installer(foot: Foot, served: Path) -> Iterator[None]:
    """DHCP, router advertisement and HTTP for one node, as BMI itself gives them."""
    interface = IPv4Interface(foot.address)
    stop = threading.Event()
    packets = inside(foot.netns, lambda: link.open_socket(foot.interface))
    packets.settimeout(0.2)
    solicitations = inside(foot.netns, lambda: ra.open_socket(foot.interface))
    solicitations.settimeout(0.2)

    def answer_dhcp() -> None:
        while not stop.is_set():
            try:
                request = dhcp.parse(packets.recv(4096))
            except (TimeoutError, dhcp.MalformedPacketError):
                continue
            offer = Offer(_COPY_NODE, "copy")
            reply = dhcp.answer(request, interface, offer, f"http://{interface.ip}:8080/ipxe")
            if reply is not None:
                link.send(packets, foot.interface, reply)

    def answer_solicitations() -> None:
        while not stop.is_set():
            try:
                ra.reply(solicitations)
            except TimeoutError:
                continue

    listener = inside(foot.netns, lambda: socket.create_server((str(interface.ip), 8080)))
    server = http.server.ThreadingHTTPServer(
        ("", 0), partial(_Quiet, directory=str(served)), bind_and_activate=False
    )
    server.socket.close()
    server.socket = listener
    threads = [threading.Thread(target=t) for t in (answer_dhcp, answer_solicitations, server.serve_forever)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        server.shutdown()
        for thread in threads:
            thread.join()
        server.server_close()
        packets.close()
        solicitations.close()


def _await_ssh(netns: str, address: str, console: Path) -> None:
    deadline = time.monotonic() + _BOOT_TIMEOUT_S
    while time.monotonic() < deadline:
        if inside(netns, lambda: _greets(address)):
            return
        time.sleep(0.25)
    tail = "\n".join(console.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
    raise TimedOutError(f"SSH did not answer within {_BOOT_TIMEOUT_S} s; the console ends with:\n{tail}")


def _greets(address: str) -> bool:
    """Whether an SSH server says its version (RFC 4253, section 4.2)."""
    try:
        with socket.create_connection((address, _SSH_PORT), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


if __name__ == "__main__":
    main()
