"""Running a program to its end and keeping what it said."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Variables that would change what a program under test does: addresses and namespaces of somebody's daemon, and
#: the switch that makes every Python process compile its modules anew.
_FOREIGN = ("CONTAINERD_", "WHERRY_", "PYTHONDONTWRITEBYTECODE", "PYTEST_", "COV_")


@dataclass(frozen=True)
class Result:
    """A program that ended: its arguments, exit status (negative for a signal), and what it wrote."""

    arguments: tuple[str, ...]
    code: int
    output: bytes
    errors: bytes

    @property
    def text(self) -> str:
        return self.output.decode(errors="replace")

    @property
    def error_text(self) -> str:
        return self.errors.decode(errors="replace")

    def check(self) -> Result:
        """Return itself; AssertionError with all that was written if the status is not 0."""
        assert self.code == 0, f"{' '.join(self.arguments)}: {self.code}\n{self.text}{self.error_text}"
        return self


def as_user(user: int) -> list[str]:
    """Return the beginning of a command that another user runs, without groups and privileges; nothing for root."""
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without what would lead a program under test elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**kept, **(extra or {})}


def run(
    arguments: Sequence[str | Path],
    *,
    input: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    timeout: float = 60.0,
) -> Result:
    """Run a program to its end. subprocess.TimeoutExpired (the program is killed first) after `timeout` seconds."""
    words = tuple(str(argument) for argument in arguments)
    ended = subprocess.run(
        words, check=False, input=input, capture_output=True, env=environment(env), cwd=cwd, timeout=timeout
    )
    return Result(words, ended.returncode, ended.stdout, ended.stderr)
