"""TFTP for firmware that cannot speak HTTP: dnsmasq, which does nothing else here."""

import subprocess
import time
from pathlib import Path

from bmi.domain.boot import Foot

# Debian's package `ipxe`: nothing but network boot programs, readable by everybody.
_ROOT = Path("/usr/lib/ipxe")
_BACK_OFF_S = 2
_STOP_S = 3
_TRANSFERS = 500

# dnsmasq has no rights but to its port from the first moment on, and ends when we do, however we end: were it
# to give up root by itself, the kernel would forget about the latter (prctl(2), PR_SET_PDEATHSIG).
_AS_NOBODY = (
    *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs"),
    *("--inh-caps=-all,+net_bind_service", "--ambient-caps=-all,+net_bind_service"),
    *("--bounding-set=-all,+net_bind_service", "--pdeathsig=TERM", "--"),
)


class TftpServer:
    """One dnsmasq in one network's namespace. It ends with the thread that called `ensure`, at the latest."""

    def __init__(self, foot: Foot) -> None:
        self._foot = foot
        self._process: subprocess.Popen[bytes] | None = None
        self._not_before = 0.0
        self._trouble = ""

    def ensure(self) -> str:
        """Starts the server when it does not run, not more often than every `_BACK_OFF_S`; returns what
        is wrong, if anything.
        """
        if self._process is not None and self._process.poll() is None:
            if time.monotonic() > self._not_before:
                self._trouble = ""
            return self._trouble
        if time.monotonic() < self._not_before:
            return self._trouble
        if self._process is not None:
            _, said = self._process.communicate()
            code = self._process.returncode
            self._trouble = f"TFTP failed ({code}): {said.decode('utf-8', 'replace').strip()}"
        self._not_before = time.monotonic() + _BACK_OFF_S
        try:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,  # a line or two, and only when it cannot start
            )
        except OSError as error:
            self._process = None
            self._trouble = f"TFTP cannot be started: {error}"
        return self._trouble

    def stop(self) -> None:
        """Ends the server."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.communicate(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._process = None

    def _command(self) -> list[str]:
        enter = ["nsenter", f"--net=/run/netns/{self._foot.netns}", "--"] if self._foot.netns else []
        return [
            *enter,
            *_AS_NOBODY,
            "dnsmasq",
            "--conf-file=/dev/null",
            "--keep-in-foreground",
            "--port=0",
            "--enable-tftp",
            f"--tftp-root={_ROOT}",
            f"--tftp-max={_TRANSFERS}",
            f"--listen-address={self._foot.address.partition('/')[0]}",
            "--bind-interfaces",
            "--pid-file=",
        ]
