"""HIL gives nodes to projects of its own; BMI is told which, and claims them for its own projects."""

from collections.abc import Sequence

from bmi.drivers.hil import MARK, Hil, HilNode, connect, is_missing
from bmi.drivers.isolation import Machine, MachineNic
from bmi.errors import DriverError


class HilIsolation:
    """The nodes of one HIL."""

    def __init__(self, hil: Hil) -> None:
        self._hil = hil

    def nodes(self) -> Sequence[Machine]:
        return [self._machine(node) for node in self._hil.nodes()]

    def claim(self, node: str, project: str) -> None:
        found = self._hil.node(node)
        _refuse_unless_of(found, project)
        if found.project is not None:
            return
        # The mark comes first: a claim that is broken off in between is known as BMI's when it is tried again.
        self._hil.call("PUT", "node", node, "metadata", MARK, body={"value": project})
        try:
            self._hil.call("POST", "project", project, "connect_node", body={"node": node})
        except DriverError:
            # Somebody was faster, or an answer was lost: what HIL says now is what counts.
            found = self._hil.node(node)
            if found.project != project:
                self._unmark(node)
                found.refuse_if_taken()
                raise

    def unclaim(self, node: str, project: str) -> None:
        try:
            found = self._hil.node(node)
        except DriverError as error:
            if is_missing(error):
                return
            raise
        _refuse_unless_of(found, project)
        if found.project is not None:
            # HIL keeps a node whose management is enabled; who has it next gets another token.
            self._hil.call("PUT", "node", node, "obm", body={"enabled": False})
            self._hil.call("POST", "project", project, "detach_node", body={"node": node})
        if found.mark is not None:
            self._unmark(node)

    def _unmark(self, node: str) -> None:
        try:
            self._hil.call("DELETE", "node", node, "metadata", MARK)
        except DriverError as error:
            if not is_missing(error):
                raise

    def check(self) -> str:
        return self._hil.check()

    def _machine(self, node: HilNode) -> Machine:
        nics = tuple(
            MachineNic(nic.label, nic.mac, f"{node.name}/{nic.label}" if nic.port else None)
            for nic in node.nics.values()
        )
        return Machine(
            name=node.name,
            owner=node.project,
            claimed=node.project is not None and not node.is_taken,
            bmc=f"hil+{self._hil.url}/node/{node.name}",
            nics=nics,
        )


def _refuse_unless_of(node: HilNode, project: str) -> None:
    """Raises DriverError for a node of anybody but the project."""
    node.refuse_if_taken()
    if node.project not in {None, project}:
        raise DriverError(
            f"BMI holds the node {node.name} for HIL's project {node.project}, not for {project}.",
            retryable=False,
            remedy="Free the node in BMI first; if it is free there, detach it from that project in HIL.",
        )


def create(
    *, url: str, username: str, password_file: str, timeout_s: float = 10, ca_file: str = ""
) -> HilIsolation:
    """HIL at `url`, as HIL's own client has it in HIL_ENDPOINT; BMI's user is an administrator there. A call may
    take `timeout_s`.
    """
    return HilIsolation(
        connect(url, username, password_file=password_file, timeout_s=timeout_s, ca_file=ca_file)
    )
