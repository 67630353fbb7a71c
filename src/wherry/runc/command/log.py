"""What goes wrong, in the form that runc's callers read: lines of logrus, as text or as JSON.

go-runc, conmon and podman take the last line of level error in the JSON file for the reason of a failure.
"""

from __future__ import annotations

import fcntl
import os
import time

from wherry.errors import InvalidArgument

#: The lowest descriptor for the log: those from 3 on may be meant for the container.
_FIRST = 64

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@^+")
_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", '"': '\\"'}

#: The first letters of a level and its colour, on a terminal.
_LEVELS = {"error": ("ERRO", 31), "warning": ("WARN", 33), "debug": ("DEBU", 37)}


class Log:
    """Where messages go: descriptor 2 until `open` names a file."""

    def __init__(self) -> None:
        self._fd = 2
        self._json = False
        self._debug = False
        self._began = time.monotonic()

    def open(self, path: str, form: str, *, debug: bool) -> None:
        """Write to a file from now on, in the form `text` or `json`; "" leaves each as it is.

        InvalidArgument for another form, OSError.
        """
        self._debug = debug
        if form not in ("", "text", "json"):
            raise InvalidArgument(f"invalid log-format: {form}")
        self._json = form == "json"
        if path:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_SYNC | os.O_CLOEXEC, 0o644)
            try:
                self._fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST)
            finally:
                os.close(fd)

    def error(self, message: str) -> None:
        self._write("error", message)

    def warning(self, message: str) -> None:
        self._write("warning", message)

    def debug(self, message: str) -> None:
        """Write a message if --debug asks for such."""
        if self._debug:
            self._write("debug", message)

    def fatal(self, message: str) -> None:
        """Write the reason for the end: to the file, and for whoever called to standard error."""
        self.error(message)
        if self._fd != 2:
            _write(2, message)

    def _write(self, level: str, message: str) -> None:
        if self._json:
            from wherry.runc.command.go_json import encode

            line = encode({"level": level, "msg": message, "time": _now()})
        elif os.isatty(self._fd):
            letters, colour = _LEVELS[level]
            line = f"\x1b[{colour}m{letters}\x1b[0m[{int(time.monotonic() - self._began):04d}] {message}"
        else:
            line = f'time="{_now()}" level={level} msg={_quoted(message)}'
        _write(self._fd, line)


def _write(fd: int, line: str) -> None:
    try:
        os.write(fd, f"{line}\n".encode(errors="surrogateescape"))
    except OSError:
        return  # a full disk, a reader that has gone, one that never was: the exit code is left to tell


def _now() -> str:
    """Return the local time, RFC 3339."""
    moment = time.localtime()
    zone = time.strftime("%z", moment)
    return time.strftime("%Y-%m-%dT%H:%M:%S", moment) + ("Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}")


def _quoted(text: str) -> str:
    """Return a text as logrus writes a value: bare if it has only harmless characters, else as a Go string."""
    if _PLAIN.issuperset(text):
        return text
    escaped = []
    for character in text.replace("\\", "\\\\"):
        if character in _ESCAPES:
            escaped.append(_ESCAPES[character])
        elif character.isprintable():
            escaped.append(character)
        elif ord(character) < 0x80:
            escaped.append(f"\\x{ord(character):02x}")
        elif 0xDC80 <= ord(character) <= 0xDCFF:  # a byte that is no UTF-8, as Python's file system codec has it
            escaped.append(f"\\x{ord(character) - 0xDC00:02x}")
        else:
            escaped.append(f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}")
    return f'"{"".join(escaped)}"'
