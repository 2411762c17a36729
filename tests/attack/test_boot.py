"""What red's machine may learn of others' boots: over DHCP, HTTP and TFTP."""

import contextlib
import socket
import struct
from ipaddress import IPv4Address

import pytest

from bmi.drivers import netns
from bmi.netboot.dhcp import Option
from bmi.netboot.namespace import inside
from tests.attack import frames
from tests.attack.conftest import Attempt, Battlefield
from tests.attack.machine import HTTP_PORT, NIC, Machine

pytestmark = [pytest.mark.real, pytest.mark.attack]

SECRETS = ("ipxe", "meta-data", "user-data", "boot.env", "kernel", "initrd")
MORE = ("failed?stage=x", "report/up")


def fetched(thief: Machine, base: str, *, source: str = "") -> dict[str, int]:
    """The status of each document of a boot, and of what may be reported."""
    documents = {name: thief.get(f"{base}/{name}", source=source)[0] for name in (*SECRETS, MORE[0])}
    return documents | {MORE[1]: thief.get(f"{base}/{MORE[1]}", "POST", source=source)[0]}


@pytest.mark.parametrize("victim", ["n4", "n5"])
def test_the_mac_of_blue_gets_no_boot_of_blue(
    field: Battlefield, red: Machine, attempt: Attempt, victim: str
) -> None:
    attempt.tried(f"DHCP from red's port with the MAC address of blue's {victim}")
    offer = red.discover(field[victim].mac)
    assert offer is not None
    url = offer.options[Option.BOOT_FILE].decode()
    attempt.seen(f"a guest's address in red, {offer.yours}, and {url}: no boot")
    assert url.endswith("/nothing")
    assert field[victim].told.token not in url


