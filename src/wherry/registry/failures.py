"""What went wrong, in words and kinds: answers of registries (distribution specification, "Error Codes") and
connections."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping

from wherry.errors import (
    Error,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

#: Of a body that is shown, in characters.
_EXCERPT = 200

_CODES: dict[str, type[Error]] = {
    "BLOB_UNKNOWN": NotFound,
    "BLOB_UPLOAD_INVALID": FailedPrecondition,
    "BLOB_UPLOAD_UNKNOWN": NotFound,
    "DENIED": PermissionDenied,
    "DIGEST_INVALID": InvalidArgument,
    "MANIFEST_BLOB_UNKNOWN": NotFound,
    "MANIFEST_INVALID": InvalidArgument,
    "MANIFEST_UNKNOWN": NotFound,
    "MANIFEST_UNVERIFIED": InvalidArgument,
    "NAME_INVALID": InvalidArgument,
    "NAME_UNKNOWN": NotFound,
    "SIZE_INVALID": InvalidArgument,
    "TAG_INVALID": InvalidArgument,
    "TOOMANYREQUESTS": ResourceExhausted,
    "UNAUTHORIZED": Unauthenticated,
    "UNSUPPORTED": Unimplemented,
}


class Unreachable(Unavailable):
    """No connection came about."""


class Interrupted(Unavailable):
    """The connection ended, or said nothing, before all was said."""


class TooManyRequests(ResourceExhausted):
    """The server wants to be left alone for a while: the seconds that it asked for, None if it did not say."""

    asked: float | None = None


_STATUSES: dict[int, type[Error]] = {
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    405: Unimplemented,
    408: Unavailable,
    413: ResourceExhausted,
    416: OutOfRange,
    429: TooManyRequests,
    501: Unimplemented,
}


def of_answer(about: str, host: str, status: int, headers: Mapping[str, str], body: bytes) -> Error:
    """Return the error that an answer stands for; `about` is what was asked for."""
    words, codes = _reported(body)
    kind = next((_CODES[code] for code in codes if code in _CODES), None) if 400 <= status < 500 else None
    # 404 is what everybody goes by, whatever is written below it.
    if kind is None or status in (401, 403, 404, 429):
        kind = _STATUSES.get(status, Unavailable if status >= 500 else FailedPrecondition)
    if not words:
        shown = excerpt(body)
        content = headers.get("Content-Type", "no Content-Type").partition(";")[0]
        words = f"no errors of a registry but {excerpt(content)}: {shown}" if shown else ""
    error = kind(f"{about}: {host} answered {status}{words and ': ' + words}")
    if isinstance(error, TooManyRequests):
        error.asked = retry_after(headers.get("Retry-After"))
    return error


def _reported(body: bytes) -> tuple[str, list[str]]:
    """Return the words and codes of a body as the specification has it: {"errors": [{"code", "message", "detail"}]}."""
    try:
        errors = json.loads(body).get("errors")
        found = [(str(each.get("code") or ""), str(each.get("message") or "")) for each in errors]
    except (ValueError, AttributeError, TypeError, RecursionError):
        return "", []
    texts = [f"{message or code}{f' ({code})' if message and code else ''}" for code, message in found[:3]]
    return excerpt("; ".join(text for text in texts if text)), [code for code, _ in found]


def excerpt(text: bytes | str) -> str:
    """Return the beginning of a text with nothing in it that a terminal would act upon."""
    beginning = text[: 4 * _EXCERPT]
    if isinstance(beginning, bytes):
        beginning = beginning.decode(errors="replace")
    words = " ".join(beginning.split())
    shown = "".join(character if character.isprintable() else "." for character in words)
    return shown if len(shown) <= _EXCERPT else shown[:_EXCERPT] + "…"


def retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number of them, or a date (RFC 9110, 10.2.3)."""
    if not value:
        return None
    if value.isascii() and value.strip().isdigit():
        return float(value.strip()[:12])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
