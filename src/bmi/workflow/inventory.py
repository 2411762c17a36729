"""Compares BMI's nodes with those of the service that they are taken from: takes over the ones it does not know,
and finds the ones that were freed, given away or removed there behind its back.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from bmi.domain.names import label, mac_address
from bmi.domain.nouns import BOOT_NIC, Actor, Json, Nic, Node, NodeState, Role, Switch
from bmi.domain.operations import LIVE
from bmi.domain.plans import REGISTER
from bmi.drivers.isolation import Machine, MachineNic
from bmi.drivers.isolation.builtin import BuiltinIsolation
from bmi.errors import BmiError, InvalidInputError, InvalidStateError, NotHeldError, from_problem
from bmi.store import operations as journal
from bmi.store import ports, records, schema
from bmi.store.database import Turn, take_turns
from bmi.store.ids import new_id
from bmi.workflow.tools import Tools

log = logging.getLogger(__name__)

_IS_LIVE = schema.operations.c.state.in_(LIVE)
_BOOT_NAMES = (BOOT_NIC, "pxe")


def take_over(tools: Tools, *, actor: str) -> Json:
    """Registers the free nodes of the service that BMI does not know, and takes over the NICs of free nodes that have
    others there by now; which, and why not the others.
    """
    added: list[str] = []
    changed: list[str] = []
    left: dict[str, str] = {}
    machines = tools.isolation.nodes()
    for machine in machines:
        try:
            with tools.database.write() as tx:
                take_turns(tx, Turn.CABLING)
                node = records.nodes.find(tx, name=machine.name, lock=True)
                if node is None:
                    _register(tools, tx, machine, actor)
                elif not _take_over_nics(tools, tx, node, machine):
                    continue
            (changed if node else added).append(machine.name)
        except BmiError as error:
            left[machine.name] = error.detail
    return {"nodes": len(machines), "added": added, "changed": changed, "left": left}


def _register(tools: Tools, tx: Connection, machine: Machine, actor: str) -> None:
    label(machine.name)
    if machine.owner is not None:
        raise InvalidInputError("node", f"it belongs to project {machine.owner} there.")
    driver, address = _bmc_of(machine)
    now = tools.database.now()
    node = Node(
        id=new_id(),
        name=machine.name,
        state=NodeState.REGISTERED,
        project_id=None,
        bmc_driver=driver,
        bmc_address=address,
        bmc_username="",
        bmc_password=tools.vault.seal(""),
        bmc_verify_tls=True,
        problem=None,
        created_at=now,
    )
    records.nodes.insert(tx, node)
    for nic in _nics_of(node.id, machine, _switch_of(tx, machine, now)):
        records.nics.insert(tx, nic)
    journal.enqueue(
        tx,
        REGISTER,
        now=now,
        actor=Actor(actor, Role.ADMIN, None),
        subject=("node", node.id, node.name),
        project_id=None,
        args={},
    )


def _take_over_nics(tools: Tools, tx: Connection, node: Node, machine: Machine) -> bool:
    """Makes a node's NICs what the service says of them; whether that changed anything. What somebody has cabled to
    another switch is not the service's. Raises InvalidStateError for a node that is not free.
    """
    if (node.bmc_driver, node.bmc_address) != _bmc_of(machine):
        return False
    now = tools.database.now()
    switch = _switch_of(tx, machine, now)
    said = {_essence(nic): nic for nic in _nics_of(node.id, machine, switch)}
    known = records.nics.list(tx, node_id=node.id)
    had = {_essence(nic): nic for nic in known if nic.switch_id in {None, switch.id}}
    if had.keys() == said.keys():
        return False
    if node.state is not NodeState.FREE or journal.live_on(tx, node.id):
        raise InvalidStateError(
            "it has other NICs there by now, and is not free here.",
            remedy="Free it, then take it over again: bmi node sync.",
        )
    for essence in had.keys() - said.keys():
        records.nics.delete(tx, id=had[essence].id)
    for essence in said.keys() - had.keys():
        records.nics.insert(tx, said[essence])
    moved = [had.get(essence) or said[essence] for essence in had.keys() ^ said.keys()]
    behind = [
        ports.manage(tx, nic.switch_id, nic.port, now).id for nic in moved if nic.switch_id and nic.port
    ]
    ports.make_due(tx, behind, now)
    return True


def _bmc_of(machine: Machine) -> tuple[str, str]:
    """Driver and address."""
    driver, _, address = machine.bmc.partition("+")
    return driver, address


def _essence(nic: Nic) -> tuple[str, str, str | None, str | None]:
    return nic.name, nic.mac, nic.switch_id, nic.port


def _switch_of(tx: Connection, machine: Machine, now: float) -> Switch:
    """The one switch that stands for all of the service's."""
    driver, _ = _bmc_of(machine)
    return records.switches.find(tx, driver=driver) or records.switches.insert(
        tx, Switch(new_id(), driver, driver, {}, now)
    )


