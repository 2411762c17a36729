"""BMCs that speak Redfish, through sushy."""

import logging
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit

import requests
import sushy
from sushy import auth, exceptions
from sushy.connector import Connector
from sushy.resources.system.system import System
from urllib3.exceptions import ReadTimeoutError

from bmi.drivers.bmc import BmcAccess, PowerState
from bmi.drivers.bmc.in_time import InTimeAdapter
from bmi.errors import DriverError, TimedOutError

_POLL_S = 0.25

# sushy logs as errors what it also raises.
logging.getLogger("sushy").setLevel(logging.CRITICAL)


class _Session:
    """One BMC: its system as last read, and the lock that makes sushy's objects safe to share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.system: Any = None


class RedfishBmc:
    """All Redfish BMCs. Authentication is HTTP Basic (DSP0266 demands that every service offers it): unlike
    a Redfish session it leaves nothing behind in the BMC, which has few sessions to give.
    """

    def __init__(self, timeout_s: float, off_timeout_s: float, pool_size: int) -> None:
        self._timeout_s = timeout_s
        self._off_timeout_s = off_timeout_s
        self._pool_size = pool_size
        self._pool: OrderedDict[BmcAccess, _Session] = OrderedDict()
        self._pool_lock = threading.Lock()

    def power_state(self, access: BmcAccess) -> PowerState:
        with self._system(access, fresh=True) as system:
            if system.power_state is None:
                raise DriverError(f"The BMC at {_place(access)} does not say whether the node is on.")
            # A node on its way (PoweringOff, PoweringOn) has power.
            return "off" if system.power_state == sushy.PowerState.OFF else "on"

    def power_on(self, access: BmcAccess) -> None:
        self._reset(access, sushy.ResetType.ON, already="on")

    def power_off(self, access: BmcAccess) -> None:
        self._reset(access, sushy.ResetType.FORCE_OFF, already="off")
        deadline = time.monotonic() + self._off_timeout_s
        while self.power_state(access) != "off":
            if time.monotonic() > deadline:
                raise TimedOutError(
                    f"The BMC at {_place(access)} took the order to power off, but reports the node on after "
                    f"{self._off_timeout_s:g} s.",
                    remedy="Look at the node and at its BMC's event log.",
                )
            time.sleep(_POLL_S)

    def boot_network_once(self, access: BmcAccess) -> None:
        with self._system(access) as system:
            system.set_system_boot_options(
                target=sushy.BootSource.PXE, enabled=sushy.BootSourceOverrideEnabled.ONCE
            )

    def check(self, access: BmcAccess) -> str:
        with self._system(access, fresh=True) as system:
            hardware = " ".join(filter(None, (system.manufacturer, system.model, system.serial_number)))
            return f"{hardware or 'A system'} ({system.name or system.identity}) answers at {_place(access)}."

    def _reset(self, access: BmcAccess, reset: sushy.ResetType, already: PowerState) -> None:
        """Orders without looking first, which saves a round trip; a BMC that refuses because the node is in
        that state already is asked for it.
        """
        try:
            with self._system(access) as system:
                system.reset_system(reset)
        except DriverError as error:
            if error.facts.get("http_status", 0) in {0, 401, 403, 404} or self.power_state(access) != already:
                raise

    @contextmanager
    def _system(self, access: BmcAccess, *, fresh: bool = False) -> Iterator[Any]:
        """The BMC's system, for this thread alone, as last read or `fresh`; what sushy raises becomes a
        DriverError.
        """
        session = self._session(access)
        if not session.lock.acquire(timeout=self._timeout_s):
            raise TimedOutError(f"The BMC at {_place(access)} is still busy with another request.")
        try:
            if session.system is None:
                session.system = _connect(access, self._timeout_s)
            elif fresh:
                session.system.refresh(force=True)
            yield session.system
        except DriverError:
            raise
        except Exception as error:
            session.system = None
            raise _translate(error, access) from error
        finally:
            session.lock.release()

    def _session(self, access: BmcAccess) -> _Session:
        with self._pool_lock:
            session = self._pool.setdefault(access, _Session())
            self._pool.move_to_end(access)
            if len(self._pool) > self._pool_size:
                self._pool.popitem(last=False)
            return session


def _place(access: BmcAccess) -> str:
    """The BMC's host and port: an address without whatever secret somebody put into it."""
    return access.address.partition("://")[2].partition("/")[0].rpartition("@")[2]


