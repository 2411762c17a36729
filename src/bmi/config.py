"""One TOML file, refined by environment variables; unknown keys are refused."""

import os
import tomllib
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    ValidationError,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from bmi.errors import ConfigError

DEFAULT_PATH = Path("/etc/bmi/bmi.toml")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(_Section):
    data_dir: Path = Field(Path("/var/lib/bmi"), description="Everything BMI keeps: database, images, keys.")
    run_dir: Path = Field(Path("/run/bmi"), description="Need not survive a reboot: tgtd's sockets and logs.")
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(7550, ge=1, le=65535, description="TCP port the API listens on.")
    proxy: bool = Field(
        False,
        description="Whether a proxy on this machine passes all requests on: then its word (X-Forwarded-For) for where "
        "they come from is taken, and so would be that of everybody else who can reach the port from here.",
    )


class LoginSettings(_Section):
    session_h: float = Field(12, gt=0, le=31 * 24, description="Hours that a login lasts.")
    token_days: float = Field(
        366, gt=0, le=10 * 366, description="Days that a user's own token may last at most."
    )
    window_s: float = Field(900, gt=0, description="Seconds in which failed logins are counted.")
    user_failures: int = Field(
        10,
        ge=1,
        description="Failed logins of one user from one address in that time, after which none is tried.",
    )
    user_failures_anywhere: int = Field(
        1000, ge=1, description="The same, of one user from all addresses: what many of them may guess."
    )
    address_failures: int = Field(100, ge=1, description="The same, of all who come from one address.")


class OidcSettings(_Section):
    issuer: str = Field("", description="Address of the OpenID provider; empty: nobody logs in with one.")
    client_id: str = Field("bmi", description="What the provider calls BMI.")
    client_secret_file: Path | None = Field(
        None, description="File with the secret that the provider gave BMI; left out: it gave none."
    )
    callback_url: str = Field(
        "",
        description="Where the provider sends people back to, as it knows it: https://<this API>/v1/login/oidc/callback.",
    )
    scopes: str = Field("openid profile email", description="What the provider is asked to tell.")
    name_claim: str = Field("preferred_username", description="The claim that names a new user.")
    groups_claim: str = Field("groups", description="The claim that `groups` is about.")
    groups: dict[str, list[str]] = Field(
        default_factory=dict,
        description='What a group gives, such as physics = ["cluster-a:member", "cluster-b:reader"] or ops = ["admin"]. '
        "When there are any, they decide at every login, and make users that BMI does not know yet; without any, "
        "an administrator links users.",
    )

    @field_validator("groups")
    @classmethod
    def _known_rights(cls, groups: dict[str, list[str]]) -> dict[str, list[str]]:
        for right in (right for rights in groups.values() for right in rights):
            project, _, role = right.partition(":")
            if right != "admin" and not (project and role in {"member", "reader"}):
                raise ValueError(f"{right!r} is neither admin nor <project>:member nor <project>:reader")
        return groups


class DatabaseSettings(_Section):
    url: str = Field("", description="SQLAlchemy URL; empty means SQLite in data_dir.")


class DriverSettings(_Section):
    driver: str
    options: dict[str, Any] = Field(default_factory=dict, description="Passed to the driver as they are.")


class StorageSettings(DriverSettings):
    driver: str = Field("local", description="Where images and volumes live: local, ceph, fake.")
    reserve_gib: float = Field(
        1, ge=0, description="GiB of the store that nothing new may take: nodes write to what they have."
    )
    reserve_percent: float = Field(2, ge=0, le=50, description="The same as a share; the larger one counts.")


class ExportSettings(DriverSettings):
    driver: str = Field("tgt", description="How volumes reach nodes: tgt, fake.")
    port: int = Field(3260, ge=1, le=65535, description="TCP port of the iSCSI portals.")
    iqn_prefix: str = Field(
        "iqn.2024-07.internal.bmi",
        pattern=r"^iqn\.\d{4}-\d{2}\.[a-z0-9.-]+$",
        description="Beginning of every iSCSI name BMI makes (RFC 3720, 3.2.6.3.1).",
    )


class UplinkSettings(DriverSettings):
    driver: str = Field(
        "existing", description="How this machine reaches project networks: existing, ovs, fake."
    )


class IsolationSettings(DriverSettings):
    driver: str = Field(
        "builtin", description="Who says which project has which node: builtin (BMI alone), hil, fake."
    )

    @property
    def is_external(self) -> bool:
        """Whether nodes are taken from a service beside BMI, and have to be claimed there."""
        return self.driver != "builtin"


