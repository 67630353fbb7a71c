"""The error kinds of containerd's errdefs, and the gRPC/ttrpc status codes they travel as.

Raise a kind with a text that names the thing: ``NotFound('container "x"')``. As Go does, the kind's words are put at
the end of the text ("container "x": not found") unless it ends in them already; clients strip and re-add exactly those.
"""

from __future__ import annotations


class Error(Exception):
    """An error with a kind. A bare ``Error`` is of no kind (UNKNOWN): its text is taken as it stands."""

    code: int = 2
    kind: str = ""

    def __init__(self, message: str = "") -> None:
        if not self.kind or message.endswith(self.kind):
            self.message = message
        else:
            self.message = f"{message}: {self.kind}" if message else self.kind
        super().__init__(self.message)


class Cancelled(Error):
    """The caller went away."""

    code = 1
    kind = "context canceled"


class Unknown(Error):
    """A failure of no kind: what a runtime said, what the kernel said."""


class InvalidArgument(Error):
    """The request cannot be right, whatever the state of the system."""

    code = 3
    kind = "invalid argument"


class DeadlineExceeded(Error):
    """The call's time ran out."""

    code = 4
    kind = "context deadline exceeded"


class NotFound(Error):
    """The thing named does not exist."""

    code = 5
    kind = "not found"


class AlreadyExists(Error):
    """The thing to be made exists."""

    code = 6
    kind = "already exists"


class PermissionDenied(Error):
    """The caller may not do this."""

    code = 7
    kind = "permission denied"


class ResourceExhausted(Error):
    """A limit is reached: a message's size, a disk."""

    code = 8
    kind = "resource exhausted"


class FailedPrecondition(Error):
    """The system is not in the state that the request needs."""

    code = 9
    kind = "failed precondition"


class Aborted(Error):
    """The work was ended by a concurrent change."""

    code = 10
    kind = "aborted"


class OutOfRange(Error):
    """An offset past the end."""

    code = 11
    kind = "out of range"


class Unimplemented(Error):
    """The service, method or variant does not exist here; clients fall back on this code."""

    code = 12
    kind = "not implemented"


class Internal(Error):
    """A promise of wherry's own is broken."""

    code = 13
    kind = "internal"


class Unavailable(Error):
    """Not now: try again."""

    code = 14
    kind = "unavailable"


class DataLoss(Error):
    """Stored data is damaged."""

    code = 15
    kind = "data loss"


class Unauthenticated(Error):
    """The caller did not say who it is."""

    code = 16
    kind = "unauthenticated"


KINDS: tuple[type[Error], ...] = (
    Unknown,
    Cancelled,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
)
_BY_CODE = {kind.code: kind for kind in KINDS}


def from_status(code: int, message: str) -> Error:
    """Return the error that a status code and text from the wire stand for, with the text unchanged."""
    error = _BY_CODE.get(code, Unknown)()
    error.message = message
    error.args = (message,)
    return error


def to_status(error: BaseException) -> tuple[int, str]:
    """Return the status code and text for any exception: its own for an Error, UNKNOWN and its words for the rest."""
    if isinstance(error, Error):
        return error.code, error.message
    if isinstance(error, OSError) and error.strerror:
        name = f" {error.filename}" if error.filename is not None else ""
        return Unknown.code, f"{error.strerror.lower()}{name and ':' + name}"
    return Unknown.code, str(error) or type(error).__name__
