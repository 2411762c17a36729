"""What a node's disk lives through, told by the operating system on it: it grows, moves to another node, goes back
in time, and comes of an image that another program keeps in Ceph.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.client import Client
from bmi.errors import BmiError, InvalidStateError
from bmi.lab.site import Login, Site, await_event, finished, running_site
from bmi.process import run
from tests.system.conftest import IMAGE

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

GIB = 1 << 30
# The image's disk has 4.
LARGER_BYTES = 7 * GIB
HOST_KEY = "cat /etc/ssh/ssh_host_ed25519_key.pub"


@pytest.fixture(scope="module")
def blue(site: Site) -> Client:
    return site.add_project("blue", nodes=2)


@pytest.fixture(scope="module")
def host_key(site: Site, blue: Client) -> str:
    """Who the node on the volume is to everybody that logs in: made by its first boot, on n1."""
    operation = blue.provision_node(
        "n1", image=IMAGE, hostname="db-1", size_bytes=LARGER_BYTES, ssh_keys=[site.public_key()]
    )
    finished(blue, operation)
    return site.login("n1").run(HOST_KEY).stdout


@pytest.fixture
def ceph_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Another lab, whose images are in a Ceph cluster of its own."""
    directory = tmp_path_factory.mktemp("ceph-site")
    with running_site(directory, "cephtest", nodes=1, port=7563, storage="ceph") as made:
        yield made
    assert made.leftovers() == []


def root_bytes(login: Login) -> int:
    """The size of the root file system."""
    return int(login.run("df --block-size=1 --output=size / | tail -1").stdout)


def keep(login: Login, name: str) -> None:
    """Writes a file, for good."""
    login.run(f"echo kept > {name} && sync")


def kept(login: Login) -> list[str]:
    return login.run("ls").stdout.split()


@pytest.mark.usefixtures("host_key")
def test_the_root_file_system_fills_a_disk_larger_than_the_image(site: Site) -> None:
    login = site.login("n1")
    assert int(login.run("lsblk --bytes --nodeps --noheadings --output SIZE /dev/sda").stdout) == LARGER_BYTES
    assert root_bytes(login) > 0.9 * LARGER_BYTES


def test_a_detached_volume_is_the_same_node_on_other_hardware(
    site: Site, blue: Client, host_key: str
) -> None:
    keep(site.login("n1"), "before")
    finished(blue, blue.create_snapshot("n1", "upgrade"))
    keep(site.login("n1"), "after")
    with pytest.raises(InvalidStateError, match=r"n1.* has the volume .* Detach it first"):
        blue.provision_node("n2", volume="n1")
    finished(blue, blue.release_node("n1", keep_volume=True, keep_as="db"))
    assert site.lab.status().power["n1"] == "off"
    finished(blue, blue.provision_node("n2", volume="db"))
    login = site.login("n2")
    assert login.run("hostname").stdout.strip() == "db-1"
    assert login.run(HOST_KEY).stdout == host_key
    assert kept(login) == ["after", "before"]
    assert root_bytes(login) > 0.9 * LARGER_BYTES


def test_a_node_that_is_off_goes_back_to_its_snapshot(site: Site, blue: Client, host_key: str) -> None:
    with pytest.raises(BmiError, match="is on"):
        finished(blue, blue.roll_back_node("n2", "upgrade"))
    finished(blue, blue.power_node("n2", "off"))
    finished(blue, blue.roll_back_node("n2", "upgrade"))
    newest = max(event["id"] for event in blue.list_events("n2"))
    finished(blue, blue.power_node("n2", "on"))
    await_event(blue, "n2", "up", after=newest, timeout_s=600)
    login = site.login("n2")
    assert kept(login) == ["before"]
    assert login.run(HOST_KEY).stdout == host_key
    finished(blue, blue.release_node("n2"))


def test_a_node_boots_from_an_image_that_another_program_keeps_in_ceph(ceph_site: Site, golden: Path) -> None:
    site, ceph = ceph_site, ceph_site.ceph
    stranger = f"{ceph.pool}/theirs"
    run(["qemu-img", "convert", "-O", "raw", golden, f"rbd:{stranger}:conf={ceph.conf}"], timeout_s=300)
    run(["rbd", "--conf", ceph.conf, "snap", "create", f"{stranger}@v1"])
    admin = site.client()
    finished(admin, admin.make_image("adopted", {"rbd": f"{stranger}@v1"}, public=True))
    red = site.add_project("red")
    operation = red.provision_node(
        "n1", image="adopted", size_bytes=LARGER_BYTES, ssh_keys=[site.public_key()]
    )
    finished(red, operation)
    login = site.login("n1")
    assert login.run("hostname").stdout.strip() == "n1"
    assert root_bytes(login) > 0.9 * LARGER_BYTES
    keep(login, "written")
    assert kept(login) == ["written"]
    children = run(["rbd", "--conf", ceph.conf, "children", f"{stranger}@v1"]).stdout.split()
    assert len(children) == 1, "a clone, not a copy"
    finished(red, red.release_node("n1"))
