"""Choosing addresses and VLANs: the lowest that is free, so that the choice is predictable."""

from collections.abc import Collection, Iterable
from ipaddress import IPv4Interface, IPv4Network

from bmi.errors import NoFreeAddressError

# In a subnet with room to spare, the first addresses are left to the site's own devices.
_RESERVED = 9


def free_address(foot: IPv4Interface, used: Collection[str]) -> str:
    """The first free address for a node on the network that `foot` is in; raises NoFreeAddressError."""
    taken = {*used, str(foot.ip)}
    hosts = list(foot.network.hosts()) if foot.network.num_addresses <= 256 else None
    candidates: Iterable[object] = (
        hosts[_RESERVED if len(hosts) > 2 * _RESERVED else 0 :]
        if hosts is not None
        else (foot.network.network_address + n for n in range(1 + _RESERVED, foot.network.num_addresses - 1))
    )
    for candidate in candidates:
        if str(candidate) not in taken:
            return str(candidate)
    raise NoFreeAddressError(
        f"Network {foot.network} has no free address.",
        remedy="Release a node of this project, or give the project a larger network.",
    )


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
