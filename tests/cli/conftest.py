"""The command line against a real server on a loopback port."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bmi.cli.main import main
from tests.installation import BMC_PASSWORD, Site, furnished, site
from tests.live import api_of, serving

__all__ = ["furnished", "site"]


@dataclass
class Shell:
    """Types `bmi …` as somebody with a token."""

    url: str
    token: str

    def __call__(self, *words: str, exits: int = 0, **environment: str) -> Result:
        """What the command printed; it must exit with this code, and with words instead of a traceback."""
        env = {"BMI_URL": self.url, "BMI_TOKEN": self.token, "TZ": "UTC"} | environment
        result = CliRunner(env=env).invoke(main, list(words))
        assert result.exit_code == exits, (result.output, result.exception)
        assert isinstance(result.exception, SystemExit | None), result.exception
        if exits:
            assert "Error: " in result.stderr
        assert BMC_PASSWORD not in result.output
        return result

    def json(self, *words: str, exits: int = 0, **environment: str) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self(*words, "--json", exits=exits, **environment).stdout)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where logins are kept: not where those of whoever runs the tests are."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture
def url(site: Site) -> Iterator[str]:
    with serving(api_of(site)) as address:
        yield address


@pytest.fixture
def bmi(site: Site, url: str) -> Shell:
    """An administrator's shell."""
    return Shell(url, site.token("root"))


@pytest.fixture
def red(site: Site, url: str) -> Shell:
    """The shell of a member of red, whose n1 is."""
    site.give("red", "n1")
    return Shell(url, site.token("red-token", "red"))
