"""The daemon's log: a line of key=value for each record, on standard error."""

from __future__ import annotations

import logging
import sys
import time

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}


class Formatter(logging.Formatter):
    """Writes a record with its fields: whatever `extra` it was logged with."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        words = [f'time="{moment}.{int(record.msecs):03}Z"', f"level={record.levelname.lower()}"]
        words.append(f"msg={_quoted(record.getMessage(), always=True)}")
        words += [f"{key}={_quoted(value)}" for key, value in vars(record).items() if key not in _STANDARD]
        line = " ".join(words)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _quoted(value: object, *, always: bool = False) -> str:
    text = str(value)
    if not always and text and all(character.isalnum() or character in "-_./:@" for character in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def log_to_stderr(level: str) -> None:
    """Log from this level ("debug", "info", "warning", "error") on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    logging.root.handlers = [handler]
    logging.root.setLevel(level.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)
