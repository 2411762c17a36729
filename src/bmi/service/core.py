"""What every use case needs, and the questions all of them ask: who is it, may they, which object."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, FromClause, Table, exists, or_, select
from sqlalchemy.exc import IntegrityError

from bmi.config import Settings
from bmi.domain.names import ImageReference, image_reference
from bmi.domain.nouns import Actor, Image, Json, Network, Node, ObjectState, Project, Snapshot
from bmi.domain.operations import Operation, Step
from bmi.domain.plans import Plan
from bmi.errors import BusyError, ForbiddenError, InvalidInputError, InvalidStateError, NotFoundError
from bmi.store import operations as journal
from bmi.store import records, schema
from bmi.store.database import Database
from bmi.store.vault import Vault


@dataclass(frozen=True)
class Core:
    """The ground under the use cases. `kick` tells a worker in the same process to look now."""

    database: Database
    vault: Vault
    settings: Settings
    kick: Callable[[], None] = lambda: None

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction after which a worker looks for what there is to do."""
        with self.database.write() as tx:
            yield tx
        self.kick()

    def now(self) -> float:
        return self.database.now()


@dataclass(frozen=True)
class OperationView:
    """An operation with its steps."""

    operation: Operation
    steps: list[Step]


def view(tx: Connection, operation: Operation) -> OperationView:
    """The operation as it is shown."""
    return OperationView(operation, journal.steps_of(tx, operation.id))


def require_admin(actor: Actor) -> None:
    """Raises ForbiddenError unless the actor is an administrator."""
    if not actor.is_admin:
        raise ForbiddenError("Only an administrator may do this.", remedy="Use an administrator's token.")


def project_for(tx: Connection, actor: Actor, name: str | None) -> Project:
    """The project to act for: the actor's own, or the one an administrator names."""
    if actor.project_id is None:
        if not name:
            raise InvalidInputError(
                "project", "it is missing.", remedy="Say for which project: --project NAME."
            )
        found = records.projects.find(tx, name=name)
        if found is None:
            raise NotFoundError("project", name, remedy="`bmi project list` shows those there are.")
        return found
    own = records.projects.get(tx, actor.project_id)
    if name and name != own.name:
        raise ForbiddenError(
            f"Your token is for project {own.name!r}.", remedy=f"Leave --project {name} out."
        )
    return own


def project_names(tx: Connection, ids: set[str | None]) -> dict[str | None, str]:
    """The names of these projects; an id that is None or unknown has none."""
    return names_of(tx, schema.projects, ids)


def names_of(tx: Connection, table: Table, ids: set[str | None]) -> dict[str | None, str]:
    """The names of the rows with these ids, with one query, or none when there is nothing to ask."""
    wanted = [known for known in ids if known]
    if not wanted:
        return {}
    return dict(tx.execute(select(table.c.id, table.c.name).where(table.c.id.in_(wanted))).all())


def network_of(tx: Connection, project: Project, *, also: ObjectState = ObjectState.READY) -> Network:
    """The project's boot network, locked; raises InvalidStateError while it is neither ready nor `also`."""
    network = records.networks.find(tx, project_id=project.id, boot=True, lock=True)
    if network is None or network.state not in {ObjectState.READY, also}:
        raise InvalidStateError(
            f"The boot network of project {project.name!r} is {network.state if network else 'missing'}.",
            remedy="Wait for the operation that opens it, or ask an administrator to look at it.",
        )
    return network


def require_open(tx: Connection, project_id: str | None) -> None:
    """Raises InvalidStateError for a project that is being closed: nothing is left when it goes. To be called
    before its quota is, after all other rows are locked.
    """
    if project_id is not None:
        network_of(tx, records.projects.get(tx, project_id), also=ObjectState.CREATING)


def visible_node(tx: Connection, actor: Actor, name: str, *, lock: bool = False) -> Node:
    """A node that the actor may see: their project's, or any for an administrator."""
    node = records.nodes.find(tx, name=name, lock=lock)
    if node is None or not (actor.is_admin or node.project_id == actor.project_id):
        raise no_such_node(name)
    return node


def no_such_node(name: str) -> NotFoundError:
    """The same answer for a node that does not exist and for one that the actor may not see."""
    return NotFoundError(
        "node",
        name,
        remedy="`bmi node list` shows your nodes; `bmi node allocate` gets you more from the pool.",
    )


def sees_image(project_id: str | None, table: FromClause = schema.images) -> ColumnElement[bool]:
    """Whether a project may use an image: it is its own, public, or shared with it."""
    shares = schema.image_shares.c
    shared = exists().where(shares.image_id == table.c.id, shares.project_id == project_id)
    return or_(table.c.project_id == project_id, table.c.public, shared)


