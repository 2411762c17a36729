"""Typed HTTP client of the API /v1; a problem document comes back as the error it was made from."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, cast

from bmi.client.documents import (
    Allocation,
    Event,
    Json,
    Node,
    Operation,
    Pool,
    Project,
    Whoami,
    has_ended,
    succeeded,
)
from bmi.client.images import ImageCalls
from bmi.client.networks import NetworkCalls
from bmi.client.people import PeopleCalls
from bmi.client.switches import SwitchCalls
from bmi.client.transport import path
from bmi.client.volumes import StorageCalls
from bmi.errors import TimedOutError, UnavailableError

__all__ = ["Client", "Operation", "has_ended", "succeeded"]

PowerAction = Literal["on", "off", "cycle"]


class Client(ImageCalls, StorageCalls, PeopleCalls, SwitchCalls, NetworkCalls):
    """One server and one token. Every method raises the BmiError of the server's problem document, or
    UnavailableError when there is no answer.

    A call that makes an operation carries an Idempotency-Key, so that it is safely sent once more when the
    connection breaks before the answer. `transport` replaces the network (for tests).
    """

    # ---- site ---------------------------------------------------------------------------------------

    def health(self) -> dict[str, str]:
        """The server's status and version; needs no token."""
        return cast("dict[str, str]", self._get("/health"))

    def whoami(self) -> Whoami:
        """Whose token this is."""
        return cast("Whoami", self._get("/whoami"))

    # ---- projects -----------------------------------------------------------------------------------

    def list_projects(self) -> list[Project]:
        """The projects that the caller may see."""
        return cast("list[Project]", self._list("/projects"))

    def get_project(self, name: str) -> Project:
        """One project."""
        return cast("Project", self._get(path("projects", name)))

    def create_project(
        self,
        name: str,
        *,
        vlan: int | None = None,
        address: str | None = None,
        claims_as: str | None = None,
    ) -> Operation:
        """A project; the operation opens its boot network. `claims_as` is its name where nodes are taken from."""
        body = {"name": name, "vlan": vlan, "address": address, "claims_as": claims_as}
        return self._operate("POST", "/projects", body)

    def delete_project(self, name: str) -> Operation:
        """Closes an empty project's network and forgets the project."""
        return self._operate("DELETE", path("projects", name))

    # ---- nodes --------------------------------------------------------------------------------------

    def list_nodes(self) -> list[Node]:
        """The nodes that the caller may see."""
        return cast("list[Node]", self._list("/nodes"))

    def get_node(self, name: str) -> Node:
        """One node."""
        return cast("Node", self._get(path("nodes", name)))

    def register_node(
        self,
        name: str,
        *,
        mac: str,
        bmc: str,
        bmc_username: str = "",
        bmc_password: str = "",
        bmc_verify_tls: bool = True,
        switch: str | None = None,
        port: str | None = None,
        labels: Sequence[str] = (),
        nics: Sequence[Json] = (),
    ) -> Operation:
        """Takes a node into the pool. `bmc` is `<driver>+<URL>`; `nics` are those beside the one that it boots
        from, each with `name`, `mac` and perhaps `switch` and `port`.
        """
        body = {
            "name": name,
            "mac": mac,
            "bmc": bmc,
            "bmc_username": bmc_username,
            "bmc_password": bmc_password,
            "bmc_verify_tls": bmc_verify_tls,
            "switch": switch,
            "port": port,
            "labels": list(labels),
            "nics": list(nics),
        }
        return self._operate("POST", "/nodes", body)

    def sync_nodes(self) -> Operation:
        """Registers the nodes of the service that nodes are taken from; the step `sync_nodes` has the result."""
        return self._operate("POST", "/nodes/sync")

    def delete_node(self, name: str) -> Operation:
        """Takes a node out of the pool."""
        return self._operate("DELETE", path("nodes", name))

    def pool(self) -> list[Pool]:
        """How many nodes are free, by their labels."""
        return cast("list[Pool]", self._get("/pool")["items"])

    def allocate_nodes(
        self, count: int, *, labels: Sequence[str] = (), project: str | None = None
    ) -> Allocation:
        """Gives `count` free nodes that have all these labels to a project, or none."""
        body = {"count": count, "labels": list(labels), "project": project}
        return cast("Allocation", self._call_once("POST", "/pool/allocate", body))

    def free_node(self, name: str) -> Operation:
        """Gives a node without a volume back to the pool."""
        return self._operate("POST", path("nodes", name, "free"))

    def label_node(self, name: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> Node:
        """Changes what a node can be asked for by."""
        body = {"add": list(add), "remove": list(remove)}
        return cast("Node", self._call("PATCH", path("nodes", name, "labels"), body))

    def provision_node(
        self,
        name: str,
        *,
        image: str | None = None,
        snapshot: str | None = None,
        volume: str | None = None,
        size_bytes: int | None = None,
        project: str | None = None,
        hostname: str | None = None,
        ssh_keys: Sequence[str] = (),
        user_data: str = "",
    ) -> Operation:
        """Boots a node of the project from a fresh clone of `image` or of `snapshot`, or from a detached `volume`. A
        clone may be larger than what it is of.
        """
        body = {
            "image": image,
            "snapshot": snapshot,
            "volume": volume,
            "size_bytes": size_bytes,
            "project": project,
            "hostname": hostname,
            "ssh_keys": list(ssh_keys),
            "user_data": user_data,
        }
        return self._operate("POST", path("nodes", name, "provision"), body)

    def release_node(self, name: str, *, keep_volume: bool = False, keep_as: str | None = None) -> Operation:
        """Empties a node; its volume is deleted, or detached and perhaps renamed."""
        body = {"keep_volume": keep_volume, "keep_as": keep_as}
        return self._operate("POST", path("nodes", name, "release"), body)

    def power_node(self, name: str, action: PowerAction) -> Operation:
        """Powers an active node."""
        return self._operate("POST", path("nodes", name, "power"), {"action": action})

    def list_events(self, name: str) -> list[Event]:
        """A node's timeline, oldest first."""
        return cast("list[Event]", self._list(path("nodes", name, "events")))

    # ---- operations ---------------------------------------------------------------------------------

    def list_operations(
        self, *, live: bool = False, subject: str | None = None, limit: int | None = None
    ) -> list[Operation]:
        """The operations, newest first; `limit` keeps it to that many."""
        found = self._list("/operations", limit=limit, live="true" if live else None, subject=subject)
        return cast("list[Operation]", found)

    def get_operation(self, operation_id: str) -> Operation:
        """One operation with its steps."""
        return cast("Operation", self._get(path("operations", operation_id)))

    def cancel_operation(self, operation_id: str) -> Operation:
        """Asks for an end; what was done is undone."""
        return cast("Operation", self._call("POST", path("operations", operation_id, "cancel")))

    def retry_operation(self, operation_id: str) -> Operation:
        """Goes on with a failed operation where it failed."""
        return cast("Operation", self._call("POST", path("operations", operation_id, "retry")))

    def follow(
        self, operation_id: str, *, timeout_s: float = 3600, poll_s: float = 0.2
    ) -> Iterator[Operation]:
        """The operation as it is now and after every change, until it has ended. Raises TimedOutError.

        A server that is away for a moment (a restart, say) is waited for.
        """
        deadline = time.monotonic() + timeout_s
        last: Operation | None = None
        while True:
            try:
                operation = self.get_operation(operation_id)
            except UnavailableError:
                if last is None or time.monotonic() >= deadline:
                    raise
                operation = last
            if operation != last:
                yield operation
                last = operation
            if has_ended(operation):
                return
            if time.monotonic() >= deadline:
                raise TimedOutError(
                    f"Operation {operation_id} ({operation['kind']} of {operation['subject_name']}) has not ended "
                    f"after {timeout_s:g} s; it goes on.",
                    remedy=f"Wait again (bmi operation wait {operation_id}) or cancel it (bmi operation cancel "
                    f"{operation_id}).",
                    operation=operation_id,
                )
            time.sleep(poll_s)

    def wait(
        self,
        operation_id: str,
        on_change: Callable[[Operation], None] = lambda _operation: None,
        timeout_s: float = 3600,
        poll_s: float = 0.2,
    ) -> Operation:
        """The ended operation, whatever its end (see `succeeded`); `on_change` is told every change before.
        Raises TimedOutError.
        """
        for operation in self.follow(operation_id, timeout_s=timeout_s, poll_s=poll_s):
            on_change(operation)
        return operation
