"""Real firmware against the boot service alone: what a BIOS with iPXE and a UEFI with its own PXE make of it."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bmi.domain.boot import Boot, Offer
from bmi.drivers import netns
from tests.netboot.desk import KERNEL_BOOT, TOKEN, FakeDesk
from tests.netboot.link import CLIENT_MAC, FOOT, Link, eventually, link, serving

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

OVMF = Path("/usr/share/OVMF")
TAP, DEAF_TAP = "tap0", "tap1"
FIRMWARE_S = 90


@pytest.fixture
def cable() -> Iterator[Link]:
    """A network with a bridge in place of the cable, and a plug for a machine."""
    with link(2) as made:
        netns.ip(made.server, "link", "delete", FOOT)
        netns.ip(made.server, "link", "add", FOOT, "type", "bridge")
        netns.ip(made.server, "address", "add", made.foot.address, "dev", FOOT)
        for tap in (TAP, DEAF_TAP):
            netns.ip(made.server, "tuntap", "add", tap, "mode", "tap")
            netns.ip(made.server, "link", "set", tap, "master", FOOT, "up")
        netns.ip(made.server, "link", "set", FOOT, "up")
        yield made


@pytest.fixture
def desk(cable: Link) -> FakeDesk:
    offers = {CLIENT_MAC: Offer("10.96.2.10", TOKEN)}
    return FakeDesk([cable.foot], offers, {(TOKEN, cable.foot.network_id): Boot("wait", "n1")})


@contextmanager
def machine(cable: Link, console: Path, *, firmware: list[str], rom: str) -> Iterator[None]:
    """A node that is on while the block runs. Nobody answers the first of its NICs."""
    qemu = subprocess.Popen(
        [
            *("nsenter", f"--net=/run/netns/{cable.server}", "--", "qemu-system-x86_64"),
            *("-machine", "q35,accel=tcg,graphics=off", "-cpu", "qemu64", "-m", "512"),
            *("-nodefaults", "-no-user-config", "-display", "none", *firmware),
            *("-chardev", f"file,id=console,path={console}", "-serial", "chardev:console"),
            *("-netdev", f"tap,id=deaf,ifname={DEAF_TAP},script=no,downscript=no"),
            *("-device", "virtio-net-pci,netdev=deaf,mac=52:54:00:00:08:ff,romfile="),
            *("-netdev", f"tap,id=net0,ifname={TAP},script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=net0,mac={CLIENT_MAC},bootindex=1{rom}"),
            *("-device", "virtio-rng-pci"),
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        qemu.kill()
        qemu.wait()


def said(console: Path) -> str:
    """What is on the console, without what moves its cursor."""
    return re.sub(r"\x1b\[[0-9;=?]*[A-Za-z]|\r", "", console.read_text(encoding="latin-1"))


def test_a_bios_waits_tries_says_what_failed_and_tries_again(
    cable: Link, desk: FakeDesk, tmp_path: Path
) -> None:
    console = tmp_path / "console"
    with serving(desk, tmp_path), machine(cable, console, firmware=[], rom=""):
        eventually(lambda: console.exists() and "n1 waits for its volume" in said(console), FIRMWARE_S)
        assert desk.told == []
        # Nobody listens at the portal, so that each attempt ends at its first step.
        desk.boots[TOKEN, "network-2"] = KERNEL_BOOT
        eventually(lambda: len(desk.told) >= 4, FIRMWARE_S)
    assert [stage for stage, _ in desk.told[:4]] == ["script", "failed"] * 2
    assert re.fullmatch(r"iPXE: stage=sanhook, errno=0x[0-9a-f]+", desk.told[1][1])
    assert {firmware for _, _, firmware in desk.asked} == {"ipxe"}
    assert re.search(r"BMI: sanhook failed \(0x[0-9a-f]+\), trying again in 10 s", said(console))
    assert "command not found" not in said(console).lower()
    assert KERNEL_BOOT.chap_secret not in said(console)


def test_a_bios_with_nothing_to_boot_says_so(cable: Link, desk: FakeDesk, tmp_path: Path) -> None:
    desk.offers[CLIENT_MAC] = Offer("10.96.2.200", None, lease_s=120)
    console = tmp_path / "console"
    with serving(desk, tmp_path), machine(cable, console, firmware=[], rom=""):
        eventually(
            lambda: console.exists() and "nothing to boot on this network" in said(console), FIRMWARE_S
        )
    assert desk.told == []


def test_a_bios_comes_back_from_a_trouble_of_ours_and_takes_another_address(
    cable: Link, desk: FakeDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in ("_RETRY_S", "_NOTHING_S"):
        monkeypatch.setattr(f"bmi.domain.boot.{pause}", 2)
    console = tmp_path / "console"
    desk.boots.clear()
    desk.boot_trouble = OSError("the database is away")
    with serving(desk, tmp_path), machine(cable, console, firmware=[], rom=""):
        eventually(lambda: console.exists() and "the boot server is in trouble" in said(console), FIRMWARE_S)
        desk.boot_trouble = None
        # Its own address is given to it while it still has the one of a guest.
        desk.offers[CLIENT_MAC] = Offer("10.96.2.200", None, lease_s=120)
        eventually(lambda: "nothing to boot on this network" in said(console), FIRMWARE_S)
        desk.offers[CLIENT_MAC] = Offer("10.96.2.10", TOKEN)
        desk.boots[TOKEN, "network-2"] = Boot("wait", "n1")
        eventually(lambda: "n1 waits for its volume" in said(console), FIRMWARE_S)
    assert {mac for _, mac, _ in desk.asked} == {CLIENT_MAC}


def test_a_uefi_loads_ipxe_over_tftp_and_then_its_script(cable: Link, desk: FakeDesk, tmp_path: Path) -> None:
    variables, console = tmp_path / "variables", tmp_path / "console"
    shutil.copy(OVMF / "OVMF_VARS_4M.fd", variables)
    flash = "if=pflash,format=raw"
    firmware = [
        "-drive",
        f"{flash},readonly=on,file={OVMF}/OVMF_CODE_4M.fd",
        "-drive",
        f"{flash},file={variables}",
    ]
    with serving(desk, tmp_path), machine(cable, console, firmware=firmware, rom=",romfile="):
        eventually(lambda: console.exists() and "n1 waits for its volume" in said(console), FIRMWARE_S)
    asked = [firmware for _, _, firmware in desk.asked]
    assert asked[0] == "uefi64"
    assert asked[-1] == "ipxe"
