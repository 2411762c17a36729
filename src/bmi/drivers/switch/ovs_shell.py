"""Open vSwitch on another machine, through `ovs-vsctl` in a shell there."""

import shlex
from collections.abc import Sequence
from functools import partial
from typing import Any

from bmi.drivers.ovsdb import listed, listing
from bmi.drivers.switch import CLOSED
from bmi.drivers.switch.family import Change, Family, Script, Seen, in_shell
from bmi.drivers.switch.ovs import TABLES, columns_of, ports_of
from bmi.drivers.switch.ssh import SshSwitch, creates, options_of


def _ports(bridge: str, printed: Sequence[str]) -> dict[str, Seen]:
    found = ports_of(bridge, *listed(printed[0]))
    return {
        port: Seen(config.native, config.tagged, up=config != CLOSED) if config else Seen(plain=False)
        for port, config in found.items()
    }


def _commands(vsctl: str, changes: Sequence[Change], _unused_vlan: int) -> list[Script]:
    return [
        [f"{vsctl} {shlex.join(['set', 'Port', change.port, *columns_of(change.config)])}"]
        for change in changes
    ]


def create(
    *, bridge: str, db: str = "unix:/run/openvswitch/db.sock", sudo: bool = False, **access: Any
) -> SshSwitch:
    """The ports of `bridge`, reached as every switch over SSH is."""
    vsctl = shlex.join([*(["sudo"] if sudo else []), "ovs-vsctl", f"--db={db}", "--timeout=5"])
    family = Family(
        device_type="linux",
        show=(f"{vsctl} --format=json {shlex.join(listing(**TABLES))}",),
        parse=partial(_ports, bridge),
        commands=partial(_commands, vsctl),
        run=in_shell,
        save=None,
        ports_vanish=True,
    )
    made: SshSwitch = creates(family)(**access)
    return made


create.__signature__ = options_of(create)  # type: ignore[attr-defined]  # inspect looks there
