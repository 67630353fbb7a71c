"""`wherry-runc kill`."""

from __future__ import annotations

from wherry.errors import Unknown
from wherry.linux import signals
from wherry.runc.command.command import Command
from wherry.runc.command.flags import SWITCH, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runc.command.command import Call

COMMAND = Command(
    "send a signal to a container",
    "ID [SIGNAL]",
    "Send a signal (TERM by default; a name with or without SIG, or a number) to a container's first process.",
    (Flag("all", "send it to every process of the container", SWITCH, short="a"),),
    most=2,
)


def run(call: Call) -> int:
    container = call.load()
    number = parse_signal(call.words[1] if len(call.words) > 1 and call.words[1] else "TERM")
    container.kill(number, all=call.values.switch("all"))
    return 0


def parse_signal(text: str) -> int:
    """Return a signal's number, from a number or from a name in either case with or without SIG. Unknown."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if digits.isascii() and digits.isdigit():
        return int(text)
    name = text.upper().removeprefix("SIG")
    found = signals.number_of(f"SIG{name}")
    # What lies between RTMIN and RTMAX has no names here, nor in runc.
    if found is None or name.startswith("RT"):
        raise Unknown(f'unknown signal "{text}"')
    return found
