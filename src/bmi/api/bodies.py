"""What the API is told: request bodies, in which nothing unknown is accepted."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr, StringConstraints

from bmi.domain.nouns import Role

# A NUL fits in JSON, but in no PostgreSQL text.
_Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=1000)]
# The service says what a good name is; this only bounds it.
_Name = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=100)]
# With the version behind it.
_ImageName = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=120)]
_Document = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]

_CENTURY_S = 100 * 366 * 86400


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CreateProject(_Body):
    name: _Name
    vlan: int | None = Field(None, description="Left out: the lowest free one of the pool.")
    address: _Name | None = Field(
        None,
        description="BMI's own address in the boot network; left out: from the pool.",
        examples=["10.96.1.1/24"],
    )
    claims_as: _Name | None = Field(
        None,
        description="The project's name in the service that nodes are taken from; left out: the same.",
    )


class CreateToken(_Body):
    name: _Name
    project: _Name | None = Field(
        None, description="Left out: an administrator's token, or one for the project of the login."
    )
    role: Role | None = Field(
        None, description="member or reader; left out: member, or what the caller is in the project."
    )
    lifetime_s: float | None = Field(
        None,
        allow_inf_nan=False,
        le=_CENTURY_S,
        description="Left out: without end for a service's token, 30 days for one's own.",
    )
    own: bool = Field(False, description="For administrators: a token of their own instead of a service's.")


class LogIn(_Body):
    user: _Name
    password: SecretStr = Field(max_length=1000)
    project: _Name | None = Field(None, description="Left out: the only one; for administrators, none.")


class BeginOidcLogin(_Body):
    challenge: str = Field(
        pattern=r"^[A-Za-z0-9_-]{43}$", description="Of a secret verifier, as in RFC 7636 with S256."
    )
    redirect: _Text = Field(
        "", description="The caller's loopback address; left out: the person copies a code."
    )


class RedeemOidcLogin(_Body):
    code: _Name
    verifier: _Name
    project: _Name | None = None


class ChangePassword(_Body):
    current: SecretStr = Field(max_length=1000)
    new: SecretStr = Field(max_length=1000)


class CreateUser(_Body):
    name: _Name
    admin: bool = False
    password: SecretStr | None = Field(None, max_length=1000)


class Link(_Body):
    issuer: str = Field(pattern=r"^[^\x00]*$", max_length=255)
    subject: str = Field(pattern=r"^[^\x00]*$", max_length=255)


class ChangeUser(_Body):
    """What is left out stays."""

    admin: bool | None = None
    disabled: bool | None = Field(None, description="Nothing of a disabled user's opens anything.")
    link: Link | None = Field(
        None, description="What an OpenID provider calls the user; with empty texts nothing."
    )


class SetPassword(_Body):
    password: SecretStr | None = Field(None, max_length=1000, description="null: none any more.")
    end_tokens: bool = Field(False, description="The user's own tokens as well as their logins.")


class SetMember(_Body):
    role: Role = Field(description="member or reader")


class RegisterSwitch(_Body):
    name: _Name
    driver: _Name = Field(examples=["ovs"])
    options: dict[_Name, JsonValue] = Field(default_factory=dict, description="Passed to the driver.")


class ChangeSwitch(_Body):
    options: dict[_Name, JsonValue] = Field(description="What is left out stays; null drops an option.")


class CheckSwitch(_Body):
    repair: bool = Field(False, description="Take ports off what they should not be on.")
    widen: bool = Field(False, description="Make ports all that they should be.")


class CableBody(_Body):
    switch: _Name
    port: _Name
    node: _Name | None = Field(None, description="Left out: a port that is to be kept closed.")
    nic: _Name = "boot"
    mac: _Name | None = Field(None, description="Of a NIC that is not known yet.")


class Cables(_Body):
    cables: list[CableBody] = Field(max_length=10_000)
    force: bool = Field(False, description="Even off a port that was not seen closed: it is gone.")


class NicBody(_Body):
    name: _Name = Field(examples=["data"])
    mac: _Name = Field(examples=["52:54:00:12:34:57"])
    switch: _Name | None = Field(None, description="Left out: BMI does not manage its port.")
    port: _Name | None = None


class RegisterNode(_Body):
    name: _Name
    mac: _Name = Field(description="Of the NIC that it boots from.", examples=["52:54:00:12:34:56"])
    bmc: _Text = Field(
        description="<driver>+<URL>", examples=["redfish+https://10.0.0.5/redfish/v1/Systems/1"]
    )
    bmc_username: _Text = ""
    bmc_password: SecretStr = Field(SecretStr(""), max_length=1000)
    bmc_verify_tls: bool = True
    switch: _Name | None = Field(None, description="Left out: BMI does not manage its port.")
    port: _Name | None = None
    labels: list[_Name] = Field(
        default_factory=list, max_length=100, description="What it can be asked for by."
    )
    nics: list[NicBody] = Field(
        default_factory=list, max_length=64, description="Beside the one that it boots from."
    )


class Allocate(_Body):
    count: int = Field(description="So many, or none.")
    labels: list[_Name] = Field(
        default_factory=list, max_length=100, description="Each of them has all of these."
    )
    project: _Name | None = Field(None, description="For administrators, who must say it.")


class CreateNetwork(_Body):
    name: _Name
    project: _Name | None = Field(None, description="For administrators; left out: the site's network.")
    vlan: int | None = Field(
        None, description="For administrators; left out: the lowest free one of the pool."
    )
    public: bool = Field(False, description="Every project may attach to it. For administrators.")


class ChangeNetwork(_Body):
    public: bool


class AttachNetwork(_Body):
    node: _Name
    nic: _Name = Field("boot", description="The NIC of the node.")
    tagged: bool = False
    of: _Name | None = Field(None, description="Whose network it is, where several have the name.")


class DetachNetwork(_Body):
    node: _Name
    nic: _Name = "boot"
    of: _Name | None = Field(None, description="Whose network it is, where several have the name.")


class LabelNode(_Body):
    add: list[_Name] = Field(default_factory=list, max_length=100)
    remove: list[_Name] = Field(default_factory=list, max_length=100)


class Provision(_Body):
    image: _ImageName | None = Field(None, description="Give exactly one of image, snapshot and volume.")
    snapshot: _Name | None = None
    volume: _Name | None = Field(None, description="A detached one; it keeps its size and its identity.")
    size_bytes: int | None = Field(None, description="Left out: as large as what it is cloned from.")
    project: _Name | None = Field(None, description="For administrators, who must say it.")
    hostname: _Name | None = Field(None, description="Left out: the node's name.")
    ssh_keys: list[_Document] = Field(
        default_factory=list, max_length=100, description="Public keys that may log in."
    )
    user_data: _Document = Field("", description="cloud-init user-data, up to 64 KiB.")


class Power(_Body):
    action: _Name = Field(description="on, off or cycle", examples=["cycle"])


class CreateSnapshot(_Body):
    name: _Name


class Release(_Body):
    keep_volume: bool = Field(False, description="Detach it instead of deleting it.")
    keep_as: _Name | None = Field(None, description="What the volume is called from then on.")


class Rename(_Body):
    name: _Name


class RollBack(_Body):
    snapshot: _Name
    force: bool = Field(False, description="Even if it is a snapshot of another volume.")


class Diff(_Body):
    older: _Name = Field(examples=["snapshot:before-upgrade"])
    newer: _Name = Field(examples=["volume:n1"])


class CheckStorage(_Body):
    repair: bool = Field(False, description="Mend what is BMI's own.")


class Quota(_Body):
    """Limits; one that is left out stays as it is, null lifts it."""

    nodes: int | None = None
    networks: int | None = Field(None, description="Beside its boot network.")
    volumes: int | None = None
    volume_bytes: int | None = None
    snapshots: int | None = None
    images: int | None = None
    image_bytes: int | None = None
    unique_bytes: int | None = None


_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{64}$")]
_Long = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=4000)]
_Labels = dict[_Name, Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=200)]]


class ImageSource(_Body):
    """Exactly one of upload, url, image, snapshot, volume and rbd."""

    upload: _Name | None = Field(None, description="The id of a complete upload of the same token.")
    url: _Long | None = Field(None, examples=["https://example.net/debian-12.qcow2"])
    sha256: _Sha256 | None = Field(None, description="Of the file behind the URL.")
    image: _ImageName | None = Field(None, examples=["debian-12@3"])
    snapshot: _Name | None = None
    volume: _Name | None = Field(None, description="It is frozen for this, whether its node runs or not.")
    rbd: _Text | None = Field(
        None,
        description="An image of the Ceph store that is not BMI's; for administrators.",
        examples=["pool/image@snap"],
    )
    project: _Name | None = Field(
        None, description="For administrators: the project of the image, snapshot or volume."
    )


class ImportImage(_Body):
    name: _Name = Field(description="If images of this name exist, the new one is its next version.")
    source: ImageSource
    project: _Name | None = Field(
        None, description="For administrators: the project that will own it; left out: the site."
    )
    public: bool | None = Field(None, description="Left out: as the version before. For administrators.")
    description: _Text | None = Field(None, description="Left out: that of the version before.")
    labels: _Labels = Field(default_factory=dict)


class ChangeImage(_Body):
    """What is left out stays as it is."""

    name: _Name | None = Field(None, description="A new name for all its versions.")
    description: _Text | None = None
    labels: dict[_Name, Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=200)] | None] = (
        Field(default_factory=dict, description="Labels to set; null removes one.")
    )
    protected: bool | None = Field(None, description="A protected version is not deleted.")
    public: bool | None = Field(
        None, description="Usable by every project: all versions unless one is named. For administrators."
    )


class MoveImage(_Body):
    to: _Name | None = Field(None, description="The new owner; left out: the site.")


class PrepareDownload(_Body):
    format: _Name = Field("qcow2", description="qcow2 (compressed) or raw.")


class PublishImage(_Body):
    location: _Text = Field(description="Where nothing may be yet.", examples=["pool/image"])
