"""The connection to a Ceph pool: made when needed, shared among threads, made again when it is lost.

Every request has a time limit (Ceph's own default is to wait for ever), and what RADOS and RBD say is turned
into errors of ours. A call of librbd is a chain of requests: where the cluster stops in the middle of one, it
took up to five times the limit until the call came back; it always came back.
"""

import errno
import json
import os
import re
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bmi.drivers.storage import Space
from bmi.errors import ConfigError, DriverError, InsufficientSpaceError, TimedOutError

try:
    import rados
    import rbd
except ImportError as missing:
    raise ConfigError(
        f"The Python bindings of Ceph cannot be loaded: {missing}.",
        remedy="Install Debian's python3-rbd and show it to BMI's environment as script/setup does.",
    ) from missing

_GONE = "The store and the database disagree; `bmi server check` shows where."
_CAPS = (
    "The capabilities that the user needs are in docs/ceph.md; `ceph auth get client.NAME` shows what it has."
)
# A cluster without a manager says that it holds nothing and has room for nothing: nobody is to be refused.
_UNKNOWN = Space(1 << 60, 1 << 60)
_LOST = {errno.ESHUTDOWN, errno.ENOTCONN, errno.ECONNABORTED}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EPERM, errno.EACCES}


def effect(name: str) -> None:
    """Tells who listens (sys.addaudithook) that something outside is about to change, as Python does for the
    effects of its own; librbd's are invisible otherwise.
    """
    sys.audit("bmi.ceph", name)


__all__ = ["Pool", "effect", "rados", "rbd"]


def _end(held: list[tuple[int, Any, Any]]) -> None:
    """Ends the connections (process, ioctx, cluster) that this process has made."""
    while held:
        process, ioctx, cluster = held.pop()
        if process == os.getpid():
            ioctx.close()
            cluster.shutdown()


@contextmanager
def _ended_on_failure(cluster: Any) -> Iterator[None]:
    """A connection that is only half made holds descriptors and threads until it is told to end."""
    try:
        yield
    except BaseException:
        cluster.shutdown()
        raise


