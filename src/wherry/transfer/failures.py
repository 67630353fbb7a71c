"""What to tell of work that was done side by side and failed."""

from __future__ import annotations


def first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what failed first of what side by side failed."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
