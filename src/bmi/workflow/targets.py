"""From rows to what the export driver is asked for."""

from collections.abc import Sequence
from functools import partial

from bmi.domain.nouns import Network, Volume, iscsi_name
from bmi.drivers.export import Portal, Target
from bmi.store import records
from bmi.store.chap import chap_of
from bmi.workflow.tools import Tools


def portal_of(tools: Tools, network: Network) -> Portal:
    """The portal that serves a network, and no other."""
    return Portal(
        name=network.id,
        address=str(network.interface.ip),
        port=tools.portal_port,
        netns=network.netns or None,
    )


def target_of(tools: Tools, volume: Volume) -> Target:
    """The export of a volume: only its node's initiator name with its secret gets in; to a detached one,
    nobody does.
    """
    chap = chap_of(tools.vault, volume)
    return Target(
        iqn=iscsi_name(tools.iqn_prefix, "volume", volume.id),
        backing=tools.storage.backing(volume.id),
        initiator=iscsi_name(tools.iqn_prefix, "node", volume.node_id or "none"),
        chap_user=chap.user,
        chap_secret=chap.secret,
        target_user=chap.target_user,
        target_secret=chap.target_secret,
        fence=partial(tools.storage.fence, volume.id),
    )


def exported_targets(tools: Tools, network: Network) -> Sequence[Target]:
    """Everything that should be exported on a network."""
    with tools.database.read() as tx:
        volumes = records.volumes.list(tx, network_id=network.id, exported=True)
    return [target_of(tools, volume) for volume in volumes]
