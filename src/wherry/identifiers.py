"""containerd's identifier rule: for namespaces, container ids, exec ids and the parts of event topics, nothing else."""

from __future__ import annotations

from wherry.errors import InvalidArgument

MAX_LENGTH = 76
_ALPHANUMERIC = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_SEPARATORS = frozenset("._-")


def is_identifier(text: str) -> bool:
    """Tell whether text matches ``^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$`` and is at most 76 characters long."""
    after_separator = True
    for character in text:
        if character in _ALPHANUMERIC:
            after_separator = False
        elif character in _SEPARATORS and not after_separator:
            after_separator = True
        else:
            return False
    return not after_separator and len(text) <= MAX_LENGTH


def validate(text: str, what: str = "identifier") -> None:
    """Raise InvalidArgument unless text is an identifier. The words are containerd's."""
    if not text:
        raise InvalidArgument(f"{what} must not be empty")
    if len(text) > MAX_LENGTH:
        raise InvalidArgument(f"{what} {_quoted(text)} greater than maximum length ({MAX_LENGTH} characters)")
    if not is_identifier(text):
        raise InvalidArgument(f"{what} {_quoted(text)} must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$")


def _quoted(text: str) -> str:
    """Quote as Go does: what can be printed stands as it is."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