def test_a_relay_gets_nobodys_boot(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    attempt.tried("DHCP for red's n3, as if relayed, so that the answer comes to the attacker")
    offer = red.discover(field["n3"].mac, relay=IPv4Address(red.address))
    attempt.seen("no answer" if offer is None else f"{offer}")
    assert offer is None


@pytest.mark.parametrize("victim", ["n3", "n5"])
def test_a_token_is_worth_nothing_elsewhere(
    field: Battlefield, red: Machine, attempt: Attempt, victim: str
) -> None:
    told = field[victim].told
    attempt.tried(f"the live boot token of {victim}, from the attacker's address")
    base = f"http://{field.foot('red').address}:{HTTP_PORT}/boot/{told.token}"
    found = fetched(red, base)
    attempt.seen(f"{sorted(set(found.values()))} for script, cloud-init data and reports")
    assert set(found.values()) == {404}
    assert field[victim].get(told.url)[1] == told.script, "the node itself still gets it"
    if victim == "n3":
        events = [event for event in field.admin.list_events(victim) if event["stage"] == "refused"]
        attempt.seen(f"in the node's events: {events[-1]['detail']}")
        assert red.address in events[-1]["detail"]


def test_a_token_is_worth_nothing_on_another_network(field: Battlefield, attempt: Attempt) -> None:
    attempt.tried("the live boot token of red's n3, from blue's network")
    base = f"http://{field.foot('blue').address}:{HTTP_PORT}/boot/{field['n3'].told.token}"
    found = fetched(field["n4"], base)
    attempt.seen(f"{sorted(set(found.values()))}")
    assert set(found.values()) == {404}


def test_a_header_is_no_address(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    victim = field["n3"]
    attempt.tried("n3's token with headers that say that n3 asks (X-Forwarded-For, X-Real-IP, Forwarded)")
    headers = {
        "X-Forwarded-For": victim.address,
        "X-Real-IP": victim.address,
        "Forwarded": f"for={victim.address}",
        "Host": victim.address,
    }
    status, _ = red.get(victim.told.url, headers=headers)
    attempt.seen(f"{status}")
    assert status == 404


def test_the_address_of_a_neighbour_cannot_be_taken(
    field: Battlefield, red: Machine, attempt: Attempt
) -> None:
    """BMI knows from DHCP whose MAC address it is, and believes no ARP about it."""
    victim = field["n3"]
    attempt.tried("n3's address taken by the attacker, announced by ARP, and n3's script asked for from it")
    netns.ip(victim.netns, "link", "set", NIC, "down")  # the moment is as good as can be: nobody contradicts
    netns.ip(red.netns, "address", "add", f"{victim.address}/24", "dev", NIC)
    try:
        claim = frames.arp(2, (red.mac, victim.address), (frames.BROADCAST, victim.address))
        red.send(*[frames.ethernet(frames.BROADCAST, red.mac, frames.ARP, claim)] * 5)
        status, _ = red.get(victim.told.url, source=victim.address)
        portal = red.reaches(field.foot("red").address, 3260, source=victim.address)
    finally:
        netns.ip(red.netns, "address", "delete", f"{victim.address}/24", "dev", NIC)
        netns.ip(victim.netns, "link", "set", NIC, "up")
    attempt.seen(
        "no connection, neither to the boot server nor to the portal: the answers go to n3's MAC address"
    )
    assert (status, portal) == (0, False)
    assert victim.get(victim.told.url)[0] == 200


def test_a_token_is_dead_once_the_node_is_up(field: Battlefield, attempt: Attempt) -> None:
    attempt.tried("n2's boot token, used again after it is up, from its own address and from another's")
    victim = field["n2"]
    found = fetched(victim, victim.told.base)
    # The report that ended the boot is taken once more from its author, in case it did not hear the answer.
    assert found.pop("report/up") == 200
    stolen = fetched(field.attacker, victim.told.base)
    attempt.seen(f"{sorted({*found.values(), *stolen.values()})} for everything")
    assert {*found.values(), *stolen.values()} == {404}


def test_a_token_cannot_be_made_up(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    attempt.tried("forged tokens: n3's with another proof, without one, cut, with another's session")
    session, _, proof = field["n3"].told.token.partition("-")
    other = field["n5"].told.token.partition("-")[2]
    forged = [
        f"{session}-{'0' * 32}",
        session,
        f"{session}-",
        f"-{proof}",
        f"{session}-{proof[:-1]}",
        f"{session}-{other}",
    ]
    host = f"http://{field.foot('red').address}:{HTTP_PORT}"
    found = {field["n3"].get(f"{host}/boot/{token}/ipxe")[0] for token in forged}
    attempt.seen(f"{sorted(found)}")
    assert found <= {404, 405}


PATHS = [
    "/boot/{token}/../../../../etc/passwd",
    "/boot/{token}/..%2f..%2f..%2fsecrets.key",
    "/boot/{token}/%2e%2e/%2e%2e/secrets.key",
    "/boot/{token}/kernel/../../../bmi.sqlite",
    "/boot/{token}/kernel%00.txt",
    "/boot/{token}//ipxe",
    "/boot/{token}/report/up/../../../{victim}/ipxe",
    "/boot/{victim}/ipxe",
    "/boot/{token}%2f..%2f{victim}/ipxe",
    "//etc/passwd",
    "/%5c..%5c..%5cetc%5cpasswd",
    "/v1/nodes",
    "/openapi.json",
    "/boot/",
]


def test_paths_lead_nowhere_else(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    attempt.tried(
        f"{len(PATHS)} crooked paths under the attacker's own live boot, in search of files and of others"
    )
    red.boot(up=False)
    host = red.told.base.partition("/boot/")[0]
    found = {}
    for path in PATHS:
        place = path.format(token=red.told.token, victim=field["n3"].told.token)
        for method in ("GET", "PUT", "POST"):
            found[method, path] = red.get(f"{host}{place}", method)
    attempt.seen(f"{sorted({status for status, _ in found.values()})} and no file")
    assert {status for status, _ in found.values()} <= {400, 404, 405}
    text = "".join(body for _, body in found.values())
    assert "root:" not in text
    assert field["n3"].told.settings["password"] not in text
    assert red.get(f"{red.told.base}/report/up", "POST")[0] == 200


def test_there_is_no_metadata_service(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    attempt.tried("cloud-init data of others at the addresses where clouds have it")
    red.run("ip", "route", "add", "169.254.169.254/32", "via", field.foot("red").address)
    found = red.get("http://169.254.169.254:80/latest/user-data")[0]
    attempt.seen("nobody answers")
    assert found == 0


def test_the_api_is_not_there(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    port = field.site.settings.server.port
    attempt.tried(f"the API (port {port}), Ceph's, SSH's and the database's ports at BMI's address in red")
    foot = field.foot("red").address
    open_ports = {at for at in (port, 7550, 22, 5432, 3300, 6789, 6640) if red.reaches(foot, at)}
    attempt.seen(f"none is open; {HTTP_PORT} and 3260 are, as they should be")
    assert open_ports == set()
    assert red.reaches(foot, HTTP_PORT)
    assert red.reaches(foot, 3260)


def test_files_by_tftp(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    names = [
        "../../../etc/passwd",
        "/etc/passwd",
        "..\\..\\etc\\passwd",
        "undionly.kpxe/../../../../etc/passwd",
    ]
    attempt.tried(f"{len(names)} paths out of the TFTP directory, and a file written into it")

    def ask(operation: int, name: str) -> int:
        def make() -> socket.socket:
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

        with inside(red.netns, make) as asker:
            asker.settimeout(2)
            asker.sendto(
                struct.pack("!H", operation) + name.encode() + b"\0octet\0", (field.foot("red").address, 69)
            )
            with contextlib.suppress(TimeoutError):
                return int(struct.unpack("!H", asker.recv(600)[:2])[0])
        return 0

    found = [ask(1, name) for name in names] + [ask(2, "mine")]
    attempt.seen("an error or silence for each")
    assert set(found) <= {0, 5}  # no answer, or ERROR (RFC 1350)
    assert ask(1, "undionly.kpxe") in {3, 6}, "what is meant to be fetched can be"
