"""The fake exporter's own promises: state that outlives a process, faults, logins that a test arranges."""

from pathlib import Path

import pytest

from bmi.drivers.export import Portal, fake
from bmi.errors import DriverError
from tests.drivers.export import iscsi

_PORTAL = Portal("red", iscsi.ADDRESS)


def test_its_state_is_in_its_directory(tmp_path: Path) -> None:
    fake.create(root=str(tmp_path / "world")).ensure_portal(_PORTAL, [iscsi.volume(tmp_path, 1)])
    assert fake.create(root=str(tmp_path / "world")).list(_PORTAL) == [iscsi.volume(tmp_path, 1).iqn]


def test_it_keeps_no_secret(tmp_path: Path) -> None:
    target = iscsi.volume(tmp_path, 1)
    fake.create(root=str(tmp_path / "world")).ensure_portal(_PORTAL, [target])
    assert target.chap_secret not in (tmp_path / "world" / "portals.json").read_text()


def test_it_fails_when_told_to(tmp_path: Path) -> None:
    export = fake.create()
    export.ensure_portal(_PORTAL, [])
    export.world.set_fault("ensure", error="The exporter is ill.", times=1)
    with pytest.raises(DriverError, match="ill"):
        export.ensure(_PORTAL, iscsi.volume(tmp_path, 1))
    export.ensure(_PORTAL, iscsi.volume(tmp_path, 1))
    assert export.list(_PORTAL) == [iscsi.volume(tmp_path, 1).iqn]


def test_a_login_is_seen_and_survives_another_ensure(tmp_path: Path) -> None:
    target = iscsi.volume(tmp_path, 1)
    export = fake.create()
    export.ensure_portal(_PORTAL, [target])
    export.log_in(_PORTAL, target.iqn, bytes_read=4096)
    export.ensure(_PORTAL, target)
    assert [session.initiator for session in export.sessions(_PORTAL)] == [target.initiator]
    assert export.bytes_served(_PORTAL) == {target.iqn: 4096}
