"""Addresses, subnets and VLANs: the lowest that is free."""

from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmi.domain.addressing import free_address, free_subnet, free_vlan, guest_address
from bmi.errors import NoFreeAddressError

feet = st.builds(
    lambda base, prefix, host: IPv4Interface(
        (IPv4Network((base, prefix), strict=False)[1 + host % (2 ** (32 - prefix) - 2)], prefix)
    ),
    st.integers(0, 2**32 - 1),
    st.integers(18, 30),
    st.integers(0),
)


@given(foot=feet, others=st.sets(st.integers(0, 400)))
def test_an_address_is_in_the_network_and_nobody_elses(foot: IPv4Interface, others: set[int]) -> None:
    network = foot.network
    used = {str(network[offset]) for offset in others if offset < network.num_addresses}
    try:
        address = IPv4Address(free_address(foot, used))
    except NoFreeAddressError:
        return
    assert address in network
    assert address not in {network.network_address, network.broadcast_address, foot.ip}
    assert str(address) not in used


def _all_of(next_one: Callable[[list[str]], str]) -> list[str]:
    """Everything a pool gives until it is used up."""
    given: list[str] = []
    with suppress(NoFreeAddressError):
        while True:
            given.append(next_one(given))
    return given


@pytest.mark.parametrize(
    ("foot", "first", "last"),
    [
        # The first addresses are left to the site, the last quarter to guests, where there is room.
        ("10.96.0.1/24", "10.96.0.10", "10.96.0.191"),
        ("10.96.0.65/26", "10.96.0.74", "10.96.0.111"),
        ("10.96.0.1/27", "10.96.0.2", "10.96.0.30"),
        ("10.96.0.1/30", "10.96.0.2", "10.96.0.2"),
        ("10.96.0.2/30", "10.96.0.1", "10.96.0.1"),
    ],
)
def test_a_network_is_used_up_from_the_lowest_address_on(foot: str, first: str, last: str) -> None:
    interface = IPv4Interface(foot)
    used = _all_of(lambda used: free_address(interface, used))

    ours = {interface.ip} & set(map(IPv4Address, range(int(IPv4Address(first)), int(IPv4Address(last)) + 1)))
    assert (used[0], used[-1]) == (first, last)
    assert used == sorted(used, key=IPv4Address)
    assert len(used) == int(IPv4Address(last)) - int(IPv4Address(first)) + 1 - len(ours)
    with pytest.raises(NoFreeAddressError, match="no free address"):
        free_address(interface, used)


@given(foot=feet, macs=st.lists(st.integers(0, 2**48 - 1), max_size=8, unique=True))
def test_a_guest_is_never_in_a_nodes_way(foot: IPv4Interface, macs: list[int]) -> None:
    used = [str(foot.ip)]
    for mac in macs:
        guest = guest_address(foot, f"{mac:012x}", used)
        if guest is None:
            return
        assert IPv4Address(guest) in foot.network
        assert IPv4Address(guest) not in {foot.network.broadcast_address, foot.network.network_address}
        assert guest not in used
        used.append(guest)
        node = free_address(foot, [])
        assert IPv4Address(node) < IPv4Address(guest)


def test_a_guest_finds_its_address_again() -> None:
    foot = IPv4Interface("10.96.0.1/24")
    assert guest_address(foot, "52:54:00:00:00:01", []) == guest_address(foot, "52:54:00:00:00:01", [])


@given(prefix=st.integers(20, 26), used=st.sets(st.tuples(st.integers(0, 4095), st.integers(20, 28))))
def test_subnets_never_overlap(prefix: int, used: set[tuple[int, int]]) -> None:
    pool = IPv4Network("10.96.0.0/18")
    taken = [str(IPv4Interface((int(pool[0]) + at * 4, length))) for at, length in used]
    try:
        foot = free_subnet(pool, prefix, taken)
    except NoFreeAddressError:
        return
    assert foot.network.subnet_of(pool)
    assert foot.network.prefixlen == prefix
    assert foot.ip == foot.network[1]
    assert not any(foot.network.overlaps(IPv4Interface(other).network) for other in taken)


def test_subnets_are_used_up_one_by_one() -> None:
    pool = IPv4Network("10.96.0.0/24")
    used = _all_of(lambda used: str(free_subnet(pool, 26, used)))
    assert used == ["10.96.0.1/26", "10.96.0.65/26", "10.96.0.129/26", "10.96.0.193/26"]
    with pytest.raises(NoFreeAddressError, match=r"All /26 networks of 10\.96\.0\.0/24"):
        free_subnet(pool, 26, used)


def test_vlans_are_used_up_one_by_one() -> None:
    assert free_vlan(range(100, 103), [101, 100]) == 102
    with pytest.raises(NoFreeAddressError, match="from 100 to 102"):
        free_vlan(range(100, 103), [100, 101, 102])
