"""What the API shows of volumes, snapshots, usage and lineage."""

from datetime import datetime
from typing import Self

from pydantic import Field

from bmi.api.models import Shown, moment, time_of
from bmi.domain.nouns import Json, ObjectState
from bmi.service.lineage import Kin
from bmi.service.quotas import UsageView
from bmi.service.snapshots import SnapshotView
from bmi.service.volumes import VolumeView

_UNIQUE = "What nothing else in the store shares, and deleting it would free, as last measured."


class VolumeShown(Shown):
    id: str
    name: str
    project: str
    node: str | None = Field(description="Which node has it; null when it is detached.")
    image: str = Field(description="The image that it boots with.")
    snapshot: str | None = Field(description="The snapshot that it was cloned from.")
    state: ObjectState
    size_bytes: int
    unique_bytes: int | None = Field(description=_UNIQUE)
    measured_at: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, view: VolumeView) -> Self:
        volume = view.volume
        return cls(
            id=volume.id,
            name=volume.name,
            project=view.project,
            node=view.node,
            image=view.image,
            snapshot=view.snapshot,
            state=volume.state,
            size_bytes=volume.size_bytes,
            unique_bytes=volume.unique_bytes,
            measured_at=moment(volume.measured_at),
            created_at=time_of(volume.created_at),
        )


class SnapshotShown(Shown):
    id: str
    name: str
    project: str
    node: str | None = Field(description="The node whose volume was frozen; null when none had it.")
    volume: str | None = Field(description="The volume that was frozen, while it lives.")
    image: str = Field(description="The image that the volume was cloned from.")
    state: ObjectState
    size_bytes: int
    unique_bytes: int | None = Field(description=_UNIQUE)
    measured_at: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, view: SnapshotView) -> Self:
        snapshot = view.snapshot
        return cls(
            id=snapshot.id,
            name=snapshot.name,
            project=view.project,
            node=snapshot.node_name or None,
            volume=view.volume,
            image=view.image,
            state=snapshot.state,
            size_bytes=snapshot.size_bytes,
            unique_bytes=snapshot.unique_bytes,
            measured_at=moment(snapshot.measured_at),
            created_at=time_of(snapshot.created_at),
        )


class AmountShown(Shown):
    """Numbers of objects and bytes; `unique_bytes` is what only the project's own objects hold."""

    nodes: int
    networks: int
    volumes: int
    volume_bytes: int
    snapshots: int
    images: int
    image_bytes: int
    unique_bytes: int


class UsageShown(Shown):
    project: str
    held: AmountShown
    quota: Json = Field(description="The limits that are set; what is missing is unlimited.")
    measured_at: datetime | None = Field(description="When the oldest part of `unique_bytes` was measured.")

    @classmethod
    def of(cls, view: UsageView) -> Self:
        return cls(
            project=view.project.name,
            held=AmountShown(**vars(view.held)),
            quota=view.project.quota,
            measured_at=moment(view.measured_at),
        )


class KinShown(Shown):
    id: str
    kind: str = Field(description="image, volume or snapshot")
    name: str
    parent: str | None = Field(description="The id of what it was made from, if the caller may see that.")
    state: ObjectState
    project: str | None = Field(description="Its owner; null is the site.")
    node: str | None = Field(description="The node that has the volume.")
    size_bytes: int | None
    unique_bytes: int | None = Field(description=_UNIQUE)

    @classmethod
    def of(cls, kin: Kin) -> Self:
        return cls(**vars(kin))


class LineageShown(Shown):
    items: list[KinShown] = Field(description="What comes of something stands behind it.")
