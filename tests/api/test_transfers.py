"""Files in pieces and with ranges: resumable uploads (tus 1.0.0) and downloads of images."""

import base64
import hashlib
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from bmi.api.app import create_app
from bmi.store import records
from tests.api.conftest import Caller
from tests.asgi import AsgiTransport, running_loop
from tests.installation import Site
from tests.live import serving

DATA = os.urandom(3 << 20)
SHA256 = hashlib.sha256(DATA).hexdigest()
PIECE = {"Content-Type": "application/offset+octet-stream"}


def begin(caller: Caller, size: int = len(DATA), **query: str) -> str:
    name = base64.b64encode(b"dir/disk.raw").decode()
    headers = {"Upload-Length": str(size), "Upload-Metadata": f"filename {name}", "Tus-Resumable": "1.0.0"}
    response = caller("POST", "/uploads", params=query, headers=headers)
    assert response.status_code == 201, response.text
    assert response.headers["location"] == f"/v1/uploads/{response.json()['id']}"
    assert response.headers["tus-resumable"] == "1.0.0"
    return f"/uploads/{response.json()['id']}"


def send(caller: Caller, where: str, offset: int, data: bytes, **headers: str) -> Any:
    told = PIECE | {"Upload-Offset": str(offset)} | headers
    return caller("PATCH", where, content=data, headers=told)


def offset_of(caller: Caller, where: str) -> int:
    response = caller("HEAD", where)
    assert response.status_code == 200
    assert response.headers["upload-length"] == str(caller.get(where)["size_bytes"])
    return int(response.headers["upload-offset"])


def left_in(site: Site) -> list[str]:
    return [path.name for path in site.uploads.iterdir()]


# ---- uploads ----------------------------------------------------------------------------------------


