"""Image files over HTTP: whole or not at all."""

import errno
import hashlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import FastAPI

from tests.api.conftest import Caller
from tests.installation import Site
from tests.live import serving

RAW = os.urandom(3 << 20)


def left_in(site: Site) -> list[str]:
    return [path.name for path in site.uploads.iterdir()]


def test_an_image_is_taken_in(site: Site, red: Caller, tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
    operation = red.post("/images?name=mine", content=disk.read_bytes())
    assert (operation["kind"], operation["subject_name"]) == ("import-image", "mine")
    shown = red.get("/images/mine")
    assert shown["state"] == "creating"
    assert shown["sha256"] == hashlib.sha256(disk.read_bytes()).hexdigest()
    [name] = left_in(site)
    assert (site.uploads / name).read_bytes() == disk.read_bytes()
    assert (site.uploads / name).stat().st_mode & 0o777 == 0o600
    site.settle()
    shown = red.get("/images/mine")
    assert (shown["state"], shown["format"], shown["size_bytes"]) == ("ready", "qcow2", 16 << 20)
    assert not shown["public"]
    assert left_in(site) == []


def _qcow2(path: Path, *more: str) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "16M", *more], check=True)


def _no_image(disk: Path) -> None:
    disk.write_text("this is no image\n")


def _truncated(disk: Path) -> None:
    _qcow2(disk)
    os.truncate(disk, 1000)


def _with_backing_file(disk: Path) -> None:
    base = disk.with_name("base")
    _qcow2(base)
    _qcow2(disk, "-b", str(base), "-F", "qcow2")


@pytest.mark.parametrize("make", [_no_image, _truncated, _with_backing_file])
def test_a_file_that_must_not_be_taken_in_fails_and_leaves_nothing(
    site: Site, red: Caller, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    disk = tmp_path / "disk"
    make(disk)
    operation = red.post("/images?name=bad", content=disk.read_bytes())
    site.settle()
    ended = red.get(f"/operations/{operation['id']}")
    assert (ended["state"], ended["problem"]["type"]) == ("failed", "urn:bmi:problem:invalid-image")
    assert ended["problem"]["remedy"]
    red.refused(404, "GET", "/images/bad")
    assert left_in(site) == []


def test_a_bad_request_is_refused_before_a_byte_is_kept(site: Site, red: Caller, admin: Caller) -> None:
    red.refused(403, "POST", "/images?name=mine&public=true", content=RAW)
    red.refused(422, "POST", "/images?name=../mine", content=RAW)
    red.refused(422, "POST", "/images", content=RAW)
    red.refused(422, "POST", "/images?name=new", content=b"")
    red.refused(422, "POST", "/images?name=new", {"file": "x"})
    red.refused(403, "POST", "/images?name=new&project=blue", content=RAW)
    admin.refused(404, "POST", "/images?name=new&project=green", content=RAW)
    assert left_in(site) == []


def test_a_file_that_is_too_large_is_refused_by_its_announcement(site: Site, red: Caller) -> None:
    problem = red.refused(
        413, "POST", "/images?name=new", content=b"", headers={"Content-Length": str(2 << 30)}
    )
    assert "image.max_size_gib" in problem["remedy"]


def test_a_disk_that_is_too_full_is_noticed_by_the_announcement(
    red: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1))
    assert red.refused(507, "POST", "/images?name=new", content=RAW)["type"].endswith("insufficient-space")


def test_a_disk_that_becomes_full_leaves_nothing(
    site: Site, red: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bmi.api.uploads.os.write", full)
    red.refused(507, "POST", "/images?name=new", content=RAW)
    assert left_in(site) == []


def test_a_repeated_upload_gets_the_first_ones_operation(site: Site, red: Caller) -> None:
    key = {"Idempotency-Key": "upload-1"}
    first = red.post("/images?name=mine", content=RAW, headers=key)
    assert red.post("/images?name=mine", content=RAW, headers=key)["id"] == first["id"]
    assert len(left_in(site)) == 1


def test_an_upload_that_breaks_off_leaves_nothing(site: Site, app: FastAPI) -> None:
    token = site.token("breaking", "red")
    before = site.everything()
    with serving(app) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                f"POST /v1/images?name=new HTTP/1.1\r\nHost: bmi\r\nAuthorization: Bearer {token}\r\n"
                f"Content-Length: {len(RAW)}\r\n\r\n".encode()
                + RAW[: 2 << 20]
            )
    # The server has ended, and with it everything that it was doing.
    assert left_in(site) == []
    assert site.everything() == before