def _nics_of(node_id: str, machine: Machine, switch: Switch) -> list[Nic]:
    """A machine's NICs as rows that are not written yet."""
    made = []
    for name, nic in _named(machine.nics):
        cabled = (switch.id, nic.port) if nic.port else (None, None)
        made.append(Nic(new_id(), node_id, name, mac_address(nic.mac), *cabled))
    return made


def _named(nics: tuple[MachineNic, ...]) -> Iterator[tuple[str, MachineNic]]:
    """The NICs with their names in BMI. The one to boot from is called `boot` or `pxe` there, or is the first."""
    if not nics:
        raise InvalidInputError("node", "it has no NIC there.")
    boot = next(
        (nic for name in _BOOT_NAMES for nic in nics if nic.name == name), min(nics, key=lambda n: n.name)
    )
    for nic in nics:
        yield (BOOT_NIC, boot) if nic is boot else (label(nic.name, "nic"), nic)


# ---- behind our back --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Held:
    """A node that nothing is going on at, and the project of the service that should have it."""

    node: Node
    owner: str | None


def look(tools: Tools) -> None:
    """Puts every node that the service says otherwise of than BMI into `error`, its ports closed; a node of nobody
    is free again when the service says so. Raises DriverError when the service is away.
    """
    if isinstance(tools.isolation, BuiltinIsolation):
        return
    before = _held(tools)
    machines = {machine.name: machine for machine in tools.isolation.nodes()}
    for name, held in _held(tools).items():
        # What changed while the service was asked is looked at the next time.
        if before.get(name) == held:
            _compare(tools, held, machines.get(name))


def _held(tools: Tools) -> Mapping[str, _Held]:
    with tools.database.read() as tx:
        busy = {operation.subject_id for operation in journal.operations.list(tx, _IS_LIVE)}
        projects = {project.id: project for project in records.projects.list(tx)}
        found = {}
        for node in records.nodes.list(tx, schema.nodes.c.state != NodeState.REGISTERED):
            project = projects.get(node.project_id or "")
            if node.id not in busy:
                found[node.name] = _Held(node, (project.claims_as or project.name) if project else None)
    return found


def _compare(tools: Tools, held: _Held, machine: Machine | None) -> None:
    node = held.node
    if machine and machine.claimed and machine.owner and held.owner is None and node.state is NodeState.ERROR:
        # What is left of a claim that was broken off. As long as the node is in `error`, nobody begins another.
        tools.isolation.unclaim(machine.name, machine.owner)
        log.warning("Gave back node %s: it was claimed for %s, and is nobody's", node.name, machine.owner)
        machine = replace(machine, owner=None, claimed=False)
    wrong = _what_is_wrong(held, machine)
    if wrong is None and node.project_id is None and _is_ours(node):
        _mark(tools, held, {"state": NodeState.FREE, "problem": None})
        log.warning("Node %s is free again where it is taken from", node.name)
    elif wrong is not None and (node.problem or {}).get("detail") != wrong.detail:
        _mark(tools, held, {"state": NodeState.ERROR, "problem": wrong.problem()})
        log.error("Node %s: %s", node.name, wrong)


def _is_ours(node: Node) -> bool:
    """Whether the node is in `error` for what is compared here, and for nothing else."""
    return node.problem is not None and isinstance(from_problem(node.problem), NotHeldError)


def _what_is_wrong(held: _Held, machine: Machine | None) -> NotHeldError | None:
    name, owner = held.node.name, held.owner
    if machine is None:
        return NotHeldError(
            f"The service that {name} was taken from does not know it any more.",
            remedy="Register it there again, or take it out of BMI.",
        )
    if machine.owner == owner and machine.claimed == (owner is not None):
        return None
    if machine.owner is None:
        return NotHeldError(
            f"{name} was taken from project {owner} where it was claimed; here the project still has it.",
            remedy=f"Release and free it (bmi release {name}, bmi node free {name}), and allocate another.",
        )
    if owner is None:
        return NotHeldError(
            f"{name} is free here, but was given to project {machine.owner} where it is taken from.",
            remedy="It is free again when that project gives it back there.",
        )
    return NotHeldError(
        f"{name} belongs to project {owner} here, and to {machine.owner} where it is taken from.",
        remedy=f"Have it detached from {machine.owner} there; then release and free it here.",
    )


def _mark(tools: Tools, held: _Held, values: Json) -> None:
    """Unless somebody began something with the node just now."""
    with tools.database.write() as tx:
        node = records.nodes.find(tx, id=held.node.id, lock=True)
        if node != held.node or journal.live_on(tx, held.node.id):
            return
        records.nodes.update(tx, id=node.id, values=values)
        close_anew(tx, node.id, tools.database.now())


def close_anew(tx: Connection, node_id: str, now: float) -> None:
    """Has the node's ports closed, though they are said to be: somebody else may have had them meanwhile."""
    for nic in records.nics.list(tx, node_id=node_id):
        records.nics.update(tx, id=nic.id, values={"open": False})
        ports.touch(tx, nic, now)
