"""What endpoints are given: who asks, the ground to stand on, a page's bounds, an idempotency key."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Query, Request, Response

from bmi.api.intake import Intake
from bmi.api.permissions import permitted
from bmi.api.turns import LoginTurns
from bmi.domain.nouns import Actor
from bmi.service.core import Core, OperationView

T = TypeVar("T")


async def _core(request: Request) -> Core:
    core: Core = request.app.state.core
    return core


async def _uploads_dir(request: Request) -> Path:
    directory: Path = request.app.state.uploads_dir
    return directory


async def _intake(request: Request) -> Intake:
    intake: Intake = request.app.state.intake
    return intake


async def _login_turns(request: Request) -> LoginTurns:
    turns: LoginTurns = request.app.state.login_turns
    return turns


CoreDep = Annotated[Core, Depends(_core)]
UploadsDir = Annotated[Path, Depends(_uploads_dir)]
IntakeDep = Annotated[Intake, Depends(_intake)]
LoginTurnsDep = Annotated[LoginTurns, Depends(_login_turns)]


# Who asks; a public route has nobody to ask for.
ActorDep = Annotated[Actor, Depends(permitted)]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[!-~]{1,128}$",
        description="A request that is repeated with the same key gets the first one's operation.",
    ),
]

ProjectQuery = Annotated[
    str | None, Query(max_length=100, description="For administrators: the project that is meant.")
]

OwnerQuery = Annotated[
    str | None,
    Query(
        max_length=100,
        description="Whose is meant, where several projects share one of this name with the project.",
    ),
]


@dataclass(frozen=True)
class Bounds:
    """Which part of a list is wanted."""

    after: str
    limit: int

    @property
    def fetch(self) -> int:
        """One more than is shown tells whether there is a next page."""
        return self.limit + 1

    def cut(self, found: Sequence[T], cursor: Callable[[T], str]) -> tuple[Sequence[T], str | None]:
        """The page, and where the next one begins if there is one."""
        shown = found[: self.limit]
        return shown, cursor(shown[-1]) if len(found) > self.limit else None


async def _bounds(
    after: Annotated[str, Query(max_length=200, description="`next` of the page before.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="Items on a page.")] = 100,
) -> Bounds:
    return Bounds(after, limit)


BoundsDep = Annotated[Bounds, Depends(_bounds)]


def accepted(response: Response, view: OperationView) -> OperationView:
    """Says where the operation can be watched (RFC 9110, 15.3.3)."""
    response.headers["Location"] = f"/v1/operations/{view.operation.id}"
    return view
