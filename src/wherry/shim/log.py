"""A shim's log: lines of key=value on a descriptor that may block, or have no reader, without the shim noticing."""

from __future__ import annotations

import logging
import os
import time


class _Handler(logging.Handler):
    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def emit(self, record: logging.LogRecord) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        text = record.getMessage().replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        level = record.levelname.lower()
        line = f'time="{moment}.{int(record.msecs):03}Z" level={level} msg="{text}"\n'
        if record.exc_info and record.exc_info[0]:
            line += logging.Formatter().formatException(record.exc_info) + "\n"
        try:
            os.write(self._fd, line.encode(errors="backslashreplace"))
        except OSError:
            return  # a full or broken pipe: the container matters more than a line about it


def log_to(fd: int, level: int) -> None:
    """Write the process's log to a descriptor, made non-blocking."""
    os.set_blocking(fd, False)
    root = logging.getLogger()
    root.handlers = [_Handler(fd)]
    root.setLevel(level)
