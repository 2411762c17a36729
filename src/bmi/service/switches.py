"""The switches that nodes are cabled to, their ports, and which NIC is at which."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, or_, select

from bmi.domain.names import label, mac_address
from bmi.domain.nouns import BOOT_NIC, Actor, Json, Nic, Node, Port, Switch
from bmi.domain.plans import CHECK_SWITCH
from bmi.errors import AlreadyExistsError, InUseError, InvalidInputError, InvalidStateError, NotFoundError
from bmi.service.core import Core, OperationView, enqueue, names_of, replayed, require_admin
from bmi.store import operations as journal
from bmi.store import ports as port_rows
from bmi.store import records, schema
from bmi.store.database import Turn, take_turns
from bmi.store.ids import new_id

# How an option is called that would be a secret itself, and not the path of a file that has it.
_SECRET = ("password", "passwd", "passphrase", "secret", "token", "private_key")


@dataclass(frozen=True)
class Cable:
    """A port of a switch, and the NIC that is cabled to it; with no node, a port that is to be kept closed. A NIC
    that BMI does not know is made when its MAC address is given.
    """

    switch: str
    port: str
    node: str | None = None
    nic: str = BOOT_NIC
    mac: str | None = None


@dataclass(frozen=True)
class PortView:
    """A port with what it should be, and the NIC behind it."""

    port: Port
    wanted: port_rows.Wanted
    node: str | None
    nic: str | None


def register_switch(core: Core, actor: Actor, name: str, *, driver: str, options: Json) -> Switch:
    """A switch and how its driver reaches it; nothing is asked of the switch yet."""
    require_admin(actor)
    label(name)
    _refuse_secrets(options)
    label(driver.replace("_", "-"), "driver")
    with core.write() as tx:
        return records.switches.insert(tx, Switch(new_id(), name, driver, options, core.now()))


def list_switches(core: Core, actor: Actor, *, after: str = "", limit: int = 100) -> list[Switch]:
    """The switches by name, beginning behind the name `after`."""
    require_admin(actor)
    with core.database.read() as tx:
        return records.switches.list(tx, schema.switches.c.name > after, order="name", limit=limit)


def get_switch(core: Core, actor: Actor, name: str) -> Switch:
    """One switch."""
    require_admin(actor)
    with core.database.read() as tx:
        return _switch(tx, name)


def change_switch(core: Core, actor: Actor, name: str, *, options: Json) -> Switch:
    """Says anew how the driver reaches the switch; an option that is None is dropped, and what is left out stays.
    All its ports are seen to: another switch may be there now.
    """
    require_admin(actor)
    _refuse_secrets(options)
    with core.write() as tx:
        take_turns(tx, Turn.CABLING)  # who cables locks ports first
        switch = _switch(tx, name, lock=True)
        merged = {key: value for key, value in (switch.options | options).items() if value is not None}
        records.switches.update(tx, id=switch.id, values={"options": merged})
        port_rows.make_due(tx, [p.id for p in records.ports.list(tx, switch_id=switch.id)], core.now())
        return _switch(tx, name)


def _refuse_secrets(options: Json) -> None:
    """Options are kept and shown as they are."""
    for name in options:
        if name.lower().endswith(_SECRET):
            raise InvalidInputError(
                "options",
                f"{name!r} would be kept and shown in clear.",
                remedy="Put it into a file on the server, and give the path as the driver's option, such as password_file.",
            )


def remove_switch(core: Core, actor: Actor, name: str, *, force: bool = False) -> None:
    """Forgets a switch that no node is cabled to, with its ports. With `force`, its hardware is gone: ports that were not
    seen closed are forgotten, too, and the NICs of nodes that are not in use are cabled to nothing from then on.
    """
    require_admin(actor)
    with core.write() as tx:
        take_turns(tx, Turn.CABLING)
        nics = _lock_cabled(tx, name)
        switch = _switch(tx, name, lock=True)
        users = [nic.port or "" for nic in nics]
        if users and not force:
            raise InUseError(
                f"Nodes are cabled to ports {', '.join(users)} of {name}.",
                remedy="Cable them to another switch (bmi switch cable), or delete them. If the hardware is gone: --force.",
                users=users,
            )
        for nic in nics:
            _refuse_in_use(tx, records.nodes.get(tx, nic.node_id))
            records.nics.update(tx, id=nic.id, values={"switch_id": None, "port": None})
        left = [port.name for port in records.ports.list(tx, port_rows.UNSETTLED, switch_id=switch.id)]
        if left and not force:
            raise InUseError(
                f"Ports {', '.join(left)} of {name} are not yet closed: what is there may be on a project's network.",
                remedy=f"`bmi switch show {name}` says why. If the hardware is gone: --force.",
                users=left,
            )
        records.switches.delete(tx, id=switch.id)


def _lock_cabled(tx: Connection, name: str) -> list[Nic]:
    """The NICs that are cabled to a switch; their nodes and ports are held as whoever cables them holds them."""
    nics, nodes, ports = schema.nics, schema.nodes, schema.ports
    here = select(schema.switches.c.id).where(schema.switches.c.name == name)
    cabled = select(nics.c.node_id).where(nics.c.switch_id.in_(here))
    tx.execute(select(nodes.c.id).where(nodes.c.id.in_(cabled)).order_by(nodes.c.id).with_for_update())
    port_rows.lock(tx, ports.c.switch_id.in_(here))
    return records.nics.list(tx, nics.c.switch_id.in_(here), order="port")


def list_ports(core: Core, actor: Actor, name: str, *, after: str = "", limit: int = 100) -> list[PortView]:
    """The ports of a switch that BMI manages, by name, beginning behind the name `after`."""
    require_admin(actor)
    table = schema.ports
    with core.database.read() as tx:
        switch = _switch(tx, name)
        found = records.ports.list(tx, table.c.name > after, switch_id=switch.id, order="name", limit=limit)
        wanted = port_rows.wanted(tx, found)
        nics = {nic.port: nic for nic in records.nics.list(tx, switch_id=switch.id)}
        nodes = names_of(tx, schema.nodes, {nic.node_id for nic in nics.values()})
    shown = []
    for port in found:
        nic = nics.get(port.name)
        shown.append(
            PortView(
                port, wanted[port.id], nodes.get(nic.node_id) if nic else None, nic.name if nic else None
            )
        )
    return shown


def check_switch(
    core: Core, actor: Actor, name: str, *, repair: bool = False, widen: bool = False, key: str | None = None
) -> OperationView:
    """Asks the switch whether it answers, and compares its ports with what they should be; the last step's result
    tells of each difference. With `repair`, ports are taken off what they should not be on; with `widen`, they
    are made all that they should be.
    """
    require_admin(actor)
    with core.write() as tx:
        earlier = replayed(tx, actor, key, CHECK_SWITCH.kind, name)
        if earlier:
            return earlier
        subject = ("switch", _switch(tx, name).id, name)
        args = {"repair": repair, "widen": widen}
        return enqueue(core, tx, actor, CHECK_SWITCH, subject, project_id=None, args=args, key=key)


def cable(core: Core, actor: Actor, cables: Sequence[Cable], *, force: bool = False) -> int:
    """Makes ports known and says what is cabled to them, all or nothing; returns how many there were. A port
    that nothing is cabled to is closed, and so is the one that a NIC was at before; with `force`, even that was not
    seen closed.
    """
    require_admin(actor)
    with core.write() as tx:
        _lock(tx, cables)
        for number, one in enumerate(cables, start=1):
            try:
                _cable(core, tx, one, force=force)
            except (NotFoundError, InvalidInputError, InvalidStateError, AlreadyExistsError) as error:
                error.detail = f"Cable {number} ({one.switch} {one.port}): {error.detail}"
                raise
    return len(cables)


def _lock(tx: Connection, cables: Sequence[Cable]) -> None:
    """Everything that is there and may be changed, by id and not in the file's order: others do so too."""
    take_turns(tx, Turn.CABLING)
    nodes, nics, ports, switches = schema.nodes, schema.nics, schema.ports, schema.switches
    named = nodes.c.name.in_({one.node for one in cables if one.node})
    found = tx.scalars(select(nodes.c.id).where(named).order_by(nodes.c.id).with_for_update()).all()
    here = select(switches.c.id).where(switches.c.name.in_({one.switch for one in cables}))
    before = select(nics.c.switch_id).where(nics.c.node_id.in_(found))
    port_rows.lock(tx, or_(ports.c.switch_id.in_(here), ports.c.switch_id.in_(before)))