def test_a_file_comes_in_pieces_and_becomes_an_image(site: Site, red: Caller, tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
    data = disk.read_bytes()
    where = begin(red, len(data), sha256=hashlib.sha256(data).hexdigest())
    for start in range(0, len(data), 100_000):
        assert offset_of(red, where) == start
        response = send(red, where, start, data[start : start + 100_000])
        assert (response.status_code, response.content) == (204, b"")
    shown = red.get(where)
    assert (shown["offset"], shown["file_name"]) == (len(data), "disk.raw")
    assert shown["sha256"] == hashlib.sha256(data).hexdigest()
    body = {"name": "mine", "source": {"upload": shown["id"]}, "description": "Ours.", "labels": {"a": "b"}}
    operation = red.post("/imports", body)
    red.refused(404, "GET", where)
    red.refused(422, "POST", "/imports", body)
    site.settle()
    assert red.get(f"/operations/{operation['id']}")["state"] == "succeeded"
    image = red.get("/images/mine")
    assert (image["state"], image["format"], image["version"]) == ("ready", "qcow2", 1)
    assert (image["description"], image["labels"]) == ("Ours.", {"a": "b"})
    assert image["origin"] == {"kind": "file", "name": "disk.raw"}
    assert (image["sha256"], image["created_by"]) == (hashlib.sha256(data).hexdigest(), "red-token")
    assert left_in(site) == []


def test_the_server_says_what_it_speaks(nobody: Caller) -> None:
    response = nobody("OPTIONS", "/uploads")
    assert response.headers["tus-version"] == "1.0.0"
    assert response.headers["tus-extension"] == "creation,expiration,termination"
    assert response.headers["tus-max-size"] == str(1 << 30)


def test_an_upload_goes_on_after_a_restart_of_the_server(site: Site, red: Caller) -> None:
    where = begin(red, sha256=SHA256)
    assert send(red, where, 0, DATA[:1000]).status_code == 204
    with running_loop() as loop:
        restarted = AsgiTransport(create_app(site.core, uploads_dir=site.uploads), loop)
        again = Caller(site, restarted, None)
        again._http.headers.update(red._http.headers)
        assert offset_of(again, where) == 1000
        assert send(again, where, 1000, DATA[1000:]).status_code == 204
        assert again.get(where)["sha256"] == SHA256


def test_a_server_that_stopped_right_before_the_end_is_asked_once_more(site: Site, red: Caller) -> None:
    where = begin(red)
    (site.uploads / where.rpartition("/")[2]).write_bytes(DATA)
    red.refused(409, "POST", "/imports", {"name": "mine", "source": {"upload": where.rpartition("/")[2]}})
    assert send(red, where, len(DATA), b"").status_code == 204
    assert red.get(where)["sha256"] == SHA256


def test_an_upload_belongs_to_its_token(
    site: Site, transport: AsgiTransport, red: Caller, admin: Caller
) -> None:
    where = begin(red)
    colleague = Caller(site, transport, site.token("red-too", "red"))
    for other in (colleague, admin):
        other.refused(404, "GET", where)
        other.refused(404, "DELETE", where)
        other.refused(404, "PATCH", where, content=b"x", headers=PIECE | {"Upload-Offset": "0"})
        other.refused(
            422, "POST", "/imports", {"name": "mine", "source": {"upload": where.rpartition("/")[2]}}
        )


def test_an_upload_expires(site: Site, red: Caller) -> None:
    where = begin(red)
    assert send(red, where, 0, DATA[:1000]).status_code == 204
    with site.database.write() as tx:
        records.uploads.update(tx, values={"expires_at": 1.0})
    red.refused(404, "GET", where)
    red.refused(404, "PATCH", where, content=b"x", headers=PIECE | {"Upload-Offset": "1000"})


def test_an_upload_is_given_up(site: Site, red: Caller) -> None:
    where = begin(red)
    send(red, where, 0, DATA[:1000])
    red.delete(where)
    red.refused(404, "GET", where)
    assert left_in(site) == []


def test_what_does_not_fit_is_refused(site: Site, red: Caller) -> None:
    where = begin(red)
    send(red, where, 0, DATA[:1000])
    before = site.uploads / where.rpartition("/")[2]
    wrong = send(red, where, 999, DATA[999:])
    assert (wrong.status_code, wrong.json()["offset"]) == (409, 1000)
    assert send(red, where, 1000, DATA).status_code == 413
    assert send(red, where, 1000, b"x", **{"Content-Type": "text/plain"}).status_code == 415
    assert send(red, where, 1000, b"x", **{"Tus-Resumable": "0.2.2"}).status_code == 412
    red.refused(422, "PATCH", where, content=b"x", headers=PIECE)
    assert before.stat().st_size >= 1000
    length = {"Upload-Length": "1"}
    red.refused(422, "POST", "/uploads")
    red.refused(422, "POST", "/uploads", headers={"Upload-Length": "0"})
    red.refused(413, "POST", "/uploads", headers={"Upload-Length": str(2 << 30)})
    red.refused(422, "POST", "/uploads", headers=length | {"Upload-Metadata": "filename ?"})
    red.refused(412, "POST", "/uploads", headers=length | {"Tus-Resumable": "2.0.0"})
    red.refused(422, "POST", "/uploads?sha256=abc", headers=length)
    red.refused(422, "POST", "/uploads?name=A", headers=length)
    red.refused(403, "POST", "/uploads?name=new&project=blue", headers=length)


def test_a_file_with_another_checksum_is_refused_and_forgotten(site: Site, red: Caller) -> None:
    where = begin(red, sha256="0" * 64)
    response = send(red, where, 0, DATA)
    assert (response.status_code, response.json()["field"]) == (422, "sha256")
    assert SHA256 in response.json()["detail"]
    red.refused(404, "GET", where)
    assert left_in(site) == []
    assert red.refused(422, "POST", "/images?name=mine&sha256=" + "0" * 64, content=DATA)["field"] == "sha256"
    assert left_in(site) == []
    red.post(f"/images?name=mine&filename=a.raw&sha256={SHA256.upper()}", content=DATA)


def until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_came_before_the_connection_broke_stays(site: Site, app: FastAPI) -> None:
    token = site.token("breaking", "red")
    headers = {"Authorization": f"Bearer {token}", "Upload-Length": str(len(DATA))}
    with serving(app) as url:
        host, port = url.removeprefix("http://").split(":")
        upload = httpx.post(f"{url}/v1/uploads", headers=headers).json()["id"]
        file = site.uploads / upload
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                f"PATCH /v1/uploads/{upload} HTTP/1.1\r\nHost: bmi\r\nAuthorization: Bearer {token}\r\n"
                f"Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\n"
                f"Content-Length: {len(DATA)}\r\n\r\n".encode()
                + DATA[:1_500_000]
            )
            until(lambda: file.exists() and file.stat().st_size >= 1 << 20)

            def go_on(have: int) -> httpx.Response:
                again = headers | PIECE | {"Upload-Offset": str(have)}
                return httpx.patch(f"{url}/v1/uploads/{upload}", headers=again, content=DATA[have:])

            # A newer request goes on although the server still waits for the old one. That one writes what it has
            # in hand as it ends: the first answer may be that there is more by now.
            have = file.stat().st_size
            rest = go_on(have)
            if rest.status_code == 409:
                assert have < rest.json()["offset"] <= 1_500_000
                rest = go_on(rest.json()["offset"])
            assert rest.status_code == 204, rest.text
            shown = httpx.get(f"{url}/v1/uploads/{upload}", headers=headers).json()
    assert (shown["offset"], shown["sha256"]) == (len(DATA), SHA256)
    assert file.read_bytes() == DATA


# ---- downloads --------------------------------------------------------------------------------------


