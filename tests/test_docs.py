"""The documents keep up with the code: generated pages, links, commands, settings."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from script import reference

from bmi.cli.main import main
from bmi.cli.session import Session
from bmi.config import load

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GENERATED = reference.pages()
WRITTEN = [document for document in DOCUMENTS if document.name not in GENERATED]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_SPAN = re.compile(r"`(bmi [^`\n]+)`")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _blocks(document: Path, *languages: str) -> list[str]:
    text = document.read_text(encoding="utf-8")
    return [block for language, block in _BLOCK.findall(text) if language in languages]


def _prose(document: Path) -> str:
    return _BLOCK.sub("", document.read_text(encoding="utf-8"))


def _anchors(document: Path) -> set[str]:
    """The names under which GitHub links to the headings."""
    headings = [heading.lower() for heading in _HEADING.findall(_prose(document))]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", GENERATED)
def test_generated_pages_are_up_to_date(name: str) -> None:
    file = reference.DOCS / name
    written = file.read_text(encoding="utf-8") if file.exists() else ""
    assert written == GENERATED[name], "run script/docs"


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_links_lead_somewhere(document: Path) -> None:
    for link in _LINK.findall(_prose(document)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        there = document.parent / path if path else document
        assert there.exists(), link
        if anchor:
            assert anchor in _anchors(there), link


def _typed(block: str) -> Iterator[str]:
    """The commands of a block: in a session what follows the prompt, in a script every line."""
    lines = block.replace("\\\n", " ").splitlines()
    session = any(line.startswith("$ ") for line in lines)
    for line in lines:
        if line.startswith("$ ") or not session:
            yield line.removeprefix("$ ")


def _bmi_commands(document: Path) -> list[list[str]]:
    """The arguments of every `bmi` in the document's blocks, up to a pipe or another command."""
    found = []
    for block in _blocks(document, "sh", "console"):
        for line in _typed(block):
            words = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
            words.whitespace_split = True
            command: list[str] = []
            for word in [*words, ";"]:
                if set(word) <= set("|&;<>()"):
                    if command[:1] == ["bmi"]:
                        found.append(command[1:])
                    command = []
                elif command or ("=" not in word and word != "sudo"):
                    command.append(word)
    return found


def _parse(command: click.Command, arguments: list[str], parent: click.Context | None = None) -> None:
    """What click does before it runs a command; raises UsageError for what it would refuse."""
    session = Session(None, None, None)
    try:
        context = command.make_context(command.name or "bmi", list(arguments), parent=parent, obj=session)
    except click.exceptions.Exit:  # --help has been answered
        return
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        _, found, rest = command.resolve_command(context, rest)
        assert found is not None
        _parse(found, rest, context)


@pytest.mark.parametrize("document", WRITTEN, ids=_name)
def test_commands_parse(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def any_path(_type: click.Path, value: Any, _parameter: object, _context: object) -> Path:
        return Path(value)

    monkeypatch.setattr(click.Path, "convert", any_path)  # the files of the examples do not exist here
    for arguments in _bmi_commands(document):
        try:
            _parse(main, arguments)
        except click.UsageError as error:
            pytest.fail(f"bmi {shlex.join(arguments)}: {error.format_message()}")


@pytest.mark.parametrize("document", WRITTEN, ids=_name)
def test_mentioned_commands_exist(document: Path) -> None:
    for mention in _SPAN.findall(_prose(document)):
        command: click.Command = main
        for word in mention.split()[1:]:
            if not isinstance(command, click.Group) or not word.isalpha():
                break
            assert word in command.commands, mention
            command = command.commands[word]


def test_commands_are_found_in_the_documents() -> None:
    assert ["release", "n1"] in _bmi_commands(ROOT / "README.md")
    assert len(_bmi_commands(ROOT / "docs" / "operating.md")) > 20


@pytest.mark.parametrize("document", WRITTEN, ids=_name)
def test_settings_in_the_documents_are_accepted(document: Path, tmp_path: Path) -> None:
    for block in _blocks(document, "toml"):
        file = tmp_path / "bmi.toml"
        file.write_text(block, encoding="utf-8")
        load(file)


def test_the_example_of_the_settings_is_accepted() -> None:
    settings = load(ROOT / "deploy" / "bmi.toml")
    assert settings.server.data_dir == Path("/var/lib/bmi")