def visible_image(tx: Connection, project_id: str | None, name: str) -> Image:
    """The image that `NAME` or `NAME@VERSION` means to a project: of its own ones, else of the public ones, else
    of those that are shared with it, since anybody may share one of any name; the newest ready version when
    none is named.
    """
    wanted = image_reference(name)
    found = records.images.list(tx, sees_image(project_id), name=wanted.name)
    public = {image.project_id or "" for image in found if image.public}
    sharing = {image.project_id for image in found}
    if project_id in sharing:
        owner = project_id
    elif public:
        owner = min(public) or None  # the site's come before those of projects
    elif len(sharing) > 1:
        raise InvalidInputError(
            "image",
            f"several projects ({', '.join(sorted(project_names(tx, sharing).values()))}) share an image "
            f"{wanted.name!r} with yours.",
            remedy=f"Drop what you do not mean: bmi image unshare {wanted.name} --with YOURS --of PROJECT",
        )
    else:
        owner = next(iter(sharing), None)
    return chosen_version([image for image in found if image.project_id == owner], wanted)


def chosen_version(versions: Sequence[Image], wanted: ImageReference) -> Image:
    """The version that is meant, of those of one image; raises NotFoundError."""
    if wanted.version is None:
        newest = max(
            versions, key=lambda image: (image.state is ObjectState.READY, image.version), default=None
        )
    else:
        newest = next((image for image in versions if image.version == wanted.version), None)
    if newest is None:
        raise _no_such_image(str(wanted))
    return newest


def locked_image(tx: Connection, image: Image) -> Image:
    """The image as it is now and stays until the transaction ends; NotFoundError when it is gone."""
    now = records.images.find(tx, id=image.id, lock=True)
    if now is None:
        raise _no_such_image(image.name)
    return now


def _no_such_image(name: str) -> NotFoundError:
    return NotFoundError("image", name, remedy="`bmi image list` shows the images that you may use.")


def receives(tx: Connection, actor: Actor, other: Project, project: str | None) -> bool:
    """Whether the actor asks for the project that something is shared with, and not for its owner."""
    return (not actor.is_admin or bool(project)) and project_for(tx, actor, project).id == other.id


def shared_by(owners: Mapping[str | None, str], kind: str, name: str, of: str | None) -> str | None:
    """Which of the owners (None: the site) is meant, the one that is said or the only one."""
    if not of and len(owners) > 1:
        raise InvalidInputError(
            "of",
            f"several projects ({', '.join(sorted(owners.values()))}) share a {kind} {name!r}.",
            remedy="Say whose is meant: --of PROJECT.",
        )
    return of or next(iter(owners.values()), None)


def visible_snapshot(tx: Connection, project_id: str, name: str, *, lock: bool = False) -> Snapshot:
    """The project's snapshot of this name."""
    found = records.snapshots.find(tx, name=name, project_id=project_id, lock=lock)
    if found is None:
        raise NotFoundError(
            "snapshot", name, remedy="`bmi snapshot list` shows the snapshots of your project."
        )
    return found


def enqueue(
    core: Core,
    tx: Connection,
    actor: Actor,
    plan: Plan,
    subject: tuple[str, str, str],
    *,
    project_id: str | None,
    args: Json | None = None,
    key: str | None = None,
) -> OperationView:
    """Writes the operation down; the caller's transaction makes it real."""
    try:
        operation = journal.enqueue(
            tx,
            plan,
            now=core.now(),
            actor=actor,
            subject=subject,
            project_id=project_id,
            args=args or {},
            idempotency_key=key,
        )
    except IntegrityError as error:
        # Two requests at the same moment: the database has let the other one through.
        raise BusyError(
            f"The {subject[0]} {subject[2]!r} is busy: another request was first.", remedy="Try again."
        ) from error
    return view(tx, operation)


def replayed(
    tx: Connection, actor: Actor, key: str | None, kind: str, subject_name: str, asked: Json | None = None
) -> OperationView | None:
    """What an earlier request with the same Idempotency-Key made; None when there was none.

    Raises InvalidInputError when the key was used for something else, or where the operation's arguments differ
    from what is `asked` now.
    """
    found = journal.find_by_idempotency_key(tx, actor, key) if key else None
    if found is None:
        return None
    same = (asked or {}).items() <= found.args.items()
    if (found.kind, found.subject_name) != (kind, subject_name) or not same:
        raise reused_key(f"{found.kind} of {found.subject_name}")
    return view(tx, found)


def reused_key(used_for: str) -> InvalidInputError:
    """What is said when an Idempotency-Key comes with another request."""
    return InvalidInputError(
        "Idempotency-Key",
        f"it was used for another {used_for}.",
        remedy="Use a new key for a new request.",
    )
