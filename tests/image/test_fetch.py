"""Downloads from servers that break, lie and lure."""

import hashlib
import os
import random
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from bmi.errors import (
    BmiError,
    DriverError,
    ForbiddenError,
    InsufficientSpaceError,
    InvalidImageError,
    InvalidInputError,
    TimedOutError,
    TooLargeError,
)
from bmi.image.addresses import may_be_asked
from bmi.image.fetch import FetchRules, fetch
from tests.image import site as sites
from tests.image.site import Site

MIB = 1 << 20
CONTENT = random.Random(7).randbytes(5 * MIB + 123)
SUM = hashlib.sha256(CONTENT).hexdigest()
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with sites.running(tmp_path) as running:
        running.content = CONTENT
        yield running


@pytest.fixture
def rules(site: Site, monkeypatch: pytest.MonkeyPatch) -> FetchRules:
    monkeypatch.setattr("bmi.image.fetch._FIRST_PAUSE_S", 0.001)
    return FetchRules(
        max_bytes=10 * MIB,
        allowed_networks=LOOPBACK,
        ca_file=site.ca_file,
        keep_free_bytes=0,
        stall_timeout_s=5,
    )


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloaded"


def test_a_file_arrives_with_its_sum_and_progress(site: Site, rules: FetchRules, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    done = fetch(site.url(), target, rules, sha256=SUM.upper(), progress=lambda *now: seen.append(now))
    assert (done.size_bytes, done.sha256) == (len(CONTENT), SUM)
    assert target.read_bytes() == CONTENT
    assert target.stat().st_mode & 0o777 == 0o600
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_broken_connection_is_resumed_where_it_broke(site: Site, rules: FetchRules, target: Path) -> None:
    site.cuts = [2 * MIB, MIB]
    assert fetch(site.url(), target, rules).sha256 == SUM
    assert site.ranges == [None, f"bytes={2 * MIB}-", f"bytes={3 * MIB}-"]


def test_a_killed_download_is_resumed_by_the_next_call(site: Site, rules: FetchRules, target: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(there: int, _total: int | None) -> None:
        if there:
            raise Killed

    with pytest.raises(Killed):
        fetch(site.url(), target, rules, progress=kill)
    there = target.stat().st_size
    assert 0 < there < len(CONTENT)
    assert fetch(site.url(), target, rules, sha256=SUM).size_bytes == len(CONTENT)
    assert site.ranges == [None, f"bytes={there}-"]
    assert fetch(site.url(), target, rules, sha256=SUM).size_bytes == len(
        CONTENT
    )  # nothing is left to ask for
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("left_by", ["another URL", "another boot", "nobody"])
def test_what_is_not_known_to_be_a_beginning_is_not_gone_on_from(
    site: Site, rules: FetchRules, target: Path, left_by: str
) -> None:
    fetch(site.url("/other" if left_by == "another URL" else "/disk"), target, rules)
    if left_by == "another boot":
        mark = os.getxattr(target, "user.bmi.download")
        os.setxattr(target, "user.bmi.download", mark.replace(b'"boot": "', b'"boot": "x'))
    elif left_by == "nobody":
        os.removexattr(target, "user.bmi.download")
    os.truncate(target, MIB)
    assert fetch(site.url(), target, rules, sha256=SUM).sha256 == SUM
    assert site.ranges == [None, None]


def test_a_file_that_changes_meanwhile_is_begun_again(site: Site, rules: FetchRules, target: Path) -> None:
    site.cuts, site.etags = [2 * MIB], ['"one"', '"two"']
    assert fetch(site.url(), target, rules).sha256 == SUM
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["weak tag", "no ranges", "wrong range"])
def test_without_a_way_to_go_on_it_is_begun_again(
    site: Site, rules: FetchRules, target: Path, fault: str
) -> None:
    site.cuts = [2 * MIB]
    site.etags = ['W/"one"'] if fault == "weak tag" else ['"one"']
    site.has_ranges, site.wrong_range = fault != "no ranges", fault == "wrong range"
    assert fetch(site.url(), target, rules).sha256 == SUM
    assert target.read_bytes() == CONTENT


def test_a_server_that_always_breaks_off_is_given_up(site: Site, rules: FetchRules, target: Path) -> None:
    site.extra_length = 1  # promises a byte that never comes
    with pytest.raises(DriverError, match="broke off 4 times") as caught:
        fetch(site.url(), target, rules)
    assert caught.value.retryable
    assert target.exists()


def test_no_length_is_no_problem_when_the_end_is_a_proper_one(
    site: Site, rules: FetchRules, target: Path
) -> None:
    site.says_length = False
    assert fetch(site.url(), target, rules).sha256 == SUM


def test_a_cut_is_noticed_where_no_length_was_said(site: Site, rules: FetchRules, target: Path) -> None:
    site.says_length, site.cuts = False, [2 * MIB]
    assert fetch(site.url(), target, rules).sha256 == SUM
    assert len(site.ranges) == 2


def test_a_server_that_is_busy_is_asked_again(site: Site, rules: FetchRules, target: Path) -> None:
    site.statuses = [503, 429]
    assert fetch(site.url(), target, rules).sha256 == SUM


def refused(
    error: type[BmiError], match: str, url: str, target: Path, rules: FetchRules, sha256: str = ""
) -> None:
    with pytest.raises(error, match=match):
        fetch(url, target, rules, sha256=sha256)
    assert not target.exists()


def test_a_wrong_sum_leaves_nothing(site: Site, rules: FetchRules, target: Path) -> None:
    refused(InvalidImageError, "SHA-256", site.url(), target, rules, "0" * 64)


@pytest.mark.parametrize("says_length", [True, False])
def test_too_large_is_refused(site: Site, rules: FetchRules, target: Path, says_length: bool) -> None:
    site.says_length = says_length
    refused(TooLargeError, "at most", site.url(), target, replace(rules, max_bytes=MIB))


def test_no_room_is_said_before(site: Site, rules: FetchRules, target: Path) -> None:
    seen: list[int] = []
    with pytest.raises(InsufficientSpaceError):
        fetch(
            site.url(),
            target,
            replace(rules, keep_free_bytes=1 << 60),
            progress=lambda there, _total: seen.append(there),
        )
    assert not seen
    assert not target.exists()


def test_what_is_not_there_is_said(site: Site, rules: FetchRules, target: Path) -> None:
    site.statuses = [404]
    refused(
        DriverError,
        r"https://localhost/disk answered 404 \(Not Found\)",
        site.url("/disk?key=s3cret"),
        target,
        rules,
    )
    assert len(site.ranges) == 1


@pytest.mark.parametrize(
    ("first", "location", "error", "match"),
    [
        ("/loop", "/loop", DriverError, "redirects more than"),
        ("/away", "http://localhost/disk", InvalidInputError, "must begin with https"),
        ("/file", "file:///etc/passwd", InvalidInputError, "not an address|must begin"),
        ("/inside", "https://169.254.169.254/latest/meta-data", ForbiddenError, "169.254.169.254"),
        ("/user", "https://user:secret@localhost/", InvalidInputError, "user name"),
    ],
)
def test_redirects_are_checked_like_the_url(
    site: Site, rules: FetchRules, target: Path, first: str, location: str, error: type[BmiError], match: str
) -> None:
    site.redirects = {first: location}
    refused(error, match, site.url(first), target, rules)


def test_a_good_redirect_is_followed(site: Site, rules: FetchRules, target: Path) -> None:
    site.redirects = {"/a": "b", "/b": site.url("/disk", host="127.0.0.1")}
    assert fetch(site.url("/a"), target, rules).sha256 == SUM


def test_loopback_is_refused_unless_allowed(site: Site, rules: FetchRules, target: Path) -> None:
    refused(ForbiddenError, "not a public one", site.url(), target, replace(rules, allowed_networks=()))
    assert site.ranges == []


def test_the_address_asked_is_the_one_that_was_checked(
    site: Site, rules: FetchRules, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups: list[str] = []
    answers = iter(["127.0.0.1", "169.254.169.254"])

    def rebinding(host: str, port: int, *_: object, **__: object) -> list[object]:
        lookups.append(host)
        address = next(answers) if host == "localhost" else host
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert fetch(site.url(), target, rules).sha256 == SUM
    assert lookups.count("localhost") == 1


def test_an_unknown_authority_and_a_wrong_name_are_refused(
    site: Site, rules: FetchRules, target: Path, tmp_path: Path
) -> None:
    refused(DriverError, "certificate", site.url(), target, replace(rules, ca_file=None))
    (tmp_path / "other").mkdir()
    with sites.running(tmp_path / "other", host="another.example") as other:
        refused(DriverError, "certificate", other.url(), target, replace(rules, ca_file=other.ca_file))


def test_plain_http_needs_a_setting(tmp_path: Path, rules: FetchRules, target: Path) -> None:
    (tmp_path / "plain").mkdir()
    with sites.running(tmp_path / "plain", tls=False) as plain:
        plain.content = CONTENT
        url = plain.url(scheme="http")
        refused(InvalidInputError, "must begin with https", url, target, rules)
        assert fetch(url, target, replace(rules, allow_http=True)).sha256 == SUM


def test_a_silent_server_is_given_up(site: Site, rules: FetchRules, target: Path) -> None:
    site.silent_s = 0.5
    with pytest.raises(DriverError, match=r"broke off|did not end within"):
        fetch(site.url(), target, replace(rules, stall_timeout_s=0.1, timeout_s=1))


def test_a_slow_drip_is_given_up(site: Site, rules: FetchRules, target: Path) -> None:
    site.content, site.drip_s = bytes(200), 0.02
    with pytest.raises(DriverError, match=r"too slowly|did not end within"):
        fetch(site.url(), target, replace(rules, stall_timeout_s=0.3, timeout_s=2))


def test_the_whole_download_has_a_time_limit(site: Site, rules: FetchRules, target: Path) -> None:
    site.content, site.drip_s = bytes(100), 0.02
    with pytest.raises(TimedOutError):
        fetch(site.url(), target, replace(rules, timeout_s=0.3))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "disk.qcow2",
        "ftp://host/x",
        "file:///etc/passwd",
        "https://",
        "https://h:99999/",
        "https://h/a b",
        "https://h/\n",
    ],
)
def test_what_is_no_web_address_is_refused(rules: FetchRules, target: Path, url: str) -> None:
    refused(InvalidInputError, "url", url, target, rules)


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("10.1.2.3", True),  # in the allowed network
        ("::ffff:10.1.2.3", True),
        ("10.2.0.1", False),
        ("127.0.0.1", False),
        ("::1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("169.254.169.254", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("100.100.100.200", False),
        ("168.63.129.16", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
        ("224.0.0.1", False),
        ("ff0e::1", False),
        ("255.255.255.255", False),
    ],
)
def test_only_public_and_allowed_addresses_may_be_asked(address: str, may: bool) -> None:
    assert may_be_asked(address, [ip_network("10.1.0.0/16")]) is may
