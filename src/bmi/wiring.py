"""The only place that constructs things: from settings to running parts."""

import functools
import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bmi.config import DriverSettings, ServerSettings, Settings
from bmi.domain.nouns import Json
from bmi.drivers import make
from bmi.drivers.bmc import Bmc
from bmi.drivers.switch import Switch
from bmi.errors import BmiError, ConfigError
from bmi.service.access import ensure_admin_token
from bmi.service.boot import BootDesk
from bmi.service.core import Core
from bmi.store.database import Database, connect, migrate
from bmi.store.vault import Vault
from bmi.workflow import sweep
from bmi.workflow.engine import Engine
from bmi.workflow.guard import Guard
from bmi.workflow.ports import Keeper
from bmi.workflow.steps import OUTCOMES, STEPS
from bmi.workflow.tools import Tools

log = logging.getLogger(__name__)

_GRACE_S = 5
# What a step may still take when the server is told to stop. One that takes longer (a conversion, say) is
# broken off and done again by the next server.
_STEPS_GRACE_S = 10


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
    own: dict[tuple[str, str], dict[str, Any]] = {
        ("storage", "local"): {"path": str(server.data_dir / "storage")},
        ("storage", "ceph"): {"staging_dir": str(server.data_dir / "staging")},
        # A request to RBD waits for the network, and needs company; one to a file does not wait.
        ("export", "tgt"): {
            "run_dir": str(server.run_dir / "tgt"),
            "threads": 16 if settings.storage.driver == "ceph" else 1,
        },
    }
    # HIL also turns nodes on and switches their ports: one service, one account.
    isolation = settings.isolation
    if isolation.driver == "hil":
        own |= {("bmc", "hil"): isolation.options, ("switch", "hil"): isolation.options}

    def driver(kind: str, chosen: DriverSettings) -> Any:
        return make(kind, chosen.driver, own.get((kind, chosen.driver), {}) | chosen.options)

    @functools.cache
    def bmc(name: str) -> Bmc:
        made: Bmc = make("bmc", name, own.get(("bmc", name), {}))
        return made

    @functools.cache
    def switch_by_text(name: str, options: str) -> Switch:
        made: Switch = make("switch", name, own.get(("switch", name), {}) | json.loads(options))
        return made

    def switch(name: str, options: Json) -> Switch:
        return switch_by_text(name, json.dumps(options, sort_keys=True))

    return Tools(
        database=core.database,
        storage=driver("storage", settings.storage),
        export=driver("export", settings.export),
        uplink=driver("uplink", settings.uplink),
        isolation=driver("isolation", isolation),
        bmc=bmc,
        switch=switch,
        vault=core.vault,
        data_dir=server.data_dir,
        iqn_prefix=settings.export.iqn_prefix,
        portal_port=settings.export.port,
        boot_timeout_s=settings.boot.timeout_s,
        max_image_bytes=settings.image.max_size_gib << 30,
        convert_timeout_s=settings.image.convert_timeout_s,
        reserve_gib=settings.storage.reserve_gib,
        reserve_percent=settings.storage.reserve_percent,
        transfer_lifetime_s=settings.image.transfer_lifetime_s,
        url_timeout_s=settings.image.url_timeout_s,
        url_allow_http=settings.image.url_allow_http,
        url_networks=tuple(settings.image.url_networks),
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
    parts: dict[str, Callable[[], str]] = {
        "storage": tools.storage.check,
        "contents": lambda: sweep.contents(tools),
        "export": tools.export.check,
        "uplink": tools.uplink.check,
        "isolation": tools.isolation.check,
    }
    for name, ask in parts.items():
        try:
            found.append((name, ask()))
        except BmiError as error:
            found.append((name, error))
    return found


def serve(settings: Settings) -> None:
    """Runs everything in this process until SIGTERM or SIGINT: API, boot service, worker, keeper, guard and sweep.

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
    # Unique although containers share host names and process ids; 64 characters at most (store/schema).
    owner = f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(4)}"
    engine = Engine(
        core.database,
        STEPS,
        OUTCOMES,
        tools,
        owner=owner,
        threads=settings.worker.threads,
        lease_s=settings.worker.lease_s,
        patience_s=settings.worker.patience_s,
    )
    core = replace(core, kick=engine.kick)
    guard, sweeper = Guard(tools), sweep.Sweep(tools)
    keeper = Keeper(tools, owner=owner, lease_s=settings.worker.lease_s, kick=engine.kick)
    netboot = Netboot(
        BootDesk(core),
        http_port=settings.boot.http_port,
        boot_dir=settings.server.data_dir / "boot",
    )
    threads = [
        threading.Thread(target=engine.run, name="worker"),
        threading.Thread(target=keeper.run, name="keeper"),
        threading.Thread(target=guard.run, name="guard"),
        threading.Thread(target=sweeper.run, name="sweep"),
    ]
    api = uvicorn.Server(
        uvicorn.Config(
            create_app(core, uploads_dir=Path(settings.server.data_dir / "uploads")),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=settings.server.proxy,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )
    with _listening(settings.server) as listener, _signals_survived():
        for thread in threads:
            thread.start()
        netboot.start()
        try:
            log.info("API: http://%s:%d", settings.server.host, settings.server.port)
            api.run(sockets=[listener])
        finally:
            for part in (engine, keeper, guard, sweeper, netboot):
                part.stop()
            _await_end(threads)


@contextmanager
def _listening(server: ServerSettings) -> Iterator[socket.socket]:
    """The API's socket; raises ConfigError before anything has begun."""
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    try:
        listener = socket.create_server((server.host, server.port), family=family, backlog=2048)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ConfigError(
            f"The API cannot listen on {server.host} port {server.port}: {reason}.",
            remedy="End what listens there (ss -ltnp shows it), or set server.host and server.port.",
        ) from error
    with listener:
        yield listener


@contextmanager
def _signals_survived() -> Iterator[None]:
    """Uvicorn ends at SIGTERM and SIGINT, and then raises them once more: we have to give leases back first."""
    handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _await_end(threads: Sequence[threading.Thread]) -> None:
    """Waits for the threads; leaves at once, with all that still runs, when they take too long."""
    deadline = time.monotonic() + _STEPS_GRACE_S
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    late = [thread.name for thread in threads if thread.is_alive()]
    if late:
        log.warning("Still at work and broken off: %s. The next start goes on.", ", ".join(late))
        os._exit(0)
