"""The same commands against two daemons, and what they said, line by line.

A test here is a flow: a function that takes a `Side` and runs commands through it. `differential` makes a test of it
that plays the flow once against Debian's containerd and once against the subject, and compares the two transcripts
after what must differ (names, paths, and the fields of volatile.py) has been replaced.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import os
import re
import select
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.differential.volatile import VOLATILE, Volatile
from tests.harness.command import Result, environment, run
from tests.harness.daemon import Daemon
from tests.harness.names import unique
from tests.harness.terminal import Terminal


class Side:
    """One daemon during one flow: runs commands against it, and writes the transcript."""

    def __init__(self, daemon: Daemon, directory: Path, *, same_races: bool = False) -> None:
        """With `same_races` its daemon and shims are containerd's own: then it, too, may play a flow again."""
        self.daemon = daemon
        self.same_races = same_races
        #: A directory for this flow, of the same length on both sides.
        self.directory = directory
        self.namespace = daemon.namespace("n")
        self.transcript: list[str] = []
        self._ids: dict[str, str] = {}
        self._ranks: dict[str, dict[str, int]] = {}
        self._replaced = {
            str(directory): "<directory>",
            f"{daemon.address}.ttrpc": "<ttrpc-address>",
            daemon.address: "<address>",
            str(daemon.root): "<root>",
            str(daemon.state): "<state>",
            self.namespace: "<namespace>",
        }

    def again(self) -> Side:
        """Return a new side of the same daemon, with nothing in its namespace, directory and transcript yet."""
        directory = self.directory.parent / unique("s")
        directory.mkdir()
        return Side(self.daemon, directory, same_races=self.same_races)

    def id(self, label: str) -> str:
        """Return the container id (or other name) that stands for `label` on this side."""
        if label not in self._ids:
            self._ids[label] = self.daemon.id(label)
            self._replaced[self._ids[label]] = f"<{label}>"
        return self._ids[label]

    def other_namespace(self, label: str) -> str:
        """Return a second namespace."""
        if label not in self._ids:
            self._ids[label] = self.daemon.namespace(label)
            self._replaced[self._ids[label]] = f"<{label}>"
        return self._ids[label]

    def ctr(self, *arguments: str | Path, namespace: str | None = None, input: bytes = b"") -> Result:
        """Run ctr to its end and write down what it was, said and returned."""
        result = self.daemon.ctr(*arguments, namespace=namespace or self.namespace, input=input)
        self._write(arguments, result.code, result.text, result.error_text)
        return result

    def quietly(self, *arguments: str | Path, input: bytes = b"") -> Result:
        """Run ctr for its effect alone; it must succeed."""
        return self.daemon.ctr(*arguments, namespace=self.namespace, input=input).check()

    def start(self, *arguments: str | Path) -> Background:
        """Start ctr; the transcript gets what it says when it is waited for or ended."""
        return Background(self, arguments)

    def terminal(self, *arguments: str | Path) -> TerminalCommand:
        """Run ctr in a terminal; the transcript gets the screen when the block ends."""
        return TerminalCommand(self, arguments)

    def note(self, what: str, value: object) -> None:
        """Write something down that is compared as well: what a file holds, what a mount shows."""
        lines = value if isinstance(value, list) else str(value).splitlines()
        self.transcript += [self.normal(f"# {what}"), *(self.normal(f"  {line}") for line in lines)]

    def note_output(self, command: str, lines: list[str]) -> None:
        """Write down lines that a command printed and the flow read itself."""
        self.transcript.append(f"$ {command}")
        self.transcript += self.normal_output(command, "stdout", "\n".join(lines))

    def collect(self) -> None:
        """Have what nothing refers to collected now: when it is otherwise differs between the daemons."""
        self.quietly("leases", "create", "--id", "collect")
        self.quietly("leases", "rm", "--sync", "collect")

    def pid(self, container: str) -> int:
        """Return the process id of a container's task."""
        for line in self.quietly("tasks", "ls").text.splitlines():
            if line.split()[0] == container:
                return int(line.split()[1])
        raise AssertionError(f"no task {container}")

    def wait_for(self, container: str, status: str) -> None:
        """Return when `tasks ls` shows the status."""
        self.until(lambda: (container, status) in self._statuses(), f"{container} is not {status}")

    def until(self, true: Callable[[], bool], else_: str, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while not true():
            assert time.monotonic() < deadline, else_
            time.sleep(0.05)

    def _statuses(self) -> set[tuple[str, str]]:
        rows = [line.split() for line in self.quietly("tasks", "ls").text.splitlines()[1:]]
        return {(row[0], row[-1]) for row in rows}

    def _write(self, arguments: tuple[str | Path, ...], code: int, output: str, errors: str) -> None:
        command = " ".join(str(argument) for argument in arguments)
        self.transcript.append(self.normal(f"$ ctr {command}"))
        self.transcript += self.normal_output(command, "stdout", output)
        self.transcript += self.normal_output(command, "stderr", errors)
        self.transcript.append(f"-> {code}")

    def normal_output(self, command: str, stream: str, text: str) -> list[str]:
        text = self.normal(text)
        for volatile in VOLATILE:
            if re.search(volatile.command, command):
                text = re.sub(volatile.pattern, self._replacement(volatile), text, flags=re.MULTILINE)
        return [f"{stream}: {line}" for line in text.splitlines()]

    def _replacement(self, volatile: Volatile) -> str | Callable[[re.Match[str]], str]:
        """Return what re.sub takes: the replacement itself, or a function that puts the match's rank into it."""
        replacement = volatile.replacement
        if not isinstance(replacement, str) or "#" not in replacement:
            return replacement
        ranks = self._ranks.setdefault(replacement, {})

        def ranked(match: re.Match[str]) -> str:
            return replacement.replace("#", str(ranks.setdefault(match[0].strip(), len(ranks) + 1)))

        return ranked

    def normal(self, text: str) -> str:
        """Replace what is this side's own: names, directories, addresses."""
        for own, placeholder in sorted(self._replaced.items(), key=lambda item: -len(item[0])):
            text = text.replace(own, placeholder)
        return text


class Background:
    """A ctr that runs while the flow goes on."""

    def __init__(self, side: Side, arguments: tuple[str | Path, ...]) -> None:
        self._side, self._arguments = side, arguments
        self.lines: list[str] = []
        self._rest = ""
        self._found = 0
        self._process = subprocess.Popen(
            side.daemon.ctr_command(*arguments, namespace=side.namespace),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        )

    def wait(self, timeout: float = 60.0) -> None:
        """Wait for its end and write it down."""
        try:
            output, errors = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        self._side._write(self._arguments, self._process.returncode, output, errors)

    def heard(self, word: str, timeout: float) -> bool:
        """Read on, from behind what the last such call found, to a line with the word; False if none comes."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout
        while True:
            for number in range(self._found, len(self.lines)):
                if word in self.lines[number]:
                    self._found = number + 1
                    return True
            if not select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return False
            data = os.read(self._process.stdout.fileno(), 65536).decode(errors="replace")
            assert data, f"{self._arguments} ended"
            *complete, self._rest = (self._rest + data).split("\n")
            self.lines += complete

    def expect(self, word: str, timeout: float) -> None:
        """As `heard`, but AssertionError if no such line comes."""
        assert self.heard(word, timeout), f"no {word!r} in:\n" + "\n".join(self.lines)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        """End it whatever it does; nothing is written down."""
        self._process.kill()
        self._process.communicate()


#: What a terminal's programs are: they show it, read a line, wait for another window size, and end with a status of
#: their own. (A busybox shell's line editor asks the terminal for its cursor, at moments that vary.)
#: stty says nothing when the change of size interrupts it, so it is asked until it knows the size.
AWAIT_SIZE = 'until [ "$(stty size 2>/dev/null)" = "{}" ]; do sleep 0.05; done; echo "{}"'
TERMINAL_SCRIPT = f"""tty; {AWAIT_SIZE.format("24 80", "24 80")}; echo ready; read line; echo "got $line"
{AWAIT_SIZE.format("30 100", "30 100")}; exit 5"""


_RESIZES = 8


def use_terminal(terminal: Terminal) -> None:
    """Do with a terminal that runs TERMINAL_SCRIPT what it waits for."""
    terminal.read_until("ready")
    terminal.enter("a line\n")
    terminal.read_until("got a line")
    for _ in range(_RESIZES):
        terminal.resize(30, 100)
        try:
            terminal.read_until("30 100", timeout=3.0)
            return
        except AssertionError:
            # A client begins to listen for changes after it has set the first size: on a busy machine, after this one.
            terminal.resize(31, 100)
    raise AssertionError(f"the size is never another one: {terminal.text!r}")


class TerminalCommand:
    """A ctr in a terminal, typed to."""

    def __init__(self, side: Side, arguments: tuple[str | Path, ...]) -> None:
        self._side, self._arguments = side, arguments

    def __enter__(self) -> Terminal:
        self._terminal = Terminal(self._side.daemon.ctr_command(*self._arguments, namespace=self._side.namespace))
        return self._terminal

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                code = self._terminal.wait()
                self._side._write(self._arguments, code, self._terminal.text, "")
        finally:
            self._terminal.__exit__(None, None, None)


#: How often containerd may play a flow until one of its transcripts is the subject's: much of what it does (its
#: collector, its events, the clients that its shims' output goes to) comes in an order that varies from run to run.
REFERENCE_RUNS = 5


def differential(flow: Callable[..., None]) -> Callable[..., None]:
    """Make a test of a flow: both daemons play it, and what the subject's transcript says, containerd's must say too.

    The subject plays once. Where the two differ containerd plays again, so that a difference is one to all its runs.
    """

    def test(sides: tuple[Side, Side], **arguments: Any) -> None:
        reference, subject = sides
        for side in sides:
            flow(side, **arguments)
        assert subject.transcript, "nothing was compared"
        said, heard = [reference.transcript], [subject.transcript]
        for _ in range(1, REFERENCE_RUNS):
            if any(transcript in said for transcript in heard):
                return
            reference = reference.again()
            flow(reference, **arguments)
            said.append(reference.transcript)
            if subject.same_races:
                subject = subject.again()
                flow(subject, **arguments)
                heard.append(subject.transcript)
        if not any(transcript in said for transcript in heard):
            difference = difflib.unified_diff(said[0], heard[0], "containerd", subject.daemon.kind, n=4, lineterm="")
            raise AssertionError("not the same:\n" + "\n".join(difference))

    parameters = list(inspect.signature(flow).parameters.values())
    parameters[0] = parameters[0].replace(name="sides")
    test.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    test.__name__, test.__qualname__, test.__doc__ = flow.__name__, flow.__qualname__, flow.__doc__
    test.__module__ = flow.__module__
    return test


def same_length_directories(parent: Path) -> tuple[Path, Path]:
    """Make two directories with names of one length, so that tables of paths have columns of one width."""
    both = (parent / unique("s"), parent / unique("s"))
    for directory in both:
        directory.mkdir()
    return both


def tar_listing(archive: Path) -> list[str]:
    """Return an archive's members with their contents' digests."""
    lines = []
    with tarfile.open(archive) as opened:
        for member in opened:
            stream = opened.extractfile(member) if member.isreg() else None
            digest = hashlib.sha256(stream.read()).hexdigest()[:16] if stream else "-"
            lines.append(f"{member.name} {member.type!r} {member.mode:o} {member.size} {digest}")
    return lines


def tree(directory: Path) -> list[str]:
    """Return a directory's tree as `find` prints it, for comparing what a mount shows."""
    found = run(["find", directory, "-mindepth", "1", "-printf", "%P %y %m %U:%G %s %l\n"]).check()
    # The size of a directory is the file system's business.
    return sorted(re.sub(r"^(.* d \d+ \S+) \d+", r"\1", line) for line in found.text.splitlines())
