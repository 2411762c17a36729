"""The switches that nodes are cabled to."""

from bmi.domain.names import label
from bmi.domain.nouns import Actor, Json, Switch
from bmi.errors import InUseError, NotFoundError
from bmi.service.core import Core, require_admin
from bmi.store import records, schema
from bmi.store.ids import new_id


def register_switch(core: Core, actor: Actor, name: str, *, driver: str, options: Json) -> Switch:
    """A switch and how its driver reaches it; nothing is asked of the switch yet."""
    require_admin(actor)
    label(name)
    label(driver, "driver")
    with core.write() as tx:
        return records.switches.insert(tx, Switch(new_id(), name, driver, options, core.now()))


def list_switches(core: Core, actor: Actor, *, after: str = "", limit: int = 100) -> list[Switch]:
    """The switches by name, beginning behind the name `after`."""
    require_admin(actor)
    with core.database.read() as tx:
        return records.switches.list(tx, schema.switches.c.name > after, order="name", limit=limit)


def remove_switch(core: Core, actor: Actor, name: str) -> None:
    """Forgets a switch that no node is cabled to."""
    require_admin(actor)
    with core.write() as tx:
        switch = records.switches.find(tx, name=name)
        if switch is None:
            raise NotFoundError("switch", name, remedy="`bmi switch list` shows those there are.")
        users = [nic.port or "" for nic in records.nics.list(tx, switch_id=switch.id)]
        if users:
            raise InUseError(
                f"Nodes are cabled to ports {', '.join(users)} of {name}.",
                remedy="Delete these nodes first.",
                users=users,
            )
        records.switches.delete(tx, id=switch.id)
