"""Every error of the API as an RFC 9457 problem document."""

import logging
import secrets
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy import exc as database_errors
from starlette.exceptions import HTTPException

from bmi.errors import (
    BmiError,
    InternalError,
    InvalidInputError,
    MethodNotAllowedError,
    NotFoundError,
    TooManyAttemptsError,
    UnauthenticatedError,
    UnavailableError,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_MEANINGS = {
    401: "No token, or one that is unknown, expired or revoked",
    403: "The caller may not do this",
    404: "No such object, or none that the caller may see",
    409: "The request contradicts what is",
    413: "Too many bytes",
    429: "Too many logins have failed",
    422: "A value that cannot be accepted; `field` names it",
    503: "Too much is asked at this moment",
    507: "Not enough room",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI description says about these refusals."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"description": _MEANINGS[status], "content": content} for status in statuses
    }
    return refusals | {"default": {"description": "Any other problem", "content": content}}


def response_of(error: BmiError, headers: Mapping[str, str] | None = None) -> Response:
    """The error as it is sent; a caller without a good token is told what kind is wanted (RFC 6750)."""
    sent = dict(headers or {})
    if isinstance(error, UnauthenticatedError):
        sent["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooManyAttemptsError):
        sent["Retry-After"] = str(error.facts["retry_after_s"])
    return JSONResponse(error.problem(), status_code=error.status, headers=sent, media_type=MEDIA_TYPE)


def defect(error: Exception) -> InternalError:
    """What a caller is told about an error that the log has with its traceback."""
    reference = secrets.token_hex(4)
    log.error("Defect %s", reference, exc_info=error)
    return InternalError(
        "The server met a defect.",
        remedy=f"Ask an administrator to look for {reference} in the server's log.",
        reference=reference,
    )


async def _refused(_request: Request, error: Exception) -> Response:
    if not isinstance(error, BmiError):
        raise error
    if error.status == InternalError.status:
        log.error("A request ended in a problem of the server's own: %s", error, exc_info=error)
    return response_of(error)


async def _not_valid(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    found = [(_field(problem["loc"]), str(problem["msg"])) for problem in error.errors()]
    field, message = found[0]
    # Only names and rules are told: the values may be secrets.
    return response_of(
        InvalidInputError(
            field,
            f"{message}.",
            remedy="See /v1/openapi.json for what is expected.",
            errors=[{"field": name, "detail": text} for name, text in found],
        )
    )


def _field(location: tuple[int | str, ...]) -> str:
    """`body.ssh_keys.0` is called `ssh_keys.0`; a body that is not JSON at all is `body`."""
    inside = [str(part) for part in location[1:]]
    return ".".join(inside) if inside and not inside[0].isdigit() else str(location[0])


async def _not_served(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    path = request.url.path
    match error.status_code:
        case 404:
            problem: BmiError = NotFoundError(
                "address", path, remedy="See /v1/openapi.json for those there are."
            )
        case 405:
            problem = MethodNotAllowedError(
                f"{request.method} is not possible on {path}.", remedy="See /v1/openapi.json for what is."
            )
        case _:
            problem = InvalidInputError("body", f"{error.detail}.", remedy="Send JSON.")
    return response_of(problem, error.headers)


async def _database_away(_request: Request, error: Exception) -> Response:
    # What the database's driver said, without the statement.
    log.error("The database does not answer: %s", getattr(error, "orig", None) or type(error).__name__)
    return response_of(
        UnavailableError(
            "The database does not answer.", remedy="Try again in a moment; then see the server's log."
        )
    )


async def _value_does_not_fit(_request: Request, _error: Exception) -> Response:
    return response_of(
        InvalidInputError(
            "request", "a value does not fit the database.", remedy="Leave unusual characters out."
        )
    )


def install(app: FastAPI) -> None:
    """Makes the app answer every exception with a problem document (defects: see Envelope)."""
    app.add_exception_handler(BmiError, _refused)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _not_served)
    for away in (
        database_errors.OperationalError,
        database_errors.InterfaceError,
        database_errors.TimeoutError,
    ):
        app.add_exception_handler(away, _database_away)
    app.add_exception_handler(database_errors.DataError, _value_does_not_fit)
