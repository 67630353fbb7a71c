"""What a runtime's command line said, call by call, ready to be compared."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tests.harness.command import Result
from tests.runc.command.runtime import Runtime

# What is ours to say otherwise: runc's own text on the left.
_OUR_WORDS = {
    "Intel RDT/CAT: l3 cache schema is not enabled": "Intel RDT: the l3 cache schema is not supported by this runtime",
    "No help topic for 'nonsense'\\n": "No help topic for 'nonsense'",
}


class Transcript:
    """Calls of one runtime, written down without what differs from run to run."""

    def __init__(self, runtime: Runtime, id: str, ours: Mapping[str, str] | None = None) -> None:
        """`ours` is what our runtime says in place of what matches, beside what it always says otherwise."""
        self._runtime = runtime
        self._id = id
        self._ours = {re.escape(theirs): own for theirs, own in _OUR_WORDS.items()} | dict(ours or {})
        self.lines: list[str] = []

    def call(self, *words: str, detached: bool = False, input: bytes = b"", cut: bool = False) -> Result:
        """Run a command; `cut` keeps its output out of the transcript."""
        result = self._runtime.detached(*words) if detached else self._runtime(*words, input=input)
        text = "" if cut else result.text
        self.lines.append(self._normal(f"{' '.join(words)}: {result.code}\n{text}{result.error_text}"))
        return result

    def _normal(self, text: str) -> str:
        text = text.replace(self._id, "<id>").replace(str(self._runtime.directory), "<directory>")
        text = text.replace(self._runtime.program, "runc").replace("wherry-runc: ", "runc: ")
        # A time has as many digits as it takes, and a table's columns are as wide as that.
        text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", text)
        text = re.sub(r" {2,}", "  ", text)
        text = re.sub(r'("pid": ?)[1-9]\d*', r"\1<pid>", text)
        text = re.sub(r"^\[\d+\]$", "[<pid>]", text, flags=re.M)
        text = re.sub(r"^ *\d+ sleep$", "<pid> sleep", text, flags=re.M)
        text = re.sub(r"^((?:root|<id>) +)[1-9]\d*( .*)$", self._row, text, flags=re.M)
        for theirs, own in self._ours.items():
            text = re.sub(theirs, own, text)
        return re.sub(r"^Incorrect Usage.*?(?=^time=)", "<help>\n", text, flags=re.M | re.S)

    @staticmethod
    def _row(match: re.Match[str]) -> str:
        return re.sub(r"\d\d:\d\d(:\d\d)?|\s+\d+\s+\d+(?= )", "<#>", " ".join(f"{match[1]}<pid>{match[2]}".split()))
