"""The outside world: one folder a kind, its `__init__` is the Protocol, one file a driver.

Rules that every driver keeps: it does not retry, read configuration or the database, or swallow
errors; it raises `DriverError` with `retryable` set; creating what exists and deleting what is gone
succeed; names derive from ids; every wait has a time limit.
"""

import importlib
import inspect
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from bmi.errors import ConfigError


def load(kind: str, name: str) -> Any:
    """The driver factory `name` of `kind`: built-in module `bmi.drivers.<kind>.<name>` with a
    function `create(**options)`, or an entry point `<kind>.<name>` in the group `bmi.drivers`.
    """
    for entry in entry_points(group="bmi.drivers", name=f"{kind}.{name}"):
        return entry.load()
    module_name = f"bmi.drivers.{kind}.{name}"
    module: Any = None
    if name.isidentifier():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name != module_name:
                raise
    if not hasattr(module, "create"):
        raise ConfigError(
            f"There is no {kind} driver {name!r}.",
            remedy="Install the package that offers it, or name a built-in driver.",
        )
    return module.create


def make(kind: str, name: str, options: Mapping[str, Any]) -> Any:
    """The driver itself, made with these options; raises ConfigError that names the option which is unknown
    or missing.
    """
    factory = load(kind, name)
    wanted = inspect.signature(factory)
    try:
        wanted.bind(**options)
        return factory(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"The options of the {kind} driver {name!r} are not right: {error}.",
            remedy=f"It takes {', '.join(wanted.parameters) or 'none'}.",
        ) from error
