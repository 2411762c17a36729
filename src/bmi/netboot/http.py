"""The boot listener: everything below `/boot/<token>/` on one project's network, and nothing else."""

import logging
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from bmi.domain.boot import Boot, Foot, boot_env, ipxe_script, nothing_script, trouble_script
from bmi.errors import BmiError, NotFoundError
from bmi.netboot.desk import Desk

log = logging.getLogger(__name__)

_MAX_REPORT_BYTES = 2000
# What the initramfs and the OS of a node may report.
_REPORTS = frozenset({"initramfs", "disk", "root", "up", "failed"})
_HEADERS = {"Cache-Control": "no-store"}


def boot_url(foot: Foot, port: int, token: str | None) -> str:
    """Where iPXE finds the script of a boot, or the word that there is none."""
    host = foot.address.partition("/")[0]
    return f"http://{host}:{port}/boot/{token}/ipxe" if token else f"http://{host}:{port}/nothing"


def create_app(desk: Desk, foot: Foot, port: int, boot_dir: Path) -> Starlette:
    """The listener's application for one network. `boot_dir` holds `<image id>/kernel` and `initrd`."""
    listener = _Listener(desk, foot, port, boot_dir)
    return Starlette(
        routes=[
            Route("/nothing", listener.nothing),
            Route("/boot/{token}/ipxe", listener.script),
            *(
                Route(f"/boot/{{token}}/{name}", partial(listener.artefact, name=name))
                for name in ("kernel", "initrd")
            ),
            Route("/boot/{token}/boot.env", listener.boot_env),
            Route("/boot/{token}/meta-data", listener.meta_data),
            Route("/boot/{token}/user-data", listener.user_data),
            Route("/boot/{token}/failed", listener.failed),
            Route("/boot/{token}/report/{stage}", listener.report, methods=["POST"]),
        ],
        exception_handlers={BmiError: _refuse, Exception: _stumble},
    )


class _Listener:
    """What one network's machines may ask. Plain functions run in threads, so that they may block."""

    def __init__(self, desk: Desk, foot: Foot, port: int, boot_dir: Path) -> None:
        self._desk = desk
        self._foot = foot
        self._port = port
        self._boot_dir = boot_dir

    def nothing(self, _request: Request) -> Response:
        return _text(nothing_script())

    def script(self, request: Request) -> Response:
        try:
            boot = self._boot(request)
            script = ipxe_script(boot, self._base_url(request))
            if boot.method != "wait":
                self._fetched(request, "script", boot.method)
        except NotFoundError:
            raise
        except Exception:
            log.exception("%s: no boot script could be made", self._foot.address)
            return _text(trouble_script())
        return _text(script)

    def artefact(self, request: Request, name: str) -> Response:
        boot = self._boot(request)
        path = self._boot_dir / boot.image_id / name
        if boot.method != "kernel" or not path.is_file():
            raise NotFoundError("boot file", name)
        self._fetched(request, name, f"bytes={path.stat().st_size}")
        return FileResponse(path, media_type="application/octet-stream", headers=_HEADERS)

    def boot_env(self, request: Request) -> Response:
        boot = self._boot(request)
        report_url = f"{self._base_url(request)}/report"
        return _text(boot_env({"BMI_REPORT_URL": report_url, "BMI_HOSTNAME": boot.hostname}))

    def meta_data(self, request: Request) -> Response:
        return _text(self._boot(request).meta_data)

    def user_data(self, request: Request) -> Response:
        return _text(self._boot(request).user_data)

    def failed(self, request: Request) -> Response:
        """IPXE can only GET: its report that a command failed."""
        said = ", ".join(f"{key}={value}" for key, value in request.query_params.items())
        self._note(request, "failed", _printable(f"iPXE: {said}"))
        return _text("noted\n")

    async def report(self, request: Request) -> Response:
        stage = request.path_params["stage"]
        if stage not in _REPORTS:
            raise HTTPException(404)
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MAX_REPORT_BYTES:
                    raise HTTPException(413)
        except ClientDisconnect:
            raise HTTPException(408) from None  # which nobody hears; half a report is none
        await run_in_threadpool(self._note, request, stage, _printable(body.decode("utf-8", "replace")))
        return _text("noted\n")

    def _boot(self, request: Request) -> Boot:
        return self._desk.boot(request.path_params["token"], self._foot.network_id, _address(request))

    def _fetched(self, request: Request, name: str, detail: str) -> None:
        """Notes that something was fetched: neither looked at (HEAD) nor in part."""
        if request.method == "GET" and "range" not in request.headers:
            self._note(request, name, detail)

    def _note(self, request: Request, stage: str, detail: str) -> None:
        token = request.path_params["token"]
        self._desk.record(token, self._foot.network_id, _address(request), stage, detail)

    def _base_url(self, request: Request) -> str:
        return boot_url(self._foot, self._port, request.path_params["token"]).removesuffix("/ipxe")


def _address(request: Request) -> str:
    """Where a request comes from: the connection's other end, whatever a header says."""
    return request.client.host if request.client else ""


def _text(content: str) -> Response:
    return PlainTextResponse(content, headers=_HEADERS)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).strip()


async def _refuse(_request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, BmiError) else 500
    return PlainTextResponse(
        "not found\n" if status == 404 else "not now\n", status_code=status, headers=_HEADERS
    )


async def _stumble(_request: Request, _error: Exception) -> Response:
    """For a defect, which is raised on after this answer, and logged, or a database that is away."""
    return PlainTextResponse("not now\n", status_code=500, headers=_HEADERS)
