"""Is the server well, and who am I to it."""

from fastapi import APIRouter

from bmi import __version__
from bmi.api.deps import ActorDep, CoreDep
from bmi.api.models import Health
from bmi.api.people_models import Whoami
from bmi.api.problems import documented
from bmi.service import access

router = APIRouter(tags=["site"])


@router.get("/health", summary="Whether the server and its database answer", responses=documented())
def health(core: CoreDep) -> Health:
    access.check_database(core)
    return Health(status="ok", version=__version__)


@router.get("/whoami", summary="Whose token this is", responses=documented(401))
def whoami(core: CoreDep, actor: ActorDep) -> Whoami:
    return Whoami.of(actor, access.whoami(core, actor))
