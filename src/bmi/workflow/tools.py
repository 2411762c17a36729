"""What steps may use: the drivers, the secrets' key and the settings they need."""

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from bmi.domain.nouns import Json
from bmi.drivers.bmc import Bmc
from bmi.drivers.export import Export
from bmi.drivers.isolation import Isolation
from bmi.drivers.isolation.builtin import BuiltinIsolation
from bmi.drivers.storage import Storage
from bmi.drivers.switch import Switch
from bmi.drivers.uplink import Uplink
from bmi.store.database import Database
from bmi.store.vault import Vault


@dataclass(frozen=True)
class Tools:
    """The outside world as this installation has it."""

    database: Database
    storage: Storage
    export: Export
    uplink: Uplink
    bmc: Callable[[str], Bmc]
    switch: Callable[[str, Json], Switch]
    vault: Vault
    data_dir: Path
    iqn_prefix: str
    portal_port: int
    boot_timeout_s: float
    max_image_bytes: int
    convert_timeout_s: float
    reserve_gib: float
    reserve_percent: float
    transfer_lifetime_s: float = 86400
    url_timeout_s: float = 6 * 3600
    url_allow_http: bool = False
    url_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    isolation: Isolation = field(default_factory=BuiltinIsolation)

    @property
    def uploads_dir(self) -> Path:
        return self.data_dir / "uploads"

    @property
    def boots_dir(self) -> Path:
        return self.data_dir / "boot"

    @property
    def work_dir(self) -> Path:
        """Where steps put what they need for seconds."""
        return self.data_dir / "work"

    @property
    def downloads_dir(self) -> Path:
        """Where images lie as files for the API to serve: `<image id>.<SHA-256 of the file>.<format>`."""
        return self.data_dir / "downloads"

    def upload_path(self, image_id: str) -> Path:
        """Where the API put the file that an import reads."""
        return self.uploads_dir / image_id

    def boot_dir(self, image_id: str) -> Path:
        """Where the kernel and the initramfs of an image are."""
        return self.boots_dir / image_id
