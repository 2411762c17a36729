"""The API of this process, and a real HTTP server for it on a loopback port."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import cast

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from bmi.api.app import attach, create_app
from bmi.service.core import Core
from tests.installation import Site


@cache
def _api() -> FastAPI:
    return create_app(cast("Core", None), uploads_dir=Path())


def api_of(site: Site) -> FastAPI:
    """The API over a site. Making it takes longer than most tests: it is made once, and lent to one at a time."""
    attach(_api(), site.core, uploads_dir=site.uploads)
    return _api()


@contextmanager
def serving(app: ASGIApp, port: int = 0) -> Iterator[str]:
    """The address of a server for the app; ended, with what it was doing, at the end."""
    config = uvicorn.Config(
        app, port=port, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
