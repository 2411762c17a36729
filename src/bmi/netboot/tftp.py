"""TFTP for firmware that cannot speak HTTP: dnsmasq, which does nothing else here."""

import ctypes
import logging
import signal
import subprocess
import time
from pathlib import Path

from bmi.domain.boot import Foot

log = logging.getLogger(__name__)

# Debian's package `ipxe`: nothing but network boot programs, readable by everybody.
_ROOT = Path("/usr/lib/ipxe")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None)
_BACK_OFF_S = 5


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class TftpServer:
    """One dnsmasq in one network's namespace; it ends when its parent does."""

    def __init__(self, foot: Foot) -> None:
        self._foot = foot
        self._process: subprocess.Popen[bytes] | None = None
        self._not_before = 0.0

    def ensure(self) -> None:
        """Starts the server when it does not run; one that keeps dying is not restarted all the time."""
        if self._process is not None and self._process.poll() is None:
            return
        if time.monotonic() < self._not_before:
            return
        if self._process is not None:
            log.warning(
                "The TFTP server of namespace %s died (%s)", self._foot.netns, self._process.returncode
            )
        self._not_before = time.monotonic() + _BACK_OFF_S
        enter = ["nsenter", f"--net=/run/netns/{self._foot.netns}", "--"] if self._foot.netns else []
        self._process = subprocess.Popen(
            [
                *enter,
                "dnsmasq",
                "--conf-file=/dev/null",
                "--keep-in-foreground",
                "--port=0",
                "--enable-tftp",
                f"--tftp-root={_ROOT}",
                f"--listen-address={self._foot.address.partition('/')[0]}",
                "--bind-interfaces",
                "--user=nobody",
                "--group=nogroup",
                "--pid-file=",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,  # noqa: PLW1509  # it calls one system call and nothing of Python's
        )

    def stop(self) -> None:
        """Ends the server."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
