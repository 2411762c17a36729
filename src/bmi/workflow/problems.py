"""Turns whatever goes wrong in a step into a problem document, and keeps statements out of it and of logs."""

import json
import logging

from sqlalchemy.exc import InterfaceError, OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bmi.domain.nouns import Json
from bmi.errors import BmiError, InternalError, UnavailableError

log = logging.getLogger(__name__)

# What passes by itself: the operation is looked at again later, and nothing is held against it.
DATABASE_AWAY = (OperationalError, InterfaceError, PoolTimeoutError)


def is_plain(value: object) -> bool:
    """Whether the value can be written down as JSON."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def problem_of(error: BmiError, **facts: object) -> Json:
    """The problem document of an error, whatever its facts are."""
    document = error.problem() | facts
    return {key: value if is_plain(value) else repr(value) for key, value in document.items()}


def as_bmi_error(error: Exception, what: str) -> BmiError:
    """The error itself, or what stands for it: the database is away, or `what` has a defect."""
    if isinstance(error, BmiError):
        return error
    # A database's error quotes the statement and its values; what the database itself said is enough.
    said = error.orig if isinstance(error, StatementError) else error
    told = f"{type(error).__name__}: {said}"
    if isinstance(error, DATABASE_AWAY):
        return UnavailableError(f"{what} could not reach the database: {told}")
    log.error("%s met a defect", what, exc_info=error)
    return InternalError(f"{what} met a defect: {told}", remedy="See the log of the worker.")


def without_statements(record: logging.LogRecord) -> bool:
    """A filter for loggers: the errors of databases that are logged lose their statements and values."""
    error = record.exc_info[1] if record.exc_info else None
    while error is not None:
        if isinstance(error, StatementError):
            error.statement = None
        error = error.__cause__ or error.__context__
    return True


log.addFilter(without_statements)
