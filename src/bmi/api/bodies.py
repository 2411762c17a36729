"""What the API is told: request bodies, in which nothing unknown is accepted."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr, StringConstraints

# A NUL fits in JSON, but in no PostgreSQL text.
_Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=1000)]
# The service says what a good name is; this only bounds it.
_Name = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=100)]
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


class CreateToken(_Body):
    name: _Name
    project: _Name | None = Field(None, description="Left out: an administrator's token.")
    lifetime_s: float | None = Field(
        None, allow_inf_nan=False, le=_CENTURY_S, description="Left out: without end."
    )


class RegisterSwitch(_Body):
    name: _Name
    driver: _Name = Field(examples=["ovs"])
    options: dict[_Name, JsonValue] = Field(default_factory=dict, description="Passed to the driver.")


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


class Provision(_Body):
    image: _Name | None = Field(None, description="Give exactly one of image and snapshot.")
    snapshot: _Name | None = None
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
