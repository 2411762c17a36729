"""Every failure a person can meet: one class is one RFC 9457 problem.

A class fixes the HTTP status, the title and whether trying again can help; an instance adds the
sentence about this very case (`detail`), what to do next (`remedy`) and the facts (`facts`).
"""

from typing import Any, ClassVar

PROBLEM_BASE = "urn:bmi:problem:"


class BmiError(Exception):
    """Base of all errors that BMI raises on purpose."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, *, remedy: str = "", **facts: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy
        self.facts = facts

    @classmethod
    def code(cls) -> str:
        """The stable name of this problem, e.g. `node-busy` for NodeBusyError."""
        name = cls.__name__.removesuffix("Error") or "internal"
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")

    def problem(self) -> dict[str, Any]:
        """The error as an RFC 9457 problem document (plain JSON values)."""
        document: dict[str, Any] = {
            "type": PROBLEM_BASE + self.code(),
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "retryable": self.retryable,
        }
        if self.remedy:
            document["remedy"] = self.remedy
        return document | {k: v for k, v in self.facts.items() if k not in document}

    def __str__(self) -> str:
        return f"{self.detail} {self.remedy}".strip()


class InternalError(BmiError):
    """A defect of BMI; the log has the traceback."""


class InvalidInputError(BmiError):
    """A value that cannot be accepted; `field` names it."""

    status = 422
    title = "Invalid input"

    def __init__(self, field: str, detail: str, *, remedy: str = "", **facts: Any) -> None:
        super().__init__(f"{field}: {detail}", remedy=remedy, field=field, **facts)


class ConfigError(BmiError):
    """The configuration or the machine is not fit to run with."""

    title = "Configuration problem"


class UnauthenticatedError(BmiError):
    """No token, or one that is unknown, expired or revoked."""

    status = 401
    title = "Not authenticated"


class ForbiddenError(BmiError):
    """The caller is known but may not do this."""

    status = 403
    title = "Not allowed"


class NotFoundError(BmiError):
    """No such object, or none that the caller may see."""

    status = 404
    title = "Not found"

    def __init__(self, kind: str, name: str, *, remedy: str = "") -> None:
        super().__init__(f"There is no {kind} {name!r}.", remedy=remedy, kind=kind, name=name)


class MethodNotAllowedError(BmiError):
    """The address exists, but not for this HTTP method."""

    status = 405
    title = "Method not allowed"


class UnsupportedVersionError(BmiError):
    """The version of a protocol that is not spoken here."""

    status = 412
    title = "Version not supported"


class UnsupportedMediaTypeError(BmiError):
    """The body is of a kind that is not taken here."""

    status = 415
    title = "Media type not supported"


class TooLargeError(BmiError):
    """More bytes than are accepted."""

    status = 413
    title = "Too large"


class TooManyAttemptsError(BmiError):
    """Too many logins have failed; `retry_after_s` says for how long none is tried."""

    status = 429
    title = "Too many attempts"
    retryable = True


class ConflictError(BmiError):
    """The request contradicts what is."""

    status = 409
    title = "Conflict"


class AlreadyExistsError(ConflictError):
    """The name or the address is taken."""

    title = "Already exists"


class InUseError(ConflictError):
    """Something still depends on the object; `users` lists what."""

    title = "In use"


class BusyError(ConflictError):
    """A live operation holds the object; `operation` is its id."""

    title = "Busy"
    retryable = True


class InvalidStateError(ConflictError):
    """The object's state does not allow this."""

    title = "Invalid state"


class NotHeldError(ConflictError):
    """The service that nodes are taken from says otherwise than BMI who has this one."""

    title = "Not held"


class NotEnoughNodesError(ConflictError):
    """Fewer nodes are `free` than were `asked` for; none was given."""

    title = "Not enough nodes"


class NoFreeAddressError(ConflictError):
    """A pool (of addresses, of VLANs) is used up."""

    title = "No free address"


class OverQuotaError(ConflictError):
    """The project's quota does not allow it: of `limit` it `used` and `asked` more than is `allowed`."""

    title = "Over quota"


class InsufficientSpaceError(BmiError):
    """The store has not enough room."""

    status = 507
    title = "Insufficient space"


class InvalidImageError(BmiError):
    """A file that is not an image, or one that must not be taken in."""

    status = 422
    title = "Invalid image"


class DriverError(BmiError):
    """The outside world refused, failed or did not answer; `retryable` says whether waiting can help."""

    status = 502
    title = "Device or program failed"
    retryable = True

    def __init__(self, detail: str, *, retryable: bool = True, remedy: str = "", **facts: Any) -> None:
        super().__init__(detail, remedy=remedy, **facts)
        self.retryable = retryable  # type: ignore[misc]  # a driver decides per case


class TimedOutError(DriverError):
    """Something did not happen in time."""

    status = 504
    title = "Timed out"


class CancelledError(ConflictError):
    """A person cancelled the operation."""

    title = "Cancelled"


class UnavailableError(BmiError):
    """The server cannot be reached or is not ready."""

    status = 503
    title = "Not available"
    retryable = True


def _all_classes(root: type[BmiError]) -> dict[str, type[BmiError]]:
    found = {root.code(): root}
    for sub in root.__subclasses__():
        found |= _all_classes(sub)
    return found


def from_problem(document: dict[str, Any]) -> BmiError:
    """Turns a problem document back into the error it was made from (used by the client)."""
    code = str(document.get("type", "")).removeprefix(PROBLEM_BASE)
    cls = _all_classes(BmiError).get(code, BmiError)
    error = cls.__new__(cls)
    known = {"type", "title", "status", "detail", "remedy", "retryable"}
    BmiError.__init__(
        error,
        str(document.get("detail") or document.get("title") or "Unknown error"),
        remedy=str(document.get("remedy", "")),
        **{k: v for k, v in document.items() if k not in known and k != "self"},
    )
    if isinstance(error, DriverError):
        error.retryable = bool(document.get("retryable", True))  # type: ignore[misc]
    return error
