"""What the API shows: explicit models, so that nothing is shown by accident."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from bmi.api.deps import Bounds
from bmi.domain.nouns import Actor, Event, Json, NodeState, ObjectState, Switch
from bmi.domain.operations import OperationState, Step, StepState
from bmi.errors import (
    PROBLEM_BASE,
    ConfigError,
    DriverError,
    InsufficientSpaceError,
    InternalError,
    NotHeldError,
    TimedOutError,
    UnavailableError,
)
from bmi.service.allocation import Allocation, PoolView
from bmi.service.core import OperationView
from bmi.service.networks import NetworkView
from bmi.service.node_views import NicView, NodeView
from bmi.service.projects import ProjectView
from bmi.service.switches import PortView

V = TypeVar("V")
M = TypeVar("M")

# Problems whose text may name the site's own devices, addresses and paths.
_OF_THE_SITE = {
    PROBLEM_BASE + kind.code()
    for kind in (
        DriverError,
        TimedOutError,
        InternalError,
        ConfigError,
        NotHeldError,
        InsufficientSpaceError,
        UnavailableError,
    )
}
# This one is about the node's own boot, which is the project's business.
_OF_THE_PROJECT = "await_up"
# The step whose result is what was asked for.
_OF_THE_ASKER = "compare"


def moment(seconds: float | None) -> datetime | None:
    """Seconds since the epoch as a time that is written the RFC 3339 way, in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def time_of(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _problem_for(actor: Actor, problem: Json | None) -> Json | None:
    """A problem as this actor may read it: a member learns which step failed, not the site's addresses."""
    if problem is None or actor.is_admin or problem.get("type") not in _OF_THE_SITE:
        return problem
    step = problem.get("step")
    if step == _OF_THE_PROJECT:
        return problem
    kept = {
        key: problem[key]
        for key in ("type", "title", "status", "retryable", "step", "operation")
        if key in problem
    }
    return kept | {
        "detail": f"The site's equipment failed{f' at step {step}' if step else ''}.",
        "remedy": "Try again, or ask an administrator, who sees the details.",
    }


class Shown(BaseModel):
    model_config = ConfigDict(frozen=True)


class Page(Shown, Generic[M]):
    """A part of a list; `next` is what to give as `after` for the part behind it."""

    items: list[M]
    next: str | None

    @classmethod
    def of(
        cls, bounds: Bounds, found: Sequence[V], cursor: Callable[[V], str], show: Callable[[V], M]
    ) -> Self:
        shown, following = bounds.cut(found, cursor)
        return cls(items=[show(one) for one in shown], next=following)


class Problem(BaseModel):
    """RFC 9457; more members may follow, such as `field`, `operation`, `users`, `step`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:bmi:problem:invalid-state"])
    title: str
    status: int
    detail: str
    retryable: bool = Field(description="Whether the same request can succeed later.")
    remedy: str = Field("", description="What to do about it.")


class Health(Shown):
    status: str
    version: str


class NetworkMemberShown(Shown):
    node: str
    nic: str
    tagged: bool


class TenantNetworkShown(Shown):
    """A network that NICs attach to. `members` are those that the caller may see."""

    id: str
    name: str
    project: str | None = Field(description="Its owner; none: the site.")
    vlan: int
    boot: bool = Field(description="The project's nodes boot from it.")
    public: bool
    shared_with: list[str]
    members: list[NetworkMemberShown]
    created_at: datetime

    @classmethod
    def of(cls, view: NetworkView) -> Self:
        network = view.network
        return cls(
            id=network.id,
            name=network.name,
            project=view.project,
            vlan=network.vlan,
            boot=network.boot,
            public=network.public,
            shared_with=list(view.shared_with),
            members=[
                NetworkMemberShown(node=one.node, nic=one.nic, tagged=one.tagged) for one in view.members
            ],
            created_at=time_of(network.created_at),
        )


class NetworkShown(Shown):
    vlan: int
    address: str = Field(description="BMI's own address in it, with the prefix length.")
    state: ObjectState


class ProjectShown(Shown):
    name: str
    network: NetworkShown | None
    claims_as: str | None = Field(
        None, description="Its name in the service that nodes are taken from, where that is another one."
    )
    created_at: datetime

    @classmethod
    def of(cls, view: ProjectView) -> Self:
        network = view.network
        return cls(
            name=view.project.name,
            claims_as=view.project.claims_as,
            network=NetworkShown(vlan=network.vlan, address=network.address, state=network.state)
            if network
            else None,
            created_at=time_of(view.project.created_at),
        )


class SwitchShown(Shown):
    name: str
    driver: str
    options: Json
    created_at: datetime

    @classmethod
    def of(cls, switch: Switch) -> Self:
        return cls(
            name=switch.name,
            driver=switch.driver,
            options=switch.options,
            created_at=time_of(switch.created_at),
        )


class PortShown(Shown):
    name: str
    node: str | None = Field(description="The node that is cabled to it; null: it is kept closed.")
    nic: str | None
    native: int | None = Field(description="The VLAN that it should be on untagged.")
    tagged: list[int] = Field(description="Those that it should be on tagged; neither: it should be closed.")
    settled: bool = Field(description="Whether the switch was seen to have it so.")
    problem: Json | None = Field(description="Why it is not so yet.")
    applied_at: datetime | None

    @classmethod
    def of(cls, view: PortView) -> Self:
        port = view.port
        return cls(
            name=port.name,
            node=view.node,
            nic=view.nic,
            native=view.wanted.native,
            tagged=sorted(view.wanted.tagged),
            settled=port.applied_revision == port.revision,
            problem=port.problem,
            applied_at=moment(port.applied_at),
        )


class CablesShown(Shown):
    cables: int = Field(description="How many were taken down.")


class StepShown(Shown):
    name: str
    after: tuple[str, ...] = Field(description="The steps that must be done first.")
    state: StepState
    attempts: int = Field(description="How often it has failed so far.")
    problem: Json | None
    result: Json | None = Field(
        description="What it found or made; of a comparison for all, else for administrators."
    )
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, actor: Actor, step: Step) -> Self:
        return cls(
            name=step.name,
            after=step.after,
            state=step.state,
            attempts=step.attempts,
            problem=_problem_for(actor, step.problem),
            result=step.result if actor.is_admin or step.name == _OF_THE_ASKER else None,
            started_at=moment(step.started_at),
            finished_at=moment(step.finished_at),
        )


class OperationShown(Shown):
    id: str
    kind: str
    state: OperationState
    subject_kind: str
    subject_name: str
    actor: str
    args: Json
    problem: Json | None
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    steps: list[StepShown]

    @classmethod
    def of(cls, actor: Actor, view: OperationView) -> Self:
        operation = view.operation
        return cls(
            id=operation.id,
            kind=operation.kind,
            state=operation.state,
            subject_kind=operation.subject_kind,
            subject_name=operation.subject_name,
            actor=operation.actor,
            args=operation.args,
            problem=_problem_for(actor, operation.problem),
            cancel_requested=operation.cancel_requested,
            created_at=time_of(operation.created_at),
            started_at=moment(operation.started_at),
            finished_at=moment(operation.finished_at),
            steps=[StepShown.of(actor, step) for step in view.steps],
        )


class BmcShown(Shown):
    driver: str
    address: str
    username: str
    verify_tls: bool


class LiveOperation(Shown):
    id: str
    kind: str
    state: OperationState


class NodeVolume(Shown):
    id: str
    name: str
    state: ObjectState
    size_bytes: int


class NicNetworkShown(Shown):
    name: str
    project: str | None = Field(description="Its owner; none: the site.")
    tagged: bool


class NicShown(Shown):
    name: str
    mac: str
    networks: list[NicNetworkShown] = Field(description="It is on these while the node has a volume.")
    switch: str | None = None
    port: str | None = None

    @classmethod
    def of(cls, actor: Actor, view: NicView) -> Self:
        return cls(
            name=view.nic.name,
            mac=view.nic.mac,
            networks=[
                NicNetworkShown(name=one.name, project=one.project, tagged=one.tagged)
                for one in view.networks
            ],
            switch=view.switch if actor.is_admin else None,
            port=view.nic.port if actor.is_admin else None,
        )


class NodeShown(Shown):
    """A node. Members see those of their project; wiring and BMC are for administrators."""

    name: str
    state: NodeState
    project: str | None
    labels: list[str]
    mac: str | None = Field(description="Of the NIC that it boots from.")
    nics: list[NicShown] = Field(description="All of them, that one first.")
    address: str | None = Field(None, description="Its fixed IPv4 address in the project's network.")
    image: str | None = None
    snapshot: str | None = None
    volume: NodeVolume | None = None
    operation: LiveOperation | None = Field(None, description="What is being done to it right now.")
    problem: Json | None = Field(None, description="Why it is in state `error`.")
    switch: str | None = None
    port: str | None = None
    bmc: BmcShown | None = None
    created_at: datetime

    @classmethod
    def of(cls, actor: Actor, view: NodeView) -> Self:
        node, nic, volume, operation = view.node, view.nic, view.volume, view.operation
        site: dict[str, Any] = {}
        if actor.is_admin:
            bmc = BmcShown(
                driver=node.bmc_driver,
                address=node.bmc_address,
                username=node.bmc_username,
                verify_tls=node.bmc_verify_tls,
            )
            site = {"switch": view.switch, "port": nic.port if nic else None, "bmc": bmc}
        return cls(
            name=node.name,
            state=node.state,
            project=view.project,
            labels=node.labels,
            mac=nic.mac if nic else None,
            nics=[NicShown.of(actor, one) for one in view.nics],
            address=view.address,
            image=view.image,
            snapshot=view.snapshot,
            volume=NodeVolume(
                id=volume.id, name=volume.name, state=volume.state, size_bytes=volume.size_bytes
            )
            if volume
            else None,
            operation=LiveOperation(id=operation.id, kind=operation.kind, state=operation.state)
            if operation
            else None,
            problem=_problem_for(actor, node.problem),
            created_at=time_of(node.created_at),
            **site,
        )


class PoolPart(Shown):
    labels: list[str] = Field(description="Exactly these.")
    free: int


class PoolShown(Shown):
    items: list[PoolPart]

    @classmethod
    def of(cls, found: Sequence[PoolView]) -> Self:
        return cls(items=[PoolPart(labels=list(view.labels), free=view.free) for view in found])


class AllocationShown(Shown):
    nodes: list[str]
    operations: list[OperationShown] = Field(
        description="What claims the nodes in the service that they are taken from; empty where there is none."
    )

    @classmethod
    def of(cls, actor: Actor, made: Allocation) -> Self:
        return cls(nodes=made.nodes, operations=[OperationShown.of(actor, view) for view in made.operations])


class EventShown(Shown):
    id: int
    at: datetime
    stage: str
    detail: str
    operation: str | None

    @classmethod
    def of(cls, event: Event) -> Self:
        return cls(
            id=event.id,
            at=time_of(event.at),
            stage=event.stage,
            detail=event.detail,
            operation=event.operation_id,
        )
