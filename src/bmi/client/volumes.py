"""The client's calls about volumes, snapshots and the store."""

from typing import cast

from bmi.client.documents import Kin, Operation, Snapshot, Usage, Volume
from bmi.client.transport import Transport, path


class StorageCalls(Transport):
    """What a node's disk can go through, and what a project holds."""

    # ---- volumes ------------------------------------------------------------------------------------

    def list_volumes(self) -> list[Volume]:
        """The volumes that the caller may see."""
        return cast("list[Volume]", self._list("/volumes"))

    def get_volume(self, name: str, *, project: str | None = None) -> Volume:
        """One volume; an administrator says of which project."""
        return cast("Volume", self._get(path("volumes", name), project=project))

    def rename_volume(self, name: str, new_name: str, *, project: str | None = None) -> Volume:
        """Calls a volume something else."""
        return cast("Volume", self._call("PATCH", path("volumes", name), {"name": new_name}, project=project))

    def delete_volume(self, name: str, *, project: str | None = None) -> Operation:
        """Removes a volume that no node has."""
        return self._operate("DELETE", path("volumes", name), project=project)

    def flatten_volume(self, name: str, *, project: str | None = None) -> Operation:
        """Makes a volume independent of what it was cloned from."""
        return self._operate("POST", path("volumes", name, "flatten"), project=project)

    def roll_back_volume(
        self, name: str, snapshot: str, *, project: str | None = None, force: bool = False
    ) -> Operation:
        """Gives a detached volume the bytes of a snapshot; with `force`, of any."""
        body = {"snapshot": snapshot, "force": force}
        return self._operate("POST", path("volumes", name, "roll-back"), body, project=project)

    def roll_back_node(self, node: str, snapshot: str, *, force: bool = False) -> Operation:
        """Gives the volume of an active node, which must be off, the bytes of a snapshot."""
        body = {"snapshot": snapshot, "force": force}
        return self._operate("POST", path("nodes", node, "roll-back"), body)

    def diff(self, older: str, newer: str, *, project: str | None = None) -> Operation:
        """Compares two of `volume:NAME`, `snapshot:NAME` and `image:NAME`; the step `compare` has the result."""
        return self._operate("POST", "/volumes/diff", {"older": older, "newer": newer}, project=project)

    # ---- snapshots ----------------------------------------------------------------------------------

    def list_snapshots(self) -> list[Snapshot]:
        """The snapshots that the caller may see."""
        return cast("list[Snapshot]", self._list("/snapshots"))

    def get_snapshot(self, name: str, *, project: str | None = None) -> Snapshot:
        """One snapshot; an administrator says of which project."""
        return cast("Snapshot", self._get(path("snapshots", name), project=project))

    def create_snapshot(self, node: str, name: str) -> Operation:
        """Freezes the volume of an active node, on or off."""
        return self._operate("POST", path("nodes", node, "snapshots"), {"name": name})

    def create_volume_snapshot(self, volume: str, name: str, *, project: str | None = None) -> Operation:
        """Freezes a volume, whether a node has it or not."""
        return self._operate("POST", path("volumes", volume, "snapshots"), {"name": name}, project=project)

    def rename_snapshot(self, name: str, new_name: str, *, project: str | None = None) -> Snapshot:
        """Calls a snapshot something else."""
        return cast(
            "Snapshot", self._call("PATCH", path("snapshots", name), {"name": new_name}, project=project)
        )

    def delete_snapshot(self, name: str, *, project: str | None = None) -> Operation:
        """Removes a snapshot that nothing depends on."""
        return self._operate("DELETE", path("snapshots", name), project=project)

    # ---- usage and the store ------------------------------------------------------------------------

    def project_usage(self, name: str) -> Usage:
        """What a project holds, and its limits."""
        return cast("Usage", self._get(path("projects", name, "usage")))

    def set_quota(self, name: str, **limits: int | None) -> Usage:
        """Changes the limits that are named; None lifts one."""
        return cast("Usage", self._call("PATCH", path("projects", name, "quota"), limits))

    def lineage(self, image: str | None = None, *, project: str | None = None) -> list[Kin]:
        """What was made from what: everything, or what comes of one image."""
        return cast("list[Kin]", self._get("/lineage", image=image, project=project)["items"])

    def check_storage(self, *, repair: bool = False) -> Operation:
        """Compares rows, store and exports; the step `check_storage` has the result."""
        return self._operate("POST", "/storage/check", {"repair": repair})
