"""What the API shows of images and of uploads."""

from datetime import UTC, datetime
from typing import Self

from pydantic import Field

from bmi.api.models import Shown, moment
from bmi.domain.nouns import Json, ObjectState, Upload
from bmi.service.images import ImageView


class ImageShown(Shown):
    id: str
    name: str
    version: int
    project: str | None = Field(description="Its owner; null is the site.")
    public: bool
    shared_with: tuple[str, ...] = Field(description="The projects that may use it too; for its owner.")
    protected: bool
    state: ObjectState
    description: str
    labels: dict[str, str]
    os_name: str | None
    kernel: str | None = Field(description="The kernel that its clones boot with.")
    format: str | None = Field(description="What it was made from, like qcow2, raw+xz; null: no file.")
    size_bytes: int | None = Field(description="Size of the disk.")
    unique_bytes: int | None = Field(
        description="What nothing else in the store shares, and deleting it would free, as last measured."
    )
    measured_at: datetime | None
    sha256: str | None = Field(description="Of the file that it was made from; null: no file.")
    origin: Json | None = Field(
        description="What it was made from, for its owner: kind, name, and depends as long as they share data."
    )
    created_by: str | None = Field(description="The token that made it; for its owner.")
    boot: Json | None = Field(description="What was found in it to boot.")
    created_at: datetime

    @classmethod
    def of(cls, view: ImageView) -> Self:
        image = view.image
        origin = {key: value for key, value in (image.origin or {}).items() if key != "id"}
        return cls(
            id=image.id,
            name=image.name,
            version=image.version,
            project=view.project,
            public=image.public,
            shared_with=view.shared_with,
            protected=image.protected,
            state=image.state,
            description=image.description,
            labels=image.labels,
            os_name=image.os_name,
            kernel=(image.boot or {}).get("kernel_version") or None,
            format=image.format,
            size_bytes=image.size_bytes,
            unique_bytes=image.unique_bytes,
            measured_at=moment(image.measured_at),
            sha256=image.sha256,
            origin=origin if view.manages and origin else None,
            created_by=image.created_by if view.manages else None,
            boot=image.boot,
            created_at=datetime.fromtimestamp(image.created_at, UTC),
        )


class UploadShown(Shown):
    id: str
    file_name: str
    size_bytes: int
    offset: int = Field(description="How many bytes have come.")
    sha256: str | None = Field(description="Of the whole file, when it has come.")
    expires_at: datetime = Field(description="When it is given up, unless more comes before.")

    @classmethod
    def of(cls, upload: Upload, offset: int) -> Self:
        return cls(
            id=upload.id,
            file_name=upload.file_name,
            size_bytes=upload.size_bytes,
            offset=offset,
            sha256=upload.sha256,
            expires_at=datetime.fromtimestamp(upload.expires_at, UTC),
        )
