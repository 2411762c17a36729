"""Records with plausible values; a test names only those that it is about."""

from dataclasses import replace
from typing import Any

from bmi.domain.nouns import (
    BootSession,
    Image,
    Network,
    Nic,
    Node,
    NodeState,
    ObjectState,
    Project,
    Role,
    Snapshot,
    Switch,
    Token,
    Volume,
)

NOW = 1_700_000_000.0

_PROJECT = Project(id="project-1", name="physics", created_at=NOW)
_TOKEN = Token(
    id="token-1",
    name="laptop",
    project_id=_PROJECT.id,
    role=Role.MEMBER,
    secret_hash="0" * 64,
    created_at=NOW,
    expires_at=None,
)
_NETWORK = Network(
    id="network-1",
    name="physics",
    project_id=_PROJECT.id,
    vlan=100,
    address="10.96.0.1/24",
    netns="bmi-100",
    state=ObjectState.READY,
    created_at=NOW,
)
_SWITCH = Switch(id="switch-1", name="tor", driver="fake", options={}, created_at=NOW)
_NODE = Node(
    id="node-1",
    name="n1",
    state=NodeState.FREE,
    project_id=None,
    bmc_driver="fake",
    bmc_address="https://bmc-1.example/redfish/v1/Systems/1",
    bmc_username="",
    bmc_password="",
    bmc_verify_tls=True,
    problem=None,
    created_at=NOW,
)
_NIC = Nic(
    id="nic-1", node_id=_NODE.id, name="boot", mac="52:54:00:00:00:01", switch_id=_SWITCH.id, port="eth1"
)
_IMAGE = Image(
    id="image-1",
    name="debian-12",
    project_id=_PROJECT.id,
    public=False,
    state=ObjectState.READY,
    format="raw",
    size_bytes=4096,
    sha256=None,
    boot={},
    created_at=NOW,
)
_VOLUME = Volume(
    id="volume-1",
    name="n1",
    project_id=_PROJECT.id,
    node_id=_NODE.id,
    network_id=_NETWORK.id,
    image_id=_IMAGE.id,
    snapshot_id=None,
    state=ObjectState.CREATING,
    size_bytes=4096,
    exported=False,
    chap_secret="",
    seed={},
    created_at=NOW,
)
_SNAPSHOT = Snapshot(
    id="snapshot-1",
    name="tuned",
    project_id=_PROJECT.id,
    volume_id="volume-0",
    node_name="n1",
    image_id=_IMAGE.id,
    state=ObjectState.READY,
    size_bytes=4096,
    created_at=NOW,
)
_BOOT = BootSession(id="boot-1", node_id=_NODE.id, created_at=NOW, expires_at=NOW + 900, ended_at=None)


def project(**other: Any) -> Project:
    return replace(_PROJECT, **other)


def token(**other: Any) -> Token:
    return replace(_TOKEN, **other)


def network(**other: Any) -> Network:
    return replace(_NETWORK, **other)


def switch(**other: Any) -> Switch:
    return replace(_SWITCH, **other)


def node(**other: Any) -> Node:
    return replace(_NODE, **other)


def nic(**other: Any) -> Nic:
    return replace(_NIC, **other)


def image(**other: Any) -> Image:
    return replace(_IMAGE, **other)


def volume(**other: Any) -> Volume:
    return replace(_VOLUME, **other)


def snapshot(**other: Any) -> Snapshot:
    return replace(_SNAPSHOT, **other)


def boot_session(**other: Any) -> BootSession:
    return replace(_BOOT, **other)
