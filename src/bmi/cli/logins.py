"""Where logins are kept: one token for each server, in a file that only its owner can read."""

import json
import os
from pathlib import Path
from typing import Any

from bmi.errors import ConfigError


def login_file() -> Path:
    """In the XDG configuration directory."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "bmi" / "logins.json"


def find(url: str) -> str:
    """The token of the login at this server, or nothing."""
    return str(_read().get(_key(url), ""))


def keep(url: str, token: str) -> Path:
    """Keeps a token for this server, and for no other; returns where."""
    _write(_read() | {_key(url): token})
    return login_file()


def forget(url: str) -> None:
    """Keeps none for this server any more."""
    kept = _read()
    if kept.pop(_key(url), None) is not None:
        _write(kept)


def _key(url: str) -> str:
    return url.rstrip("/")


def _read() -> dict[str, Any]:
    path = login_file()
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read.", remedy="Remove it, and log in again.") from error
    return kept if isinstance(kept, dict) else {}


def _write(kept: dict[str, Any]) -> None:
    path = login_file()
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(kept, file)
        temporary.rename(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}).",
            remedy="Set XDG_CONFIG_HOME to a directory of yours.",
        ) from error
