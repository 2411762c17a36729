"""Choosing addresses and VLANs: the lowest that is free, so that the choice is predictable."""

from collections.abc import Collection, Iterable
from ipaddress import IPv4Interface, IPv4Network

from bmi.errors import NoFreeAddressError

# In a subnet with room to spare, the first addresses are left to the site's own devices.
_RESERVED = 9
# … and the last quarter to machines that have nothing to boot and must be told so.
_GUEST_SHARE = 4
_ROOMY = 64


def free_address(foot: IPv4Interface, used: Collection[str]) -> str:
    """The first free address for a node on the network that `foot` is in; raises NoFreeAddressError."""
    taken = {*used, str(foot.ip)}
    first, size = foot.network.network_address, foot.network.num_addresses
    roomy = size >= _ROOMY
    for offset in range(1 + _RESERVED if roomy else 1, size - size // _GUEST_SHARE if roomy else size - 1):
        if str(first + offset) not in taken:
            return str(first + offset)
    raise NoFreeAddressError(
        f"Network {foot.network} has no free address.",
        remedy="Release a node of this project, or give the project a larger network.",
    )


def guest_address(foot: IPv4Interface, mac: str, used: Collection[str]) -> str | None:
    """An address for a while for a machine that has none here, always the same for a MAC where possible;
    None in a small network. It is never one that `free_address` gives.
    """
    size = foot.network.num_addresses
    if size < _ROOMY:
        return None
    count = size // _GUEST_SHARE - 1  # the last address is the broadcast address
    start = int(mac.replace(":", ""), 16)
    for step in range(count):
        candidate = str(foot.network.network_address + (size - count - 1 + (start + step) % count))
        if candidate not in {*used, str(foot.ip)}:
            return candidate
    return None


def free_subnet(pool: IPv4Network, prefix: int, used: Iterable[str]) -> IPv4Interface:
    """The first subnet of `pool` that overlaps none of the `used` ones, as the address of BMI's foot
    (its first host); raises NoFreeAddressError.
    """
    taken = [IPv4Interface(address).network for address in used]
    for subnet in pool.subnets(new_prefix=prefix):
        if not any(subnet.overlaps(other) for other in taken):
            return IPv4Interface(f"{subnet.network_address + 1}/{prefix}")
    raise NoFreeAddressError(
        f"All /{prefix} networks of {pool} are in use.",
        remedy="Enlarge networks.subnets or delete a project.",
    )


def free_vlan(pool: range, used: Collection[int]) -> int:
    """The first VLAN of `pool` that is not used; raises NoFreeAddressError."""
    for vlan in pool:
        if vlan not in used:
            return vlan
    raise NoFreeAddressError(
        f"All VLANs from {pool.start} to {pool.stop - 1} are in use.",
        remedy="Enlarge networks.vlans or delete a project.",
    )
