"""The daemon's log on standard error: a line for each record, as text (time=… level=… msg=… key=value) or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time

#: What every record has; the rest are the fields it was logged with.
_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}

#: Characters that need no quotes around a value.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@+,")


def _time(record: logging.LogRecord) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{moment}.{int(record.created % 1 * 1_000_000):06}Z"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class TextFormatter(logging.Formatter):
    """Writes logfmt: a record's fields behind its message, and a traceback on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        words = [f'time="{_time(record)}"', f"level={record.levelname.lower()}"]
        words.append(f"msg={_quoted(record.getMessage())}")
        for key, value in _fields(record).items():
            text = str(value)
            words.append(f"{key}={text if text and _PLAIN.issuperset(text) else _quoted(text)}")
        line = " ".join(words)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """Writes an object with the keys time, level, msg, the record's fields and, where there is one, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        found = {"time": _time(record), "level": record.levelname.lower(), "msg": record.getMessage()}
        found.update(_fields(record))  # type: ignore[arg-type]
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def log_to_stderr(level: str, format_: str = "text") -> None:
    """Log from this level ("debug", "info", "warn", "error") on, as "text" or "json"."""
    # A log that nobody reads any more is no reason to say so on the same descriptor.
    logging.raiseExceptions = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format_ == "json" else TextFormatter())
    logging.root.handlers = [handler]
    logging.root.setLevel(level.upper())
    for chatty in ("asyncio", "grpc"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.root.level))
