"""A container's figures as names and numbers, so that those of two readers can be compared."""

from __future__ import annotations

from typing import Any

#: What goes on counting between one reading and the next, on a machine that does other things as well.
MOVING = (
    *("cpu.usage", "memory.usage.usage", "memory.kernel.usage", "memory.swap.usage"),
    *("cpu.user_usec", "cpu.system_usec", "memory.usage"),
)


#: What Debian's shim does not tell: it is older than these.
NEWER = (".psi", "cpu.nr_bursts", "cpu.burst_usec", "memory.max_usage", "memory.swap_max_usage")


def flat(message: Any, prefix: str = "") -> dict[str, Any]:
    """Return all set fields by their dotted names; entries of lists are numbered, or named by their size of pages."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        name = f"{prefix}{field.name}"
        if field.message_type is None:
            found[name] = value if isinstance(value, int | str | float) else list(value)
        elif not hasattr(value, "ListFields"):
            for number, entry in enumerate(value):
                found.update(flat(entry, f"{name}.{getattr(entry, 'pagesize', number)}."))
        else:
            found[name] = "message"
            found.update(flat(value, f"{name}."))
    return found


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what differs, or is there on one side only; of what moves, no more than that it is there."""
    return {
        name: (ours.get(name), theirs.get(name))
        for name in ours.keys() | theirs.keys()
        if not any(newer in name for newer in NEWER)
        and (name not in ours or name not in theirs or (ours[name] != theirs[name] and not name.startswith(MOVING)))
    }