def _connect(access: BmcAccess, timeout_s: float) -> Any:
    """Reads the system that the address names, or the only one of the service when it names none."""
    url = urlsplit(access.address)
    if url.scheme not in {"http", "https"} or not url.hostname or "@" in url.netloc:
        raise DriverError(
            "A BMC address is https://HOST or https://HOST/redfish/v1/Systems/ID, without user and password.",
            retryable=False,
            remedy="Correct the node's BMC address.",
        )
    connector = _connector(access, url, timeout_s)
    if "/Systems/" in url.path:
        return System(connector, url.path.rstrip("/"))
    login = auth.BasicAuth(access.username, access.password)
    return sushy.Sushy(f"{url.scheme}://{url.netloc}", auth=login, connector=connector).get_system()


def _connector(access: BmcAccess, url: SplitResult, timeout_s: float) -> Connector:
    """Sushy's defaults would try a refused port for half a minute and a silent one for ten."""
    verify = access.verify_tls
    if verify is True:
        verify = ssl.get_default_verify_paths().cafile or True
    connector = Connector(
        f"{url.scheme}://{url.netloc}",
        verify=verify,
        server_side_retries=1,
        default_request_timeout=timeout_s,
    )
    # BMCs are spoken to directly: no proxy and no password file of the environment.
    http = connector._session  # noqa: SLF001  # sushy has no options for this
    http.trust_env = False
    for scheme in ("http://", "https://"):
        http.mount(scheme, InTimeAdapter())
    connector.set_http_basic_auth(access.username, access.password)
    return connector


def _translate(error: Exception, access: BmcAccess) -> DriverError:
    """Sushy's error (or that of a parser that met something else than Redfish) as ours."""
    place = _place(access)
    match error:
        case exceptions.AccessError():
            return DriverError(
                f"The BMC at {place} does not accept the user name and password.",
                retryable=False,
                remedy="Correct the node's BMC credentials.",
                http_status=error.status_code,
            )
        case exceptions.ResourceNotFoundError():
            return DriverError(
                f"The BMC at {place} knows no {urlsplit(access.address).path or 'such resource'}.",
                retryable=False,
                remedy="Look up the system's path under /redfish/v1/Systems and correct the node's BMC address.",
                http_status=404,
            )
        case exceptions.HTTPError():
            return DriverError(
                f"The BMC at {place} answered {error.status_code}: {error.detail or 'no reason given'}",
                retryable=error.status_code >= 500 or error.status_code in {409, 412, 429},
                remedy="Look at the BMC's own event log.",
                http_status=error.status_code,
            )
        case exceptions.ConnectionError():
            return _unreachable(error.__context__, place)
        case exceptions.UnknownDefaultError():
            return DriverError(
                f"The BMC at {place} serves several systems, or none.",
                retryable=False,
                remedy="Name one in the node's BMC address: https://HOST/redfish/v1/Systems/ID.",
            )
    return DriverError(
        f"What answers at {place} does not speak Redfish as expected ({type(error).__name__}).",
        retryable=False,
        remedy="Check the node's BMC address; if it is right, update the BMC's firmware.",
    )


def _unreachable(cause: BaseException | None, place: str) -> DriverError:
    match cause:
        case requests.exceptions.SSLError():
            return DriverError(
                f"The certificate of the BMC at {place} cannot be verified.",
                retryable=False,
                remedy="Give the node the CA of its BMC, or switch the verification off for it.",
            )
        # requests calls it a lost connection when the time is over in the midst of an answer.
        case requests.exceptions.Timeout() | requests.exceptions.ConnectionError(args=(ReadTimeoutError(),)):
            return TimedOutError(
                f"The BMC at {place} does not answer.", remedy="Check its network and power."
            )
        case requests.exceptions.ConnectionError():
            return DriverError(
                f"The BMC at {place} cannot be reached.", remedy="Check its address and network."
            )
    return DriverError(f"The BMC at {place} broke the conversation off.")


def create(*, timeout_s: float = 5, off_timeout_s: float = 30, pool_size: int = 256) -> RedfishBmc:
    """Redfish BMCs. A BMC may take `timeout_s` to answer a request and `off_timeout_s` to turn a node off;
    what is known of the `pool_size` BMCs spoken to last is kept.
    """
    return RedfishBmc(timeout_s, off_timeout_s, pool_size)
