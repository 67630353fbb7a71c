"""Undo, beside do: contextlib's ExitStack as far as it is needed here, whose import a cold start would wait for."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, Self

    P = ParamSpec("P")


class Undo:
    """Functions to be called in the reverse order of their coming."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: list[Callable[[], object]] = []

    def callback(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have a function called at the end."""
        self._calls.append(lambda: function(*args, **kwargs))

    def pop_all(self) -> None:
        """Forget all of them: what was done stays."""
        self._calls.clear()

    def close(self) -> None:
        """Call all of them, whatever some raise; the first error is raised again at the end."""
        failed: BaseException | None = None
        while self._calls:
            try:
                self._calls.pop()()
            except BaseException as error:
                failed = failed or error
        if failed is not None:
            raise failed


class Work:
    """Something made step by step, a context: leaving it undoes what was made, unless `_undo` was told to forget it."""

    def __init__(self) -> None:
        self._undo = Undo()
        #: What is closed whether it succeeds or not.
        self._closing = Undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            self._undo.close()
        finally:
            self._closing.close()
