"""The calls about images: made from anything, described, shared, taken home."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from bmi.client.documents import Image, Json, Operation
from bmi.client.transfers import Progress, Transfers, silent
from bmi.client.transport import path


class ImageCalls(Transfers):
    """Images of one server."""

    # ---- looking and describing ---------------------------------------------------------------------

    def list_images(
        self,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        all_versions: bool = False,
    ) -> list[Image]:
        """The images that the caller may use: what each name alone means, or all versions."""
        query: Any = {
            "name": name,
            "label": [f"{key}={value}" for key, value in (labels or {}).items()] or None,
            "all_versions": "true" if all_versions else None,
        }
        return cast("list[Image]", self._list("/images", **query))

    def get_image(self, name: str, *, project: str | None = None) -> Image:
        """One image, `NAME` or `NAME@VERSION`; an administrator may say of which project."""
        return cast("Image", self._get(path("images", name), project=project))

    def change_image(
        self,
        name: str,
        *,
        new_name: str | None = None,
        description: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        protected: bool | None = None,
        public: bool | None = None,
        project: str | None = None,
    ) -> Image:
        """Changes what is given; a label that is None goes."""
        body = {
            "name": new_name,
            "description": description,
            "labels": dict(labels or {}),
            "protected": protected,
            "public": public,
        }
        return cast("Image", self._call("PATCH", path("images", name), body, project=project))

    def share_image(self, name: str, other: str, *, project: str | None = None) -> Image:
        """Lets the project `other` use an image."""
        return cast("Image", self._call("PUT", path("images", name, "shares", other), project=project))

    def unshare_image(
        self, name: str, other: str, *, project: str | None = None, of: str | None = None
    ) -> Image:
        """Lets the project `other` use an image no more; what runs there goes on. Where that is the caller's,
        `of` says whose image is meant.
        """
        made = self._call("DELETE", path("images", name, "shares", other), project=project, of=of)
        return cast("Image", made)

    def move_image(self, name: str, to: str | None, *, project: str | None = None) -> Image:
        """Gives all versions of an image to another project, or (None) to the site."""
        return cast("Image", self._call("POST", path("images", name, "move"), {"to": to}, project=project))

    # ---- making and deleting ------------------------------------------------------------------------

    def make_image(
        self,
        name: str,
        source: Json,
        *,
        project: str | None = None,
        public: bool | None = None,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Operation:
        """Makes the next version of an image of one of upload, url (and sha256), image, snapshot, volume, rbd."""
        body = {
            "name": name,
            "source": source,
            "project": project,
            "public": public,
            "description": description,
            "labels": dict(labels or {}),
        }
        return self._operate("POST", "/imports", body)

    def import_image(
        self,
        name: str,
        file: Path,
        *,
        sha256: str | None = None,
        project: str | None = None,
        public: bool | None = None,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        on_progress: Progress = silent,
    ) -> Operation:
        """Uploads a disk image, going on after a broken connection; the operation converts it. `on_progress`
        is told the bytes sent and the bytes in all. Raises InvalidInputError when the file cannot be read.
        """
        upload = self.upload_file(file, sha256=sha256, name=name, project=project, on_progress=on_progress)
        return self.make_image(
            name, {"upload": upload}, project=project, public=public, description=description, labels=labels
        )

    def delete_image(self, name: str, *, project: str | None = None, all_versions: bool = False) -> Operation:
        """Removes a version of an image, or all, if nothing depends on it."""
        every = "true" if all_versions else None
        return self._operate("DELETE", path("images", name), project=project, all_versions=every)

    def flatten_image(self, name: str, *, project: str | None = None) -> Operation:
        """Makes an image independent of what it was made from."""
        return self._operate("POST", path("images", name, "flatten"), project=project)

    def publish_image(self, name: str, location: str, *, project: str | None = None) -> Operation:
        """Writes an independent copy of an image into the store, beside BMI's own."""
        return self._operate("POST", path("images", name, "publish"), {"location": location}, project=project)

    def prepare_download(
        self, name: str, image_format: str = "qcow2", *, project: str | None = None
    ) -> Operation:
        """Makes an image ready for `download_image`."""
        return self._operate(
            "POST", path("images", name, "downloads"), {"format": image_format}, project=project
        )
