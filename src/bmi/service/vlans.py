"""Choosing the VLAN of a network: one that no other network has, and that no port may still be on."""

from sqlalchemy import Connection

from bmi.domain.addressing import free_vlan
from bmi.errors import InUseError, InvalidInputError
from bmi.service.core import Core
from bmi.store import ports, records
from bmi.store.database import Turn, take_turns


def choose_vlan(core: Core, tx: Connection, wanted: int | None) -> int:
    """The VLAN that is wanted, or the lowest free one of the pool; whoever chooses one waits until this transaction
    ends. Raises InvalidInputError, InUseError for one that a port may still be on, or NoFreeAddressError. That another
    network has the wanted one is the database's to say.
    """
    if wanted is not None and not 2 <= wanted <= 4094:
        raise InvalidInputError("vlan", f"{wanted} is out of range.", remedy="Give a VLAN id from 2 to 4094.")
    take_turns(tx, Turn.CHOOSING_NETWORKS)
    used = {network.vlan for network in records.networks.list(tx)}
    left = ports.vlans_left_open(tx) - used
    if wanted in left:
        raise InUseError(
            f"A port that is not yet closed may still be on VLAN {wanted}, of a network that is gone.",
            remedy="Choose another VLAN, or see to the port: `bmi switch show` tells of each what keeps it.",
        )
    return wanted or free_vlan(core.settings.networks.vlan_ids(), used | left)
