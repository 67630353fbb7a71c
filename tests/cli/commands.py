"""The installed wherry command, run against a daemon: wherryd over ttrpc, or containerd over gRPC."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.command import Result, run
from tests.harness.daemon import COMMANDS, Daemon
from tests.harness.terminal import Terminal


@dataclass
class Wherry:
    """The command with an address and a namespace."""

    daemon: Daemon
    namespace: str

    def run(self, *arguments: str | Path, input: bytes = b"", env: dict[str, str] | None = None) -> Result:
        """Run it; whatever its exit status is."""
        return run(self.command(*arguments), input=input, env=env)

    def command(self, *arguments: str | Path) -> list[str]:
        """Return the whole command line."""
        flags = ("--address", self.daemon.address, "--namespace", self.namespace)
        return [str(word) for word in (COMMANDS / "wherry", *flags, *arguments)]

    def terminal(self, *arguments: str | Path) -> Terminal:
        """Start it in a terminal of 80 columns."""
        return Terminal(self.command(*arguments))

    def __call__(self, *arguments: str | Path, input: bytes = b"") -> str:
        """Run it and return what it prints; its complaints are the test's failure."""
        return self.run(*arguments, input=input).check().text

    def json(self, *arguments: str | Path) -> Any:
        """Run it and return the JSON that it prints."""
        return json.loads(self(*arguments))

    def fails(self, *arguments: str | Path, input: bytes = b"") -> str:
        """Run it and return its one line of complaint; AssertionError if it has none, or more."""
        result = self.run(*arguments, input=input)
        assert result.code == 1, result
        assert result.output == b"", result
        (line,) = result.error_text.splitlines()
        assert line.startswith("wherry: "), line
        return line.removeprefix("wherry: ")
