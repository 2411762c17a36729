"""How a volume's node and the portal prove themselves to each other (CHAP in both directions, RFC 7143, 12.1.3)."""

from dataclasses import dataclass, field

from bmi.domain.nouns import Volume
from bmi.store.vault import Vault

_SECRET_DIGITS = 24  # 96 bits, the least of RFC 7143, 9.2.1, and what every firmware takes


@dataclass(frozen=True)
class Chap:
    """`user` and `secret` are the node's, `target_user` and `target_secret` those of the volume's target."""

    user: str
    secret: str = field(repr=False)
    target_user: str
    target_secret: str = field(repr=False)


def chap_of(vault: Vault, volume: Volume) -> Chap:
    """The target's secret derives from the node's, so that both are new whenever another node gets the volume."""
    secret = vault.open(volume.chap_secret)
    answer = vault.derive(f"target of {volume.id} {secret}")[:_SECRET_DIGITS]
    return Chap(volume.id, secret, f"{volume.id}-target", answer)
