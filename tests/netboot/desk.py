"""A desk whose answers a test writes down beforehand, and which remembers what it was told."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bmi.domain.boot import Boot, Firmware, Foot, Offer
from bmi.errors import NotFoundError

TOKEN = "01m8session-0123456789abcdef0123456789abcdef"

KERNEL_BOOT = Boot(
    method="kernel",
    node="n1",
    portal="10.96.0.1",
    portal_port=3260,
    iqn="iqn.2024-07.internal.bmi:volume-v1",
    initiator="iqn.2024-07.internal.bmi:node-n1",
    chap_user="v1",
    chap_secret="chap-s3cret",
    target_user="v1-target",
    target_secret="target-s3cret",
    kernel_args="console=ttyS0,115200n8",
    image_id="image-1",
    hostname="n1",
    meta_data='{"instance-id": "v1"}',
    user_data="#cloud-config\n{}\n",
)


@dataclass
class FakeDesk:
    """The `Desk` of one boot, of the NICs in `offers`."""

    networks: list[Foot] = field(default_factory=list)
    offers: dict[str, Offer] = field(default_factory=dict)
    boots: dict[tuple[str, str], Boot] = field(default_factory=dict)
    told: list[tuple[str, str]] = field(default_factory=list)
    asked: list[tuple[str, str, Firmware]] = field(default_factory=list)
    trouble: Exception | None = None
    boot_trouble: Exception | None = None

    def feet(self) -> Sequence[Foot]:
        self._stumble()
        return list(self.networks)

    def offer(self, network_id: str, mac: str, firmware: Firmware) -> Offer | None:
        self._stumble()
        self.asked.append((network_id, mac, firmware))
        return self.offers.get(mac)

    def boot(self, token: str, network_id: str, address: str) -> Boot:
        self._stumble()
        if self.boot_trouble:
            raise self.boot_trouble
        if (token, network_id) not in self.boots:
            raise NotFoundError("boot", "with this token")
        return self.boots[token, network_id]

    def record(self, token: str, network_id: str, address: str, stage: str, detail: str = "") -> None:
        self.boot(token, network_id, address)
        self.told.append((stage, detail))

    def _stumble(self) -> None:
        if self.trouble:
            raise self.trouble
