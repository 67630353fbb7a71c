"""What a command is: its words, its flags, and one call of it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.runc.command.flags import Flag, Values
    from wherry.runc.command.settings import Settings
    from wherry.runc.container import Container


class Command:
    """How a command is called, and what help says of it."""

    __slots__ = (
        "description",
        "failure",
        "failure_code",
        "flags",
        "flags_first",
        "least",
        "most",
        "operands",
        "summary",
    )

    def __init__(
        self,
        summary: str,
        operands: str,
        description: str,
        flags: Sequence[Flag] = (),
        *,
        least: int = 1,
        most: int | None = 1,
        flags_first: bool = False,
        failure: str = "",
        failure_code: int = 1,
    ) -> None:
        self.summary = summary
        self.operands = operands
        self.description = description
        self.flags = flags
        #: How many words it takes; None is any number.
        self.least = least
        self.most = most
        #: Whether everything after the first word belongs to another program.
        self.flags_first = flags_first
        #: What stands before the reason of a failure, and the exit code that comes with it.
        self.failure = failure
        self.failure_code = failure_code


class Call:
    """One call of a command."""

    __slots__ = ("settings", "values", "words")

    def __init__(self, settings: Settings, values: Values, words: list[str]) -> None:
        self.settings = settings
        self.values = values
        self.words = words

    @property
    def id(self) -> str:
        """The container that it is about."""
        return self.words[0]

    def load(self) -> Container:
        """Return that container. NotFound, InvalidArgument."""
        from wherry.runc.container import Container

        return Container.load(self.settings.root, self.id)
