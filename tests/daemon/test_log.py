"""Log lines, as text and as JSON."""

from __future__ import annotations

import json
import logging
import re
import sys

from wherry.daemon.log import JsonFormatter, TextFormatter


def record(message: str, *arguments: object, error: bool = False, **fields: object) -> logging.LogRecord:
    try:
        raise ValueError("why")
    except ValueError:
        info = sys.exc_info() if error else None
    made = logging.getLogger("test").makeRecord("test", logging.INFO, "f", 1, message, arguments, info, None, fields)
    made.created = 1700000000.25
    return made


def test_text() -> None:
    line = TextFormatter().format(record('say "%s"\n', "x", id="a-1", text="two words", empty="", number=3))
    assert line == (
        'time="2023-11-14T22:13:20.250000Z" level=info msg="say \\"x\\"\\n" id=a-1 text="two words" empty="" number=3'
    )


def test_a_traceback_follows_on_lines_of_its_own() -> None:
    first, *rest = TextFormatter().format(record("bad", error=True)).splitlines()
    assert re.fullmatch(r'time="\S+" level=info msg="bad"', first)
    assert rest[0].startswith("Traceback") and rest[-1] == "ValueError: why"


def test_json() -> None:
    line = JsonFormatter().format(record("odd \x00 %d", 1, id="a", thing=object(), error=True))
    assert "\n" not in line
    found = json.loads(line)
    assert (found["time"], found["level"], found["msg"], found["id"]) == (
        "2023-11-14T22:13:20.250000Z",
        "info",
        "odd \x00 1",
        "a",
    )
    assert found["thing"].startswith("<object") and found["traceback"].endswith("ValueError: why")
