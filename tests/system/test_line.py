"""A real machine goes the whole way: DHCP, iPXE, kernel, iSCSI root, a running OS, and back."""

from pathlib import Path

import pytest

from bmi.client import Client
from bmi.drivers.switch import CLOSED
from bmi.drivers.switch.ovs import create as open_switch
from bmi.lab import checks
from bmi.lab.site import Site, await_event, finished
from bmi.lab.timeline import stages_of
from tests.system.conftest import IMAGE

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

STAGES = ["accepted", "power-on", "dhcp", "script", "kernel", "initrd", "initramfs", "disk", "root", "up"]
USER_DATA = "#cloud-config\nwrite_files:\n- {path: /etc/told, content: by cloud-init}\n"


@pytest.fixture(scope="module")
def red(site: Site) -> Client:
    return site.add_project("red")


def test_a_provision_survives_the_death_of_its_server(site: Site, red: Client) -> None:
    """Kill -9 of BMI in the middle of a boot: the restarted one brings the same provision to its end."""
    operation = red.provision_node(
        "n1", image=IMAGE, hostname="web-1", ssh_keys=[site.public_key()], user_data=USER_DATA
    )
    await_event(red, "n1", "initrd", after=0, timeout_s=120)
    site.crash_server()
    site.start_server()
    finished(red, operation)
    shown = red.get_node("n1")
    assert (shown["state"], shown["project"], shown["image"]) == ("active", "red", IMAGE)
    seen = [stage.name for stage in stages_of(red, "n1", operation)]
    # The reports that came while nobody listened are lost; the boot is not.
    assert [stage for stage in STAGES if stage in seen] == [stage for stage in seen if stage in STAGES]
    assert {"accepted", "power-on", "dhcp", "script", "up"} <= set(seen)


def test_the_os_is_told_who_it_is(site: Site) -> None:
    login = site.login("n1")
    assert login.run("hostname").stdout.strip() == "web-1"
    assert login.run("cat /etc/told").stdout == "by cloud-init"
    assert login.run("findmnt -no SOURCE /").stdout.startswith("/dev/sda")


def test_no_secret_reaches_what_every_user_of_the_node_may_read(site: Site) -> None:
    command_line = site.login("n1").run("cat /proc/cmdline").stdout
    assert "boot/" not in command_line
    assert "iqn." not in command_line
    readable = site.login("n1").run("cat /run/bmi/boot.env", ok_codes=(1,))
    assert "Permission denied" in readable.stderr


def test_node_and_target_have_proved_themselves_to_each_other(site: Site) -> None:
    """Firmware table and all: what iPXE was told, Linux's iSCSI session has used."""
    volume = site.client().get_node("n1")["volume"]
    assert volume is not None
    names = site.login("n1").run(
        "sudo sh -c 'cd /sys/class/iscsi_session/session1; cat username username_in'"
    )
    assert names.stdout.split() == [volume["id"], f"{volume['id']}-target"]


def test_under_three_percent_of_the_image_is_read(site: Site) -> None:
    size_bytes = site.client().get_image(IMAGE)["size_bytes"] or 0
    assert 0 < checks.bytes_served(site, "n1") < 0.03 * size_bytes


def test_a_released_node_leaves_nothing(site: Site, red: Client) -> None:
    volume = red.get_node("n1")["volume"]
    assert volume is not None
    finished(red, red.release_node("n1"))
    finished(red, red.free_node("n1"))
    assert site.client().get_node("n1")["state"] == "free"
    assert list(Path(site.directory).rglob(f"*{volume['id']}*")) == []
    ports = open_switch(bridge=site.lab.bridge, db=site.lab.switch_db).list()
    assert ports[site.lab.nodes[0].switch_port] == CLOSED