def _cable(core: Core, tx: Connection, said: Cable, *, force: bool) -> None:
    switch, now = _switch(tx, said.switch), core.now()
    if not said.port.strip():
        raise InvalidInputError("port", "it is empty.", remedy="Name it as the switch does.")
    if said.node is None:
        port_rows.manage(tx, switch.id, said.port, now)
        return
    node = records.nodes.find(tx, name=said.node, lock=True)
    if node is None:
        raise NotFoundError("node", said.node, remedy="Register it first: bmi node register.")
    nic = records.nics.find(tx, node_id=node.id, name=said.nic) or _new_nic(tx, node, said)
    if (nic.switch_id, nic.port) == (switch.id, said.port):
        port_rows.manage(tx, switch.id, said.port, now)
        return
    journal.refuse_if_busy(tx, "node", node.id, node.name)
    _refuse_in_use(tx, node)
    if nic.switch_id and nic.port and not force:
        _refuse_unsettled(tx, nic.switch_id, nic.port)
    records.nics.update(tx, id=nic.id, values={"switch_id": switch.id, "port": said.port})
    if nic.switch_id and nic.port:
        port_rows.make_due(tx, [port_rows.manage(tx, nic.switch_id, nic.port, now).id], now)
    port_rows.make_due(tx, [port_rows.manage(tx, switch.id, said.port, now).id], now)


def _refuse_in_use(tx: Connection, node: Node) -> None:
    """A port is closed when BMI begins to manage it: the node would lose its disk, or its networks."""
    if records.volumes.find(tx, node_id=node.id) or records.nics.find(tx, node_id=node.id, open=True):
        raise InvalidStateError(
            f"The node {node.name!r} is in use, and would be cut off.",
            remedy=f"Release it first: bmi release {node.name}, with --keep-volume if it is to go on from its disk.",
        )


def _refuse_unsettled(tx: Connection, switch_id: str, port: str) -> None:
    """The node would be in the pool, and the port forgotten on the network of who had it last."""
    if records.ports.find(tx, port_rows.UNSETTLED, switch_id=switch_id, name=port):
        switch = records.switches.get(tx, switch_id).name
        raise InvalidStateError(
            f"It is at port {port} of {switch}, which is not yet closed.",
            remedy=f"`bmi switch show {switch}` says why. If there is no such port any more: --force.",
        )


def _new_nic(tx: Connection, node: Node, said: Cable) -> Nic:
    if said.mac is None:
        raise NotFoundError("NIC", f"{said.node}/{said.nic}", remedy="Give its MAC address, and it is made.")
    label(said.nic, "nic")
    return records.nics.insert(tx, Nic(new_id(), node.id, said.nic, mac_address(said.mac), None, None))


def _switch(tx: Connection, name: str, *, lock: bool = False) -> Switch:
    found = records.switches.find(tx, name=name, lock=lock)
    if found is None:
        raise NotFoundError("switch", name, remedy="`bmi switch list` shows those there are.")
    return found
