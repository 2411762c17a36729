"""The REST API /v1 as an ASGI app over the use cases."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute

from bmi import __version__
from bmi.api import permissions, problems
from bmi.api.audit import Audit
from bmi.api.envelope import Envelope
from bmi.api.intake import Intake
from bmi.api.models import Problem
from bmi.api.routes import (
    audit,
    downloads,
    images,
    inventory,
    networks,
    nodes,
    operations,
    pool,
    projects,
    session,
    site,
    snapshots,
    storage,
    switches,
    tokens,
    uploads,
    users,
    volumes,
)
from bmi.api.turns import LoginTurns
from bmi.service.core import Core

_DESCRIPTION = (
    "Boots physical nodes from instant clones of golden images. Whatever takes longer than a moment is "
    "answered 202 with an operation, whose Location can be watched. Every error is an RFC 9457 problem."
)


def create_app(core: Core, *, uploads_dir: Path) -> FastAPI:
    """The API over `core`; image files are streamed into `uploads_dir`, which must exist."""
    app = FastAPI(
        title="BMI",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    attach(app, core, uploads_dir=uploads_dir)
    v1 = APIRouter(prefix="/v1", dependencies=[Depends(permissions.permit)])
    nouns = (
        site,
        session,
        tokens,
        users,
        audit,
        projects,
        switches,
        networks,
        nodes,
        pool,
        inventory,
        images,
        downloads,
        uploads,
        volumes,
        snapshots,
        storage,
        operations,
    )
    permissions.check(noun.router for noun in nouns)
    for noun in nouns:
        v1.include_router(noun.router)
    app.include_router(v1)
    app.add_middleware(Audit)
    app.add_middleware(Envelope)
    problems.install(app)
    _complete_description(app)
    return app


def attach(app: FastAPI, core: Core, *, uploads_dir: Path) -> None:
    """Puts the API over `core`, with nothing left of what it was over before."""
    app.state.core = core
    app.state.uploads_dir = uploads_dir
    app.state.login_turns = LoginTurns()
    app.state.intake = Intake(uploads_dir)
    app.middleware_stack = None


def _operation_id(route: APIRoute) -> str:
    return route.name


def _complete_description(app: FastAPI) -> None:
    """Adds the schema that every documented refusal refers to, and who may call what."""
    describe = app.openapi

    def complete() -> dict[str, Any]:
        description = describe()
        description["components"]["schemas"].setdefault("Problem", Problem.model_json_schema())
        for methods in description["paths"].values():
            for route in methods.values():
                needed = permissions.PERMISSIONS[route["operationId"]]
                route["x-permission"] = needed.value
                if needed is permissions.PUBLIC:
                    route.pop("security", None)
        return description

    app.openapi = complete  # type: ignore[method-assign]  # FastAPI's documented way to extend it
