"""bmi login and what belongs to it, against a real server."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from bmi.api.app import create_app
from bmi.cli.login import _Loopback
from bmi.cli.main import main
from bmi.config import OidcSettings
from bmi.errors import UnauthenticatedError
from tests.cli.conftest import Shell
from tests.installation import Site
from tests.live import serving
from tests.provider import let_in, openid_provider

PASSWORD = "correct horse battery"


@pytest.fixture
def alice(bmi: Shell) -> Shell:
    """A member of red who has not logged in."""
    bmi("user", "create", "alice")
    typed(bmi, PASSWORD, "user", "password", "alice")
    bmi("project", "member", "set", "red", "alice")
    return Shell(bmi.url, "")


def typed(bmi: Shell, text: str, *words: str, exits: int = 0) -> str:
    """What a command says to whom types this."""
    result = CliRunner(env={"BMI_URL": bmi.url, "BMI_TOKEN": bmi.token}).invoke(
        main, list(words), input=f"{text}\n"
    )
    assert result.exit_code == exits, (result.output, result.exception)
    assert text not in result.output
    return result.output


def test_a_login_lasts_from_one_command_to_the_next(bmi: Shell, alice: Shell, home: Path) -> None:
    alice("whoami", exits=5)
    said = typed(alice, PASSWORD, "login", "--user", "alice")
    assert "Logged in as alice (project red, as member)" in said
    kept = home / "bmi" / "logins.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    secret = json.loads(kept.read_text())[bmi.url]
    assert secret not in said
    assert alice.json("whoami")["user"] == "alice"
    # BMI_TOKEN comes first, and another server is not shown this one's token.
    assert bmi.json("whoami")["role"] == "admin"
    Shell(bmi.url.replace("127.0.0.1", "localhost"), "")("whoami", exits=5)
    token = alice("token", "create", "ci", "--reader").stdout.strip()
    assert bmi.json("whoami", BMI_TOKEN=token)["role"] == "reader"
    assert [known["name"] for known in alice.json("token", "list") if not known["session"]] == ["ci"]
    alice("logout")
    assert bmi.url not in json.loads(kept.read_text())
    bmi("whoami", exits=5, BMI_TOKEN=secret)
    alice("logout", exits=5)


def test_a_wrong_password_and_a_project_that_is_not_ones_own(bmi: Shell, alice: Shell) -> None:
    assert "wrong" in typed(alice, "guess", "login", "--user", "alice", exits=5)
    typed(alice, PASSWORD, "login", "--user", "alice", "--project", "blue", exits=5)
    alice("whoami", exits=5)


def test_a_person_changes_their_password(bmi: Shell, alice: Shell) -> None:
    typed(alice, PASSWORD, "login", "--user", "alice")
    typed(alice, f"{PASSWORD}\n{PASSWORD}!", "password")
    typed(alice, f"{PASSWORD}!", "login", "--user", "alice")


def test_administrators_look_after_people(bmi: Shell, alice: Shell) -> None:
    assert bmi.json("user", "show", "alice")["projects"] == {"red": "member"}
    assert "red (member)" in bmi("user", "list").stdout
    bmi("project", "member", "set", "blue", "alice", "--reader")
    assert bmi.json("project", "member", "list", "blue") == [{"user": "alice", "role": "reader"}]
    bmi("project", "member", "remove", "blue", "alice")
    assert bmi.json("project", "member", "list", "blue") == []
    assert bmi.json("user", "admin", "alice", "on")["admin"]
    assert bmi.json("user", "admin", "alice", "off")["admin"] is False
    assert bmi.json("user", "disable", "alice")["disabled"]
    assert bmi.json("user", "enable", "alice")["disabled"] is False
    assert bmi.json("user", "link", "alice", "--issuer", "https://idp", "--subject", "7")["subject"] == "7"
    assert bmi.json("user", "link", "alice", "--remove")["subject"] is None
    for _ in range(10):
        typed(alice, "guess", "login", "--user", "alice", exits=5)
    assert "bmi user unlock" in typed(alice, "guess", "login", "--user", "alice", exits=4)
    bmi("user", "unlock", "alice")
    typed(alice, PASSWORD, "login", "--user", "alice")
    bmi("user", "password", "alice", "--remove", "--end-tokens")
    assert bmi.json("user", "show", "alice")["password"] is False


def test_the_audit_log_is_read(bmi: Shell, alice: Shell) -> None:
    typed(alice, "guess", "login", "--user", "alice", exits=5)
    assert "log_in" in bmi("audit", "list", "--refused").stdout
    (entry,) = bmi.json("audit", "list", "--limit", "1")
    assert (entry["actor"], entry["action"], entry["problem"]) == ("alice", "log_in", "unauthenticated")


def test_a_browser_logs_the_command_line_in(site: Site, tmp_path: Path) -> None:
    with openid_provider({"s-1": {"preferred_username": "carol", "groups": ["physics"]}}) as issuer:
        secret = tmp_path / "secret"
        secret.write_text("s")
        oidc = OidcSettings(issuer=issuer, client_secret_file=secret, groups={"physics": ["red:member"]})
        settings = site.core.settings.model_copy(update={"oidc": oidc})
        core = dataclasses.replace(site.core, settings=settings)
        app = create_app(core, uploads_dir=site.uploads)
        with serving(app) as url:
            # The address is known only now.
            called_back = oidc.model_copy(update={"callback_url": f"{url}/v1/login/oidc/callback"})
            app.state.core = dataclasses.replace(
                core, settings=settings.model_copy(update={"oidc": called_back})
            )
            words = [sys.executable, "-c", "from bmi.cli.main import main; main()", "login", "--oidc"]
            env = os.environ | {"BMI_URL": url, "BMI_TOKEN": "", "BROWSER": "true"}
            process = subprocess.Popen(
                words,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                env=env,
                text=True,
            )
            try:
                assert process.stderr
                there = next(line.strip() for line in process.stderr if line.startswith("http"))
                timer = threading.Timer(60, process.kill)
                timer.start()
                back = let_in(there, "s-1")
                asked = httpx.get(back, trust_env=False).text
                word = process.stderr.readline() + process.stderr.readline()
                assert word.split()[-1].rstrip(".") in asked
                page = httpx.post(back, follow_redirects=True, trust_env=False)
                assert page.text == "Go back to your terminal.\n"
                out, _ = process.communicate()
                timer.cancel()
            finally:
                process.kill()
                process.wait()
            assert "Logged in as carol (project red, as member)" in out
            shell = Shell(url, "")
            assert shell.json("whoami")["user"] == "carol"


@pytest.mark.parametrize(
    ("brought", "told"),
    [("problem=It+is+late.+Begin+again.", "It is late. Begin again."), ("state=x", "bmi login --oidc")],
)
def test_a_browser_that_brings_no_code_says_what_to_do(brought: str, told: str) -> None:
    with _Loopback() as loopback, ThreadPoolExecutor() as pool:
        coming = pool.submit(httpx.get, f"{loopback.url}?{brought}", trust_env=False)
        with pytest.raises(UnauthenticatedError, match=told) as refused:
            loopback.await_code()
        assert coming.result().status_code == 200
    assert told in str(refused.value)
