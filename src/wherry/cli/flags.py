"""Flags parsed without argparse, which costs 5 ms to import: more than all of a command's own modules.

Commands declare their flags once, by argparse's own interface. What this parser does not understand (help, a mistake,
commands of a command) it leaves to argparse, whose words are the better ones.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Unusual(Exception):
    """Argparse is to have a look."""


class Options:
    """The values of a command's flags and arguments, as attributes."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class FlagParser:
    """As much of argparse.ArgumentParser as a plain command line needs."""

    def __init__(self) -> None:
        self.description = ""
        self.usage = ""
        self._flags: dict[str, tuple[str, dict[str, Any]]] = {}
        self._positional: list[tuple[str, dict[str, Any]]] = []
        self._values: dict[str, Any] = {}

    def add_argument(self, *names: str, **declared: Any) -> None:
        if not names[0].startswith("-"):
            self._positional.append((names[0], declared))
            return
        long = next((name for name in names if name.startswith("--")), names[0])
        destination = declared.get("dest") or long.lstrip("-").replace("-", "_")
        default = False if declared.get("action") == "store_true" else declared.get("default")
        self._values[destination] = list(default) if isinstance(default, list) else default
        for name in names:
            self._flags[name] = destination, declared

    def add_subparsers(self, **_declared: Any) -> Any:
        raise Unusual

    def parse(self, arguments: Sequence[str]) -> Options:
        """Return the options of a command line. Unusual for one that is not plain."""
        rest = list(arguments)
        words: list[str] = []
        while rest:
            word = rest.pop(0)
            if word == "--" or (word.startswith("-") and len(word) > 1):
                self._flag(word, rest)
                continue
            words.append(word)
            if any(declared.get("nargs") == "..." for _name, declared in self._positional):
                if rest[:1] == ["--"]:
                    raise Unusual
                words += rest
                break
        self._take_positional(words)
        return Options(**self._values)

    def _flag(self, word: str, rest: list[str]) -> None:
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if name not in self._flags:
            raise Unusual
        destination, declared = self._flags[name]
        action = declared.get("action", "store")
        if action == "store_true":
            if equals:
                raise Unusual
            self._values[destination] = True
            return
        if action not in ("store", "append") or "nargs" in declared:
            raise Unusual
        if not equals:
            if not rest or rest[0].startswith("-"):
                raise Unusual
            value = rest.pop(0)
        converted = self._converted(value, declared)
        if action == "append":
            self._values[destination].append(converted)
        else:
            self._values[destination] = converted

    def _converted(self, value: str, declared: dict[str, Any]) -> Any:
        try:
            converted = declared.get("type", str)(value)
        except (TypeError, ValueError):
            raise Unusual from None
        if "choices" in declared and converted not in declared["choices"]:
            raise Unusual
        return converted

    def _take_positional(self, words: list[str]) -> None:
        for name, declared in self._positional:
            count = declared.get("nargs")
            if count in ("...", "*") or (count == "+" and words):
                self._values[name] = [self._converted(word, declared) for word in words]
                words = []
            elif count is None and words:
                self._values[name] = self._converted(words.pop(0), declared)
            else:
                raise Unusual
        if words:
            raise Unusual
