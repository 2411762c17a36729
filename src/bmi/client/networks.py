"""The client's calls about networks."""

from typing import cast

from bmi.client.documents import Operation, TenantNetwork
from bmi.client.transport import Transport, path


class NetworkCalls(Transport):
    """What NICs attach to. An administrator says of which project a network is, if several have its name."""

    def list_networks(self) -> list[TenantNetwork]:
        """The networks that the caller may attach to."""
        return cast("list[TenantNetwork]", self._list("/networks"))

    def get_network(self, name: str, *, project: str | None = None) -> TenantNetwork:
        """One network."""
        return cast("TenantNetwork", self._get(path("networks", name), project=project))

    def create_network(
        self, name: str, *, project: str | None = None, vlan: int | None = None, public: bool = False
    ) -> TenantNetwork:
        """A network with a VLAN of the pool; an administrator's without a project is the site's."""
        body = {"name": name, "project": project, "vlan": vlan, "public": public}
        return cast("TenantNetwork", self._call("POST", "/networks", body))

    def publish_network(self, name: str, *, public: bool, project: str | None = None) -> TenantNetwork:
        """Lets every project attach to a network, or only those that it is shared with."""
        made = self._call("PATCH", path("networks", name), {"public": public}, project=project)
        return cast("TenantNetwork", made)

    def delete_network(self, name: str, *, project: str | None = None) -> None:
        """Forgets a network that no NIC is on."""
        self._call("DELETE", path("networks", name), project=project)

    def share_network(self, name: str, other: str, *, project: str | None = None) -> TenantNetwork:
        """Lets the project `other` attach to a network."""
        made = self._call("PUT", path("networks", name, "shares", other), project=project)
        return cast("TenantNetwork", made)

    def unshare_network(
        self, name: str, other: str, *, project: str | None = None, of: str | None = None
    ) -> TenantNetwork:
        """Lets the project `other` attach to a network no more; where that is the caller's, `of` says whose
        network is meant.
        """
        made = self._call("DELETE", path("networks", name, "shares", other), project=project, of=of)
        return cast("TenantNetwork", made)

    def attach_network(
        self, name: str, node: str, *, nic: str = "boot", tagged: bool = False, of: str | None = None
    ) -> Operation:
        """Puts a NIC of a node on a network, where several have the name on that `of` a project."""
        body = {"node": node, "nic": nic, "tagged": tagged, "of": of}
        return self._operate("POST", path("networks", name, "attach"), body)

    def detach_network(self, name: str, node: str, *, nic: str = "boot", of: str | None = None) -> Operation:
        """Takes a NIC of a node off a network, where it is on several of the name off that `of` a project."""
        body = {"node": node, "nic": nic, "of": of}
        return self._operate("POST", path("networks", name, "detach"), body)
