"""The same docker commands on several dockerds, one of them all Debian's, and what they said, line by line.

A test here is a flow, as in tests/differential: a function that runs docker through a `Side`, played on Debian's
dockerd, containerd and shim, and on dockerds with something of ours below them. The transcripts must be the same.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
import select
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.harness.command import Result, environment
from tests.harness.dockerd import Dockerd
from tests.harness.terminal import Terminal

#: The image that every dockerd here has.
IMAGE = "busybox"

#: Before every command that starts a container: no network is set up for it.
RUN = ("run", "--network", "none")

#: A command that makes the file /ready, runs on, and ends with a status of its own when it is told to.
ENDS = ("sh", "-c", "trap 'exit 7' TERM; trap 'exit 8' USR1; sleep 1000 & touch /ready; wait")


@dataclass(frozen=True)
class Volatile:
    """What may differ between two runs of the same: a pattern, what stands for it, and why."""

    pattern: str
    replacement: str
    reason: str


VOLATILE = (
    Volatile(r"\b[0-9a-f]{64}\b", "<id>", "Container ids are random."),
    Volatile(
        r'^time="[^"]+" level=error msg="error waiting for container: context canceled"\n',
        "",
        "The client says so or not when a container cannot be started, whichever of its two requests ends first.",
    ),
    Volatile(r"^ *\d+( +)(?=\S)", r"<pid>\1", "`docker top` begins with process ids."),
)


class Engine(Protocol):
    """What a flow is played on: a dockerd, or a podman."""

    directory: Path

    @property
    def docker_environment(self) -> Mapping[str, str]: ...

    def docker_command(self, *arguments: str | Path) -> list[str]: ...

    def docker(self, *arguments: str | Path, input: bytes = b"", timeout: float = 60.0) -> Result: ...

    def docker_terminal(self, *arguments: str | Path) -> Terminal: ...

    def remove_containers(self) -> None: ...


class EngineSide:
    """One engine during one flow: runs commands against it, and writes the transcript."""

    #: Whether its races are the reference's: then it, too, may play a flow again.
    same_races = False

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.began = time.time()
        self.transcript: list[str] = []

    def docker(self, *arguments: str | Path, input: bytes = b"") -> Result:
        """Run docker to its end and write down what it was, said and returned."""
        result = self.engine.docker(*arguments, input=input)
        self._write(arguments, result.code, result.text, result.error_text)
        return result

    def quietly(self, *arguments: str | Path) -> str:
        """Run docker for its effect alone; it must succeed. Returns what it printed."""
        return self.engine.docker(*arguments).check().text

    def run(self, *arguments: str, input: bytes = b"") -> Result:
        """Write down a `docker run`; the arguments are flags, the image's name and a command."""
        return self.docker(*RUN, *arguments, input=input)

    def started(self, name: str, *arguments: str) -> str:
        """Start a container that runs in the background; the arguments are flags, the image and its command."""
        self.quietly(*RUN, "--detach", "--name", name, *(arguments or (IMAGE, "sleep", "1000")))
        return name

    def start(self, *arguments: str | Path) -> Background:
        """Start docker; the transcript gets what it says when it is waited for."""
        return Background(self, arguments)

    def terminal(self, *arguments: str | Path) -> TerminalCommand:
        """Run docker in a terminal; the transcript gets the screen when the block ends."""
        return TerminalCommand(self, arguments)

    def note(self, what: str, value: object) -> None:
        """Write something down that is compared as well."""
        self.transcript += [f"# {what}", *(f"  {line}" for line in self.normal(str(value)).splitlines())]

    def state(self, name: str) -> None:
        """Write down what dockerd knows of a container's state."""
        fields = "Status Running Paused Restarting OOMKilled Dead ExitCode Error".split()
        state = " ".join(f"{field}={{{{.State.{field}}}}}" for field in fields)
        self.docker("inspect", "--format", state, name)

    def inspected(self, name: str, field: str) -> str:
        """Return one field of what dockerd knows of a container."""
        return self.quietly("inspect", "--format", f"{{{{{field}}}}}", name).strip()

    def wait_for(self, name: str, status: str) -> None:
        """Return when a container's status is this one."""
        self.until(lambda: self.inspected(name, ".State.Status") == status, f"{name} is not {status}")

    def ready(self, name: str) -> None:
        """Return when a container's program has made the file /ready."""
        self.until(lambda: self.engine.docker("exec", name, "test", "-e", "/ready").code == 0, f"{name} is not ready")

    def until(self, true: Callable[[], bool], else_: str, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while not true():
            assert time.monotonic() < deadline, else_
            time.sleep(0.05)

    def events(self, name: str) -> None:
        """Write down a container's events since the flow began."""
        form = '{{.Action}} {{index .Actor.Attributes "exitCode"}} {{index .Actor.Attributes "signal"}}'
        span = (f"--since={self.began:.6f}", f"--until={time.time():.6f}", f"--filter=container={name}")
        lines = self.quietly("events", *span, f"--format={form}").splitlines()
        self.note(f"events of {name}", "\n".join(line.strip() for line in lines))

    def _write(self, arguments: tuple[str | Path, ...], code: int, output: str, errors: str) -> None:
        self.transcript.append(self.normal(f"$ docker {' '.join(str(argument) for argument in arguments)}"))
        for stream, text in (("stdout", output), ("stderr", errors)):
            self.transcript += [f"{stream}: {line}" for line in self.normal(text).splitlines()]
        self.transcript.append(f"-> {code}")

    def normal(self, text: str) -> str:
        text = text.replace(str(self.engine.directory), "<directory>")
        for volatile in VOLATILE:
            text = re.sub(volatile.pattern, volatile.replacement, text, flags=re.MULTILINE)
        return text


class Side(EngineSide):
    """One dockerd during one flow."""

    def __init__(self, dockerd: Dockerd) -> None:
        super().__init__(dockerd)
        self.dockerd = dockerd


class Background:
    """A docker that runs while the flow goes on."""

    def __init__(self, side: EngineSide, arguments: tuple[str | Path, ...]) -> None:
        self._side, self._arguments = side, arguments
        self._seen = b""
        self._process = subprocess.Popen(
            side.engine.docker_command(*arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(side.engine.docker_environment),
        )

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def write(self, data: bytes) -> None:
        """Write to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def read_until(self, text: bytes, timeout: float = 30.0) -> None:
        """Read on until a text has come. AssertionError if it does not."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout
        while text not in self._seen:
            ready = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
            data = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            assert data, f"no {text!r} from {self._arguments}, but {self._seen!r}"
            self._seen += data

    def wait(self, timeout: float = 60.0) -> None:
        """Wait for its end and write down what it said, both streams as one."""
        rest, _ = self._process.communicate(timeout=timeout)
        output = (self._seen + rest).decode(errors="replace")
        self._side._write(self._arguments, self._process.returncode, output, "")


class TerminalCommand:
    """A docker in a terminal, typed to."""

    def __init__(self, side: EngineSide, arguments: tuple[str | Path, ...]) -> None:
        self._side, self._arguments = side, arguments

    def __enter__(self) -> Terminal:
        self._terminal = self._side.engine.docker_terminal(*self._arguments)
        return self._terminal

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                code = self._terminal.wait()
                self._side._write(self._arguments, code, self._terminal.text, "")
        finally:
            self._terminal.__exit__(None, None, None)


#: How often the reference may play a flow until one of its transcripts is the subject's: some of what it says depends
#: on races of its own.
REFERENCE_RUNS = 3

#: Which of the dockerds is the one to compare with.
REFERENCE = "all Debian's"


def differential(flow: Callable[..., None]) -> Callable[..., None]:
    """Make a test of a flow: all dockerds play it at the same time, and must say what the reference says."""
    return played_by(flow, Side, "dockerds", REFERENCE)


def played_by(
    flow: Callable[..., None], new_side: Callable[[Any], EngineSide], fixture: str, reference: str
) -> Callable[..., None]:
    """Make a test of a flow, which the engines of a fixture play: all must say what the reference among them says."""

    def test(**arguments: Any) -> None:
        engines: Mapping[str, Engine] = arguments.pop(fixture)
        sides = {name: new_side(engine) for name, engine in engines.items()}

        def play(side: EngineSide) -> None:
            flow(side, **arguments)
            assert side.transcript, "nothing was compared"
            side.engine.remove_containers()

        # Much of what docker does is waiting.
        with ThreadPoolExecutor() as threads:
            playing = {name: threads.submit(play, side) for name, side in sides.items()}
            for name, played in playing.items():
                if error := played.exception():
                    error.add_note(f"on {name}, after:\n" + "\n".join(sides[name].transcript[-20:]))
                    raise error
        said = [sides.pop(reference).transcript]
        for name, side in sides.items():
            heard = [side.transcript]
            while not any(transcript in said for transcript in heard) and len(said) < REFERENCE_RUNS:
                for runner, transcripts in ((reference, said), (name, heard)):
                    if runner == reference or side.same_races:
                        again = new_side(engines[runner])
                        play(again)
                        transcripts.append(again.transcript)
            if not any(transcript in said for transcript in heard):
                difference = difflib.unified_diff(said[0], heard[0], reference, name, n=4, lineterm="")
                raise AssertionError("not the same:\n" + "\n".join(difference))

    first, *others = inspect.signature(flow).parameters.values()
    test.__signature__ = inspect.Signature([first.replace(name=fixture), *others])  # type: ignore[attr-defined]
    test.__name__, test.__qualname__, test.__doc__ = flow.__name__, flow.__qualname__, flow.__doc__
    test.__module__ = flow.__module__
    return test