def _vlan_range(text: str) -> str:
    low, dash, high = text.partition("-")
    if not (dash and low.isdigit() and high.isdigit() and 2 <= int(low) <= int(high) <= 4094):
        raise ValueError("must be two VLAN ids between 2 and 4094, like 100-199")
    return text


class NetworkSettings(_Section):
    vlans: Annotated[str, AfterValidator(_vlan_range)] = Field(
        "100-199", description="VLANs to give to projects."
    )
    subnets: IPv4Network = Field(
        IPv4Network("10.96.0.0/12"), description="Where boot networks are taken from."
    )
    prefix: int = Field(24, ge=8, le=30, description="Prefix length of each project's boot network.")

    netns_prefix: str = Field(
        "bmi", pattern=r"^[a-z][a-z0-9-]{0,19}$", description="Network namespaces are called <prefix>-<vlan>."
    )

    def vlan_ids(self) -> range:
        low, _, high = self.vlans.partition("-")
        return range(int(low), int(high) + 1)


class BootSettings(_Section):
    http_port: int = Field(
        8080, ge=1, le=65535, description="TCP port of the boot listener on project networks."
    )
    timeout_s: float = Field(900, gt=0, description="Seconds a node may take from power-on to up.")
    kernel_args: str = Field(
        "console=tty0 console=ttyS0,115200n8",
        # What can stand in a boot script (bmi.domain.boot): neither quotes nor anything that iPXE would expand.
        pattern=r"^[A-Za-z0-9._:/@%+,=~\[\] -]*$",
        description="Added to the kernel command line of every node.",
    )


class WorkerSettings(_Section):
    threads: int = Field(16, ge=1, le=256, description="Steps that may run at the same time.")
    lease_s: float = Field(
        15, gt=0.1, description="Seconds after which a silent worker's operations are taken over."
    )
    patience_s: float = Field(
        1800,
        ge=0,
        le=7 * 86400,
        description="Seconds that an operation waits for a store that is away before it fails.",
    )


class ImageSettings(_Section):
    max_size_gib: int = Field(1024, ge=1, description="Largest disk that may be imported.")
    convert_timeout_s: float = Field(3600, gt=0, description="Seconds one conversion may take.")
    transfer_lifetime_s: float = Field(
        86400,
        gt=0,
        description="Seconds after which an upload that does not go on, and a download that nobody fetches, are removed.",
    )
    url_timeout_s: float = Field(6 * 3600, gt=0, description="Seconds the download of an image may take.")
    url_allow_http: bool = Field(False, description="Whether images may be fetched without TLS.")
    url_networks: list[IPvAnyNetwork] = Field(
        default_factory=list,
        description="Networks that images may be fetched from although they are not public, like 10.1.0.0/16.",
    )


class Settings(BaseSettings):
    """All settings; every one has a default that suits a single machine.

    `BMI_SERVER__PORT=8000` overrides `[server] port`.
    """

    model_config = SettingsConfigDict(
        env_prefix="BMI_", env_nested_delimiter="__", extra="forbid", frozen=True, toml_file=None
    )

    server: ServerSettings = ServerSettings()
    login: LoginSettings = LoginSettings()
    oidc: OidcSettings = OidcSettings()
    database: DatabaseSettings = DatabaseSettings()
    storage: StorageSettings = StorageSettings()
    export: ExportSettings = ExportSettings()
    uplink: UplinkSettings = UplinkSettings()
    isolation: IsolationSettings = IsolationSettings()
    networks: NetworkSettings = NetworkSettings()
    boot: BootSettings = BootSettings()
    worker: WorkerSettings = WorkerSettings()
    image: ImageSettings = ImageSettings()

    @property
    def database_url(self) -> str:
        return self.database.url or f"sqlite:///{self.server.data_dir / 'bmi.sqlite'}"

    @property
    def admin_token_path(self) -> Path:
        return self.server.data_dir / "admin-token"


def load(path: Path | None = None) -> Settings:
    """Settings from `path`, else from $BMI_CONFIG, else from /etc/bmi/bmi.toml if it exists.

    Raises ConfigError that names the key and the remedy.
    """
    named = path or (Path(os.environ["BMI_CONFIG"]) if os.environ.get("BMI_CONFIG") else None)
    if named is not None and not named.is_file():
        raise ConfigError(
            f"There is no configuration file {named}.", remedy="Write one, or leave --config out."
        )
    source = named or (DEFAULT_PATH if DEFAULT_PATH.is_file() else None)

    class _FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del init_settings, dotenv_settings, file_secret_settings
            return env_settings, TomlConfigSettingsSource(settings_cls, source)

    try:
        return _FromFile()
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not TOML: {error}.", remedy="Correct the file.") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{source or 'environment'}: {key}: {first['msg']}.", remedy="See docs/settings.md."
        ) from error
