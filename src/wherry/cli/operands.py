"""What commands are given: several names, KEY=VALUE pairs, signals."""

from __future__ import annotations

import sys

from wherry.errors import Error, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def each(names: Iterable[str], action: Callable[[str], None]) -> int:
    """Do something to each name; a failure is told and the others go on. Returns the exit status."""
    status = 0
    for name in names:
        try:
            action(name)
        except Error as error:
            print(f"wherry: {error}", file=sys.stderr)
            status = 1
    return status


def pairs(words: Iterable[str]) -> dict[str, str]:
    """Return the pairs of KEY=VALUE words; "KEY=" has an empty value. InvalidArgument for others."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InvalidArgument(f'label "{word}": KEY=VALUE is expected')
        found[key] = value
    return found


def signal_number(text: str) -> int:
    """Return the number of a signal: "9", "KILL", "SIGKILL", "RTMIN+3". InvalidArgument for what is none."""
    import signal

    if text.isdecimal() and 0 < int(text) <= signal.SIGRTMAX:
        return int(text)
    name = text.upper().removeprefix("SIG")
    for base, sign in (("RTMIN", 1), ("RTMAX", -1)):
        rest = name.removeprefix(base)
        if rest != name:
            offset = rest.removeprefix("+" if sign > 0 else "-")
            if rest and (rest == offset or not offset.isdecimal()):
                break
            number = signal.Signals["SIG" + base] + sign * int(offset or 0)
            if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
                return int(number)
            break
    else:
        if "SIG" + name in signal.Signals.__members__:
            return int(signal.Signals["SIG" + name])
    raise InvalidArgument(f'signal "{text}": neither a name, as TERM or RTMIN+3, nor a number')
