"""The only place that constructs things: from settings to running parts."""

import functools
import json
import logging
import os
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from bmi.config import DriverSettings, Settings
from bmi.domain.nouns import Json
from bmi.drivers import load
from bmi.drivers.bmc import Bmc
from bmi.drivers.switch import Switch
from bmi.errors import BmiError
from bmi.service.access import ensure_admin_token
from bmi.service.boot import BootDesk
from bmi.service.core import Core
from bmi.store.database import Database, connect, migrate
from bmi.store.vault import Vault
from bmi.workflow.engine import Engine
from bmi.workflow.guard import Guard
from bmi.workflow.steps import OUTCOMES, STEPS
from bmi.workflow.tools import Tools

log = logging.getLogger(__name__)

_GRACE_S = 5


def open_core(settings: Settings) -> Core:
    """The request side: the data directory, its key and a database that is up to date."""
    data_dir = settings.server.data_dir
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    (data_dir / "uploads").mkdir(mode=0o700, exist_ok=True)
    engine = connect(settings.database_url)
    migrate(engine)
    return Core(Database(engine), Vault.at(data_dir / "secrets.key"), settings)


def open_tools(core: Core) -> Tools:
    """The effect side: the drivers that the settings name."""
    settings = core.settings
    server = settings.server
    own = {
        ("storage", "local"): {"path": str(server.data_dir / "storage")},
        ("export", "tgt"): {"run_dir": str(server.run_dir / "tgt")},
    }

    def driver(kind: str, chosen: DriverSettings) -> Any:
        return load(kind, chosen.driver)(**own.get((kind, chosen.driver), {}) | chosen.options)

    @functools.cache
    def bmc(name: str) -> Bmc:
        made: Bmc = load("bmc", name)()
        return made

    @functools.cache
    def switch_by_text(name: str, options: str) -> Switch:
        made: Switch = load("switch", name)(**json.loads(options))
        return made

    def switch(name: str, options: Json) -> Switch:
        return switch_by_text(name, json.dumps(options, sort_keys=True))

    return Tools(
        database=core.database,
        storage=driver("storage", settings.storage),
        export=driver("export", settings.export),
        uplink=driver("uplink", settings.uplink),
        bmc=bmc,
        switch=switch,
        vault=core.vault,
        data_dir=server.data_dir,
        iqn_prefix=settings.export.iqn_prefix,
        portal_port=settings.export.port,
        boot_timeout_s=settings.boot.timeout_s,
        max_image_bytes=settings.image.max_size_gib << 30,
        convert_timeout_s=settings.image.convert_timeout_s,
    )


def check(settings: Settings) -> list[tuple[str, str | BmiError]]:
    """What each part says of itself, or what is wrong with it."""
    found: list[tuple[str, str | BmiError]] = []
    try:
        core = open_core(settings)
        found.append(("database", f"{core.database.engine.dialect.name} is up to date."))
        tools = open_tools(core)
    except BmiError as error:
        return [*found, ("configuration", error)]
    for name, part in (("storage", tools.storage), ("export", tools.export), ("uplink", tools.uplink)):
        try:
            found.append((name, part.check()))
        except BmiError as error:
            found.append((name, error))
    return found


def serve(settings: Settings) -> None:
    """Runs everything in this process until SIGTERM or SIGINT: API, boot service, worker and guard.

    What the nodes depend on (exporters, namespaces) outlives it and is found again at the next start.
    """
    import uvicorn  # noqa: PLC0415  # the client commands of the CLI start without it

    from bmi.api.app import create_app  # noqa: PLC0415  # likewise
    from bmi.netboot.server import Netboot  # noqa: PLC0415  # likewise

    core = open_core(settings)
    tools = open_tools(core)
    log.info("Storage: %s", tools.storage.check())
    log.info("Export: %s", tools.export.check())
    if ensure_admin_token(core, settings.admin_token_path):
        log.info("A new administrator's token is in %s", settings.admin_token_path)
    engine = Engine(
        core.database,
        STEPS,
        OUTCOMES,
        tools,
        owner=f"{socket.gethostname()}:{os.getpid()}",
        threads=settings.worker.threads,
        lease_s=settings.worker.lease_s,
    )
    core = replace(core, kick=engine.kick)
    guard = Guard(tools)
    netboot = Netboot(
        BootDesk(core),
        http_port=settings.boot.http_port,
        boot_dir=settings.server.data_dir / "boot",
    )
    threads = [
        threading.Thread(target=engine.run, name="worker"),
        threading.Thread(target=guard.run, name="guard"),
    ]
    api = uvicorn.Server(
        uvicorn.Config(
            create_app(core, uploads_dir=Path(settings.server.data_dir / "uploads")),
            host=settings.server.host,
            port=settings.server.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )
    for thread in threads:
        thread.start()
    netboot.start()
    try:
        log.info("API: http://%s:%d", settings.server.host, settings.server.port)
        api.run()
    finally:
        engine.stop()
        guard.stop()
        netboot.stop()
        for thread in threads:
            thread.join()
