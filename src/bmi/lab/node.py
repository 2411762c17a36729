"""A virtual bare-metal node: one QEMU process that is there exactly while the node has power."""

import json
import threading
from pathlib import Path
from typing import Literal

from bmi import process
from bmi.lab import processes, qmp
from bmi.lab.spec import NodeSpec

BootDevice = Literal["Pxe", "Hdd"]
BootDuration = Literal["Once", "Continuous"]

_START_TIMEOUT_S = 20


class Machine:
    """One node's power and boot order, as its BMC commands them.

    QEMU is a daemon of its own: it lives on when the BMC dies, as hardware does, and the next BMC finds it
    by its process id file.
    """

    def __init__(self, node: NodeSpec, netns: str) -> None:
        self.node = node
        self._netns = netns
        self._lock = threading.RLock()
        self._starts = 0
        if self.is_on:
            self._watch()

    @property
    def is_on(self) -> bool:
        return self._pid() is not None

    def power_on(self) -> None:
        with self._lock:
            if not self.is_on:
                self._start()

    def power_off(self) -> None:
        """Takes the power away. What the OS has not written is lost, what it has is on the disk."""
        with self._lock:
            if pid := self._pid():
                processes.end(pid, str(self.node.directory))

    def power_cycle(self) -> None:
        with self._lock:
            self.power_off()
            self._start()

    def press_power_button(self) -> None:
        """Asks the OS to shut down (ACPI)."""
        with self._lock:
            if self.is_on:
                qmp.execute(self.node.directory / "control.sock", "system_powerdown")

    @property
    def override(self) -> tuple[BootDevice, BootDuration] | None:
        """The boot device that the next boot (or each one) takes instead of the usual."""
        try:
            device, duration = json.loads(self._override_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return device, duration

    @override.setter
    def override(self, value: tuple[BootDevice, BootDuration] | None) -> None:
        with self._lock:
            if value is None:
                self._override_file.unlink(missing_ok=True)
            else:
                self._override_file.write_text(json.dumps(value), encoding="utf-8")

    @property
    def _override_file(self) -> Path:
        return self.node.directory / "override.json"

    def _pid(self) -> int | None:
        return processes.running(self.node.directory / "qemu.pid", str(self.node.directory))

    def _start(self) -> None:
        override = self.override
        usual: BootDevice = "Hdd" if self.node.disk_gib else "Pxe"
        process.run(
            _command(self.node, first=override[0] if override else usual),
            netns=self._netns,
            timeout_s=_START_TIMEOUT_S,
        )
        if override and override[1] == "Once":
            self.override = None
        self._watch()

    def _watch(self) -> None:
        self._starts += 1
        threading.Thread(target=self._await_end, args=(self._starts,), daemon=True).start()

    def _await_end(self, start: int) -> None:
        """Follows this run of QEMU to its end, and starts it again when it was the node that rebooted: QEMU
        ends at a reboot so that the BMC decides, as it does in hardware, what is booted next.
        """
        reason = ""
        try:
            for event in qmp.events(self.node.directory / "events.sock"):
                if event["event"] == "SHUTDOWN":
                    reason = event["data"]["reason"]
        except OSError:
            pass  # it was killed, which is an end like any other
        with self._lock:
            if reason == "guest-reset" and start == self._starts:
                self.power_off()  # it is on its way out; this waits
                self._start()


def _command(node: NodeSpec, first: BootDevice) -> list[str | Path]:
    """QEMU for this node, trying `first` before the other boot device.

    TCG and the plainest CPU run the same on every machine, nested or not. With `graphics=off` the BIOS and
    iPXE speak on the serial console too. A BIOS that finds nothing to boot starts over after 5 s.
    """
    at = node.directory
    console = f"socket,id=console,path={at}/console.sock,server=on,wait=off,logfile={node.console_path},logappend=on"
    command: list[str | Path] = [
        "qemu-system-x86_64",
        *("-name", f"bmi-lab-{node.name}", "-uuid", node.uuid),
        *("-machine", "q35,accel=tcg,graphics=off", "-cpu", "qemu64"),
        *("-smp", str(node.cpus), "-m", str(node.memory_mib)),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-daemonize", "-pidfile", at / "qemu.pid"),
        *("-action", "reboot=shutdown", "-boot", "menu=off,reboot-timeout=5000"),
        *("-chardev", console, "-serial", "chardev:console"),
        *("-qmp", f"unix:{at}/control.sock,server=on,wait=off"),
        *("-qmp", f"unix:{at}/events.sock,server=on,wait=off"),
        # vnet_hdr=off: the userspace switch does not complete checksums that were left to the hardware.
        *("-netdev", f"tap,id=net0,ifname={node.switch_port},script=no,downscript=no,vnet_hdr=off"),
        *("-device", f"virtio-net-pci,netdev=net0,mac={node.mac},bootindex={1 if first == 'Pxe' else 2}"),
        *("-device", "virtio-rng-pci"),
    ]  # fmt: skip
    if node.disk_gib:
        command += [
            *("-drive", f"if=none,id=disk0,file={node.disk_path},format=raw,discard=unmap"),
            *("-device", f"virtio-blk-pci,drive=disk0,bootindex={1 if first == 'Hdd' else 2}"),
        ]
    return command
