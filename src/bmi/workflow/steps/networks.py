"""What is done to networks: BMI's foot in them, and the portal that serves them."""

from collections.abc import Mapping

from sqlalchemy import Connection

from bmi.domain.nouns import Json, Network, ObjectState
from bmi.domain.operations import Operation
from bmi.drivers.uplink import Foot
from bmi.errors import BmiError, CancelledError
from bmi.store import ports as port_rows
from bmi.store import records
from bmi.workflow.engine import Context, Outcome, StepType, Wait
from bmi.workflow.steps.nodes import until_settled
from bmi.workflow.steps.volumes import unchanged
from bmi.workflow.targets import exported_targets, portal_of


def _network(ctx: Context) -> Network:
    with ctx.tools.database.read() as tx:
        return records.networks.get(tx, ctx.operation.subject_id)


def foot_of(network: Network) -> Foot:
    """What the uplink driver is asked for."""
    return Foot(netns=network.netns, vlan=network.vlan, address=network.address)


def attach_uplink(ctx: Context) -> Json:
    network = _network(ctx)
    ctx.tools.uplink.ensure(foot_of(network))
    return {"netns": network.netns, "address": network.address}


def detach_uplink(ctx: Context) -> Json:
    ctx.tools.uplink.remove(_network(ctx).netns)
    return {}


def open_portal(ctx: Context) -> Json:
    network = _network(ctx)
    ctx.tools.export.ensure_portal(portal_of(ctx.tools, network), exported_targets(ctx.tools, network))
    return {"portal": f"{network.interface.ip}:{ctx.tools.portal_port}"}


def close_portal(ctx: Context) -> Json:
    ctx.tools.export.remove_portal(portal_of(ctx.tools, _network(ctx)))
    return {}


# ---- NICs on networks -------------------------------------------------------------------------------


def join_network(ctx: Context) -> Json | Wait:
    """Waits until the node's ports are what its NICs should be on."""
    with ctx.tools.database.read() as tx:
        found = port_rows.of_node(tx, ctx.operation.subject_id)
    return until_settled(ctx, found, "is not on its networks")


def leave_network(ctx: Context) -> Json | Wait:
    """Forgets that the NIC was on the network as soon as its port says that it is off."""
    database, args = ctx.tools.database, ctx.operation.args
    with database.write() as tx:
        found = port_rows.of_node(tx, ctx.operation.subject_id)
        if all(port.applied_revision == port.revision for port in found):
            records.attachments.delete(tx, nic_id=args["nic_id"], network_id=args["network_id"], leaving=True)
    return until_settled(ctx, found, "is not off the network")


def leave_again(ctx: Context) -> Json | Wait:
    """The undo of joining."""
    database, args = ctx.tools.database, ctx.operation.args
    joined = {"nic_id": args["nic_id"], "network_id": args["network_id"], "leaving": False}
    with database.write() as tx:
        if records.attachments.update(tx, **joined, values={"leaving": True}):
            nic = records.nics.get(tx, args["nic_id"])
            if nic.open:
                port_rows.touch(tx, nic, database.now())
    return leave_network(ctx)


STEPS = (
    StepType("join_network", join_network, leave_again),
    StepType("leave_network", leave_network, why="a repair never opens a port"),
    StepType("attach_uplink", attach_uplink, detach_uplink),
    StepType("open_portal", open_portal, close_portal),
    StepType("close_portal", close_portal, why="what is closed stays closed"),
    StepType("detach_uplink", detach_uplink, why="what is closed stays closed"),
)


def _opened(tx: Connection, operation: Operation, _results: Mapping[str, Json], _now: float) -> None:
    records.networks.update(tx, id=operation.subject_id, values={"state": ObjectState.READY})


def _gone(tx: Connection, operation: Operation, _results: Mapping[str, Json], _now: float) -> None:
    network = records.networks.get(tx, operation.subject_id)
    records.networks.delete(tx, id=network.id)
    records.projects.delete(tx, id=network.project_id)


def _not_opened(tx: Connection, operation: Operation, error: BmiError, now: float) -> None:
    """What was cancelled is as if it had never been asked for; what failed waits for a retry or its end."""
    if isinstance(error, CancelledError):
        _gone(tx, operation, {}, now)
    else:
        _failed(tx, operation, error, now)


def _failed(tx: Connection, operation: Operation, _error: BmiError, _now: float) -> None:
    records.networks.update(tx, id=operation.subject_id, values={"state": ObjectState.ERROR})


OUTCOMES = {
    "open-network": Outcome(_opened, _not_opened),
    "close-network": Outcome(_gone, _failed),
    "attach-network": Outcome(unchanged, unchanged),
    "detach-network": Outcome(unchanged, unchanged),
}
