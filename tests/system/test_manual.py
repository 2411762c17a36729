"""The way from nothing to two tenants, typed as docs/operating.md has it: each command prints what is written there.

With BMI_WRITE_MANUAL=1 in the environment, what the commands have printed is written into the document instead.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bmi.lab.site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

MANUAL = Path(__file__).parents[2] / "docs" / "operating.md"
_BLOCK = re.compile(r"^<!-- as (\w+) -->\n```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
# How far a step was when somebody looked; a slow machine shows more of it.
_PASSING = re.compile(r"^\w+ +(?:queued|running|waiting) +\d+\.\d s\n", re.MULTILINE)
# What differs from one run to the next.
_VARYING = [
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME"),
    (r"\b01[0-9a-z]{24}\b", "ID"),
    (r"\d+\.\d s\b", "SECONDS"),
    (r"\d+\.\d [KMGT]iB", "SIZE"),
    (r"127\.0\.0\.1:\d+", "API"),
    (r"[ \t]+", " "),
    (r" +$", ""),
]
_END = "what the command has printed ends here"


@dataclass
class Person:
    """Somebody at a shell, in a directory of their own."""

    shell: subprocess.Popen[str]

    def types(self, command: str) -> str:
        """What the command prints, errors included."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        # A program that reads its input, as ssh does, must not read what is typed next.
        self.shell.stdin.write(f"{{ {command}\n}} < /dev/null\necho '{_END}'\n")
        self.shell.stdin.flush()
        printed: list[str] = []
        for line in self.shell.stdout:
            if line.strip() == _END:
                return "".join(printed)
            printed.append(line)
        raise AssertionError(f"the shell ended: {printed}")


@pytest.fixture
def site(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An installation in which nothing is yet, and two nodes that it does not know."""
    made = Site(tmp_path_factory.mktemp("manual"), "manual")
    try:
        made.up(nodes=2, port=7565)
        yield made
    finally:
        made.down()
    assert made.leftovers() == []


@pytest.fixture
def people(site: Site, golden: Path) -> Iterator[dict[str, Person]]:
    shells = {}
    for name in ("root", "ann", "bob"):
        home = site.directory / name
        home.mkdir()
        (home / "debian-12.qcow2").symlink_to(golden)
        shutil.copy(site.lab.bmc_password_file, home / "bmc.password")
        shutil.copy(site.key_path, home / "id_ed25519")
        shutil.copy(site.key_path.with_suffix(".pub"), home / "id_ed25519.pub")
        for user in ("ann", "bob"):
            (home / f"{user}.password").write_text("correct horse battery staple\n")
        environment = os.environ | {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "BMI_CONFIG": str(site.config_path),
            "COLUMNS": "120",
        }
        shells[name] = subprocess.Popen(
            ["bash"],
            cwd=home,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    yield {name: Person(shell) for name, shell in shells.items()}
    for shell in shells.values():
        shell.kill()
        shell.communicate()


def real_names(site: Site) -> dict[str, str]:
    """What stands in the manual, and what it is in this lab."""
    lab = site.lab
    first, second = lab.nodes
    return {
        "bridge=br0": f"bridge={lab.bridge} --option db={lab.switch_db}",
        "redfish+https://10.0.0.5": first.bmc_url,
        "redfish+https://10.0.0.6": second.bmc_url,
        "02:c2:36:54:69:01": first.mac,
        "02:3a:66:5d:89:02": second.mac,
        "netns/bmi-": f"netns/{site.netns_prefix}-",
        "/home/": f"{site.directory}/",
    }


def essence(text: str) -> list[str]:
    """The lines without what varies; in no order, because steps end in any."""
    for pattern, word in _VARYING:
        text = re.sub(pattern, word, text, flags=re.MULTILINE)
    return sorted(line for line in text.splitlines() if line)


def test_the_manual_leads_to_two_tenants(site: Site, people: dict[str, Person]) -> None:
    names = real_names(site)
    blocks = list(_BLOCK.finditer(MANUAL.read_text(encoding="utf-8")))
    assert {block[1] for block in blocks} == people.keys()
    differences = []
    sessions = {}
    for block in blocks:
        session = ""
        for command, expected in _COMMAND.findall(block[2]):
            typed = command
            for here, there in names.items():
                typed = typed.replace(here, there)
            printed = _PASSING.sub("", people[block[1]].types(typed))
            for here, there in names.items():
                printed = printed.replace(there, here)
            session += f"$ {command}\n{printed}"
            if essence(printed) != essence(expected):
                differences.append(f"{block[1]}$ {command}\n{printed}instead of\n{expected}")
        sessions[block[2]] = session
    if os.environ.get("BMI_WRITE_MANUAL"):
        written = MANUAL.read_text(encoding="utf-8")
        for before, after in sessions.items():
            written = written.replace(before, after)
        MANUAL.write_text(written, encoding="utf-8")
        return
    assert not differences, "\n".join(differences)