class Pool:
    """One pool of one cluster, as one user. Its connections end with it, and at the latest before the process takes
    librados apart, which would abort.
    """

    def __init__(
        self, conf: Path, user: str, keyring: Path | None, name: str, namespace: str, timeout_s: float
    ) -> None:
        self.user, self.name, self.namespace = user, name, namespace
        self._conf, self._keyring = conf, keyring
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process = 0
        self._cluster: Any = None
        self._ioctx: Any = None
        # With those that were lost: other threads may still be in them.
        self._held: list[tuple[int, Any, Any]] = []
        weakref.finalize(self, _end, self._held)

    @property
    def ioctx(self) -> Any:
        """The pool, connected; raises what `reported` understands."""
        with self._lock:
            if (
                self._process != os.getpid()
            ):  # a connection does not survive a fork, nor can it be ended there
                self._abandon()
            if self._ioctx is None:
                # In a thread of its own: a part of a client's address is drawn at random from a generator of the
                # thread, and one that lived before a fork draws the same in both processes.
                with ThreadPoolExecutor(1) as fresh_thread:
                    cluster = fresh_thread.submit(self._connect).result()
                with _ended_on_failure(cluster):
                    self._ioctx = cluster.open_ioctx(self.name)
                self._ioctx.set_namespace(self.namespace)
                self._cluster, self._process = cluster, os.getpid()
                self._held.append((self._process, self._ioctx, cluster))
            return self._ioctx

    def other(self, pool: str, namespace: str = "") -> Any:
        """Another pool of the same cluster, as an ioctx."""
        _ = self.ioctx
        found = self._cluster.open_ioctx(pool)
        found.set_namespace(namespace)
        return found

    @contextmanager
    def reported(self, action: str) -> Iterator[None]:
        """Turns what goes wrong inside into an error of ours, one that begins with `action`."""
        try:
            yield
        except (rados.Error, rbd.Error) as error:
            number = abs(getattr(error, "errno", None) or 0)
            if number in _LOST:
                with self._lock:
                    self._abandon()
            raise self._problem(action, number, error) from error

    def command(self, prefix: str, **arguments: Any) -> Any:
        """A command to the monitor; returns its JSON answer, or None where it has none."""
        _ = self.ioctx
        request = json.dumps({"prefix": prefix, "format": "json", **arguments})
        code, answer, said = self._cluster.mon_command(request, b"", timeout=max(1, int(self._timeout_s)))
        if code != 0:
            raise rados.OSError(said or os.strerror(-code), errno=-code)
        return json.loads(answer) if answer.strip() else None

    def address(self) -> str:
        """The address of this connection, as others see it."""
        _ = self.ioctx
        return str(self._cluster.get_addrs())

    def space(self) -> Space:
        """What the pool holds and what may still be written to it, replicas not counted."""
        for pool in self.command("df")["pools"]:
            if pool["name"] == self.name and pool["stats"]["max_avail"]:
                stored, free = pool["stats"]["stored"], pool["stats"]["max_avail"]
                return Space(stored + free, free)
        return _UNKNOWN

    def write_conf(self, path: Path, *, impatient: bool = False) -> Path:
        """Writes a configuration file that names the user's keyring, for programs that take no other hint;
        an `impatient` program gives up as we do.
        """
        lines = [f"[client.{self.user}]"]
        lines += [f"keyring = {self._keyring}"] if self._keyring else []
        lines += [f"{key} = {value}" for key, value in self._limits().items()] if impatient else []
        text = f"{self._conf.read_text(encoding='utf-8')}\n{chr(10).join(lines)}\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            fresh = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
            fresh.write_text(text, encoding="utf-8")
            fresh.rename(path)
        return path

    def close(self) -> None:
        """Ends all connections of this process; the next call makes a new one."""
        with self._lock:
            self._abandon()
            _end(self._held)

    def _limits(self) -> dict[str, str]:
        """How long a client waits, and how soon it asks where the OSDs are now.

        It hears of one change of the cluster's map after it has lost an OSD, and asks for another only where a
        request is older than `objecter_timeout` (10 s unless told, looked at every `objecter_tick_interval`). Where
        each is given up before, an OSD that comes back at another address is never found (osdc/Objecter.cc, `tick`).
        """
        limits = dict.fromkeys(
            ("client_mount_timeout", "rados_mon_op_timeout", "rados_osd_op_timeout"), self._timeout_s
        )
        limits |= {"objecter_timeout": self._timeout_s / 4, "objecter_tick_interval": self._timeout_s / 4}
        return {option: f"{seconds:g}" for option, seconds in limits.items()}

    def _connect(self) -> Any:
        options = self._limits() | ({"keyring": str(self._keyring)} if self._keyring else {})
        # Children of format 2 let go of their parent: what has children can be deleted.
        options |= {"rbd_default_clone_format": "2", "log_to_stderr": "false", "err_to_stderr": "false"}
        try:
            cluster = rados.Rados(conffile=str(self._conf), name=f"client.{self.user}", conf=options)
        except rados.Error as error:
            raise DriverError(
                f"The Ceph configuration {self._conf} cannot be read: {error}.",
                retryable=False,
                remedy="Name a readable file as `conf` in [storage] options.",
            ) from error
        with _ended_on_failure(cluster):
            cluster.connect()
        return cluster

    def _abandon(self) -> None:
        self._ioctx = self._cluster = None

    def _problem(self, action: str, number: int, error: Exception) -> Exception:
        detail = f"{action} failed: "
        if number == errno.ETIMEDOUT:
            if self._is_full():
                number = errno.ENOSPC
            else:
                return TimedOutError(
                    f"{detail}Ceph did not answer within {self._timeout_s:g} s.",
                    remedy="`ceph -s` says what is wrong with the cluster; when it is back, this goes on.",
                )
        if number in _FULL:
            return InsufficientSpaceError(
                f"{detail}the pool {self.name} is full, or its quota is used up.",
                remedy="Delete volumes, snapshots or images that nobody needs, raise the quota, or add disks.",
            )
        if number in _FORBIDDEN:
            return DriverError(
                f"{detail}Ceph does not permit it to client.{self.user} (a wrong key, or capabilities that "
                "do not suffice).",
                retryable=False,
                remedy=_CAPS,
            )
        if number == errno.ENOENT:
            return DriverError(f"{detail}{_plain(error)}.", retryable=False, remedy=_GONE)
        if number in _LOST:
            return DriverError(
                f"{detail}the cluster has shut this connection out.",
                remedy="The next attempt makes a new one. Does another BMI use the same prefix?",
            )
        return DriverError(
            f"{detail}{_plain(error)}.",
            retryable=number in {errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ENOTEMPTY, errno.EIO},
            remedy="`ceph -s` and `rbd status` may say more.",
        )

    def _is_full(self) -> bool:
        """Whether writes wait for room: a full pool does not refuse them, it lets them hang."""
        try:
            pools = self.command("osd dump")["pools"]
        except (rados.Error, rbd.Error, DriverError):
            return False
        return any(
            "full" in pool["flags_names"].split(",") for pool in pools if pool["pool_name"] == self.name
        )


def _plain(error: Exception) -> str:
    """Without what the bindings add around it."""
    return re.sub(r"^\[errno \d+\] ", "", str(error)).replace("b'", "'")
