"""The outside world: one folder a kind, its `__init__` is the Protocol, one file a driver.

Rules that every driver keeps: it does not retry, read configuration or the database, or swallow
errors; it raises `DriverError` with `retryable` set; creating what exists and deleting what is gone
succeed; names derive from ids; every wait has a time limit.
"""

import importlib
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
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name not in {module_name, f"bmi.drivers.{kind}"}:
            raise
        raise ConfigError(
            f"There is no {kind} driver {name!r}.",
            remedy=f"Install a package that offers it or name a built-in driver in [{kind}].",
        ) from error
    return module.create
