"""What a mount of type ``format/…`` may hold: ``{{ mount 0 }}``, filled in from the mounts before it.

The functions are containerd's: ``source N``, ``target N`` and ``mount N`` (its mount point), ``overlay FIRST LAST``
(mount points joined by colons, in either direction). Of Go's templates this is the part that mounts use: an action is
one function and whole numbers; ``{{-`` and ``-}}`` take the blanks beside them away.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from wherry.errors import InvalidArgument
from wherry.store.mounts import ActiveMount

_ACTION = re.compile(r"(?P<left>\s*\{\{- |\{\{)(?P<body>.*?)(?P<right> -\}\}\s*|\}\})", re.DOTALL)
_NUMBER = re.compile(r"[+-]?[0-9]+")


def fill(text: str, active: Sequence[ActiveMount]) -> str:
    """Return a text with its actions replaced. InvalidArgument for one that is not understood or points nowhere."""
    made = []
    position = 0
    for action in _ACTION.finditer(text):
        made += [text[position : action.start()], _value(text, action["body"], active)]
        position = action.end()
    rest = text[position:]
    if "{{" in rest:
        raise InvalidArgument(f'template "{text}": unclosed action')
    return "".join([*made, rest])


def _value(text: str, body: str, active: Sequence[ActiveMount]) -> str:
    function, *arguments = body.split() or [""]
    if not all(_NUMBER.fullmatch(argument) for argument in arguments):
        raise InvalidArgument(f'template "{text}": the arguments of "{function}" must be whole numbers')
    numbers = [int(argument) for argument in arguments]
    wanted = {"source": 1, "target": 1, "mount": 1, "overlay": 2}.get(function)
    if wanted is None:
        raise InvalidArgument(f'template "{text}": function "{function}" not defined')
    if len(numbers) != wanted:
        raise InvalidArgument(
            f'template "{text}": wrong number of args for {function}: want {wanted} got {len(numbers)}'
        )
    if function == "overlay":
        first, last = numbers
        if min(numbers) < 0 or max(numbers) >= len(active):
            raise InvalidArgument(f"invalid range: {first}-{last}, has {len(active)} active mounts")
        step = 1 if first <= last else -1
        return ":".join(active[index].mount_point for index in range(first, last + step, step))
    (index,) = numbers
    if not 0 <= index < len(active):
        raise InvalidArgument(f"index out of bounds: {index}, has {len(active)} active mounts")
    found = active[index]
    return {"source": found.mount.source, "target": found.mount.target, "mount": found.mount_point}[function]