def store(site: Site, name: str, data: bytes) -> str:
    """The image's bytes, as if it had been imported with them."""
    image_id = site.add_image(name, "red")
    storage = site.fakes["storage"]
    file = storage._file(next(found.ref for found in storage.list() if found.ref.id == image_id))
    file.write_bytes(data)
    return image_id


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_an_image_is_downloaded_whole_and_in_ranges(
    site: Site, red: Caller, tmp_path: Path, image_format: str
) -> None:
    disk = bytes(1 << 20) + DATA + bytes(4 << 20)
    store(site, "mine", disk)
    content = f"/images/mine/content?format={image_format}"
    assert "downloads" in red.refused(409, "GET", content)["remedy"]
    operation = red.post("/images/mine/downloads", {"format": image_format})
    assert operation["args"]["image"] == "mine@1"
    site.settle()
    assert red.get(f"/operations/{operation['id']}")["state"] == "succeeded"
    response = red("GET", content)
    assert response.status_code == 200
    file = tmp_path / "file"
    file.write_bytes(response.content)
    digest = base64.b64encode(hashlib.sha256(response.content).digest()).decode()
    assert response.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert response.headers["etag"] == f'"{hashlib.sha256(response.content).hexdigest()}"'
    assert f"mine-1.{image_format}" in response.headers["content-disposition"]
    part = red("GET", content, headers={"Range": "bytes=1000-1999", "If-Range": response.headers["etag"]})
    assert (part.status_code, part.content) == (206, response.content[1000:2000])
    assert part.headers["repr-digest"] == response.headers["repr-digest"]
    changed = red("GET", content, headers={"Range": "bytes=1000-1999", "If-Range": '"other"'})
    assert changed.status_code == 200
    head = red("HEAD", content)
    assert int(head.headers["content-length"]) == len(response.content)
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-f", image_format, "-O", "raw", file, raw], check=True)
    assert raw.read_bytes() == disk


def test_who_may_download(site: Site, red: Caller, blue: Caller, admin: Caller) -> None:
    store(site, "mine", bytes(4096))
    blue.refused(404, "POST", "/images/mine/downloads", {})
    red.refused(422, "POST", "/images/mine/downloads", {"format": "vmdk"})
    red.refused(422, "GET", "/images/mine/content?format=vmdk")
    red("PUT", "/images/mine/shares/blue")
    blue.post("/images/mine/downloads", {"format": "raw"})
    admin.post("/images/mine/downloads", {"format": "raw"})
    site.settle()
    assert blue("GET", "/images/mine/content?format=raw").content == bytes(4096)
    red("DELETE", "/images/mine/shares/blue")
    blue.refused(404, "GET", "/images/mine/content?format=raw")
    red.delete("/images/mine")
    site.settle()
    assert list((site.directory / "downloads").iterdir()) == []


def test_there_must_be_room_for_a_download(site: Site, red: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    store(site, "mine", DATA)
    monkeypatch.setattr(
        "bmi.workflow.steps.promote.shutil.disk_usage", lambda _path: type("Usage", (), {"free": 1 << 30})
    )
    operation = red.post("/images/mine/downloads", {})
    site.settle()
    ended = red.get(f"/operations/{operation['id']}")
    assert (ended["state"], ended["problem"]["type"]) == ("failed", "urn:bmi:problem:insufficient-space")


# ---- images over HTTP -------------------------------------------------------------------------------


def test_images_over_http(site: Site, admin: Caller, red: Caller, blue: Caller) -> None:
    site.add_image("os", "red")
    site.add_image("os", "red")
    changed = red("PATCH", "/images/os", {"description": "Ours.", "labels": {"a": "b"}, "protected": True})
    assert (changed.json()["version"], changed.json()["description"]) == (2, "Ours.")
    assert [i["version"] for i in red.get("/images", label=["a=b"])["items"]] == [2]
    assert [i["version"] for i in red.get("/images", name="os", all_versions="true")["items"]] == [1, 2]
    red.refused(422, "GET", "/images?label=a")
    red.refused(409, "DELETE", "/images/os?all_versions=true")
    shared = red("PUT", "/images/os/shares/blue").json()
    assert shared["shared_with"] == ["blue"]
    seen = blue.get("/images/os")
    assert (seen["shared_with"], seen["origin"], seen["created_by"]) == ([], None, None)
    copied = blue.post("/imports", {"name": "copy", "source": {"image": "os@1"}})
    site.settle()
    assert blue.get(f"/operations/{copied['id']}")["kind"] == "promote-image"
    assert blue.get("/images/copy")["origin"] == {"kind": "image", "name": "os@1", "depends": True}
    assert red.refused(409, "DELETE", "/images/os@1")["users"] == ["1 of other projects"]
    blue.post("/images/copy/flatten")
    site.settle()
    red.delete("/images/os@1")
    site.settle()
    red("DELETE", "/images/os/shares/blue")
    blue.refused(404, "GET", "/images/os")
    assert red("PATCH", "/images/os", {"name": "linux"}).json()["name"] == "linux"
    assert admin("POST", "/images/linux/move", {"to": "blue"}).json()["project"] == "blue"
    admin.refused(422, "POST", "/imports", {"name": "x", "source": {"image": "a", "colour": "b"}})
    published = admin.post("/images/linux/publish", {"location": "pool/linux"})
    site.settle()
    assert admin.get(f"/operations/{published['id']}")["state"] == "succeeded"
