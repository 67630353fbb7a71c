"""wherry events."""

from __future__ import annotations

import json

from wherry.cli.table import printable
from wherry.client.documents import document
from wherry.client.events import subscribe

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from wherry.cli.main import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the flags."""
    parser.description = "Show what happens in the daemon, in all namespaces, from now on, until interrupted."
    parser.add_argument(
        "filters",
        nargs="*",
        metavar="FILTER",
        help="as in: 'namespace==default,topic~=|^/tasks/|'; of several, any suits",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object a line, for programs")


def run(options: argparse.Namespace, session: Session) -> int:
    """Print events."""

    async def follow() -> None:
        async for envelope in subscribe(session.client, options.filters):
            event = document(envelope)
            print(json.dumps(event, ensure_ascii=False) if options.json else _line(event), flush=True)

    session.run(follow())
    return 0


def _line(envelope: dict[str, Any]) -> str:
    event = envelope["event"] or {"value": ""}
    value = event["value"]
    details = _details(value) if isinstance(value, dict) else f"{event.get('type', '')} {value}"
    line = f"{_time(envelope['timestamp'])}  {envelope['namespace'] or '-'}  {envelope['topic']}  {details}"
    return printable(line)


def _time(text: str | None) -> str:
    """Return a time with milliseconds, so that columns stand still."""
    whole, _, fraction = (text or "").removesuffix("Z").partition(".")
    return f"{whole}.{fraction[:3]:0<3}Z"


def _details(value: dict[str, Any]) -> str:
    return " ".join(f"{key}={_word(each)}" for key, each in value.items() if each or (each == 0 and each is not False))


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value if value and not any(character in ' "=' for character in value) else json.dumps(value)
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
