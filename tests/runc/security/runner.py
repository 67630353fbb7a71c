"""A container's life by the runtime's Python API, in a process of its own: what the tests of attacks run.

    runner.py JOB

JOB is a file with a JSON object:

- `root`, `id`, `bundle`: the state directory, the container's id and its bundle;
- `steps`: what is done, one after another: the methods below of these names with a `_` before them;
- `without`: names of functions in `defences.py`, called before; `name=argument` for those that take one;
- `protect`: how this program's own file is protected: "mount", "memfd", "" for not at all, or "mount-kept", a mount
  that another process keeps the descriptor of;
- `keep`: whether the containers are left there at the end;
- `console`: whether the container is given a terminal;
- `output`: where its standard output goes; `answer`: where this program writes what came of it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), *[".."] * 3))
sys.path.insert(0, os.path.join(sys.path[0], "src"))

from wherry.linux import own_executable

_PATIENCE = 15.0


class Job:
    """One job under way."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._containers: list[Any] = []
        #: What is told of it.
        self.answer: dict[str, Any] = {"codes": [], "pids": [], "states": [], "failures": []}

    def run(self) -> None:
        """Take every step; what fails ends it, and is in the answer."""
        from tests.runc.security import defences
        from wherry.errors import Error

        self.answer["protected"] = own_executable.is_protected()
        try:
            if self._job.get("protect") and not self.answer["protected"]:
                raise AssertionError("the interpreter is not protected")
            for name in self._job["without"]:
                word, _, argument = name.partition("=")
                getattr(defences, word)(*([argument] if argument else []))
            for step in self._job["steps"]:
                self._take(step)
        except Error as error:
            self.answer |= {"kind": type(error).__name__, "error": error.message}
        except OSError as error:
            self.answer |= {"kind": "OSError", "error": str(error)}
        except BaseException as error:
            import traceback

            self.answer |= {"kind": f"! {type(error).__name__}", "error": str(error)}
            self.answer["traceback"] = traceback.format_exc()
        finally:
            self._clean_up()

    def _end_others(self) -> None:
        """End what was exec'ed and is there still: as long as it is not collected, no container's init can end."""
        inits = [container.state_record.pid for container in self._containers]
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            children = [int(pid) for pid in file.read().split()]
        for pid in children:
            if pid not in inits:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _clean_up(self) -> None:
        if not self._job.get("keep"):
            self._end_others()
        # One that has joined another's pid namespace comes first, and is collected: the other ends after it.
        for container in [] if self._job.get("keep") else reversed(self._containers):
            try:
                container.delete(force=True)
                os.waitpid(container.state_record.pid, 0)
            except ChildProcessError:
                continue  # it was waited for, or has been loaded
            except Exception as error:  # the test says what it thinks of it
                self.answer.setdefault("clean-up", str(error))

    def _take(self, step: Any) -> None:
        if isinstance(step, dict):
            kind = next(iter(step))
            getattr(self, f"_{kind}")(step)
        else:
            getattr(self, f"_{step}")()

    @property
    def _container(self) -> Any:
        return self._containers[-1]

    def _create(self, step: dict[str, Any] | None = None) -> None:
        from wherry.errors import Error

        try:
            self._create_one(step)
        except Error as error:
            if not step or not step.get("may_fail"):
                raise
            self.answer["failures"].append(error.message)

    def _create_one(self, step: dict[str, Any] | None) -> None:
        from wherry.runc.create import CreateOptions, create
        from wherry.runc.spec import load_spec

        job = {**self._job, **(step or {})}
        output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        listener = self._console_socket(job["output"]) if job.get("console") else None
        try:
            spec = load_spec(job["bundle"])
            if step and "join" in step:
                for entry in spec["linux"]["namespaces"]:
                    if entry["type"] in step["join"]:
                        name = {"mount": "mnt", "network": "net"}.get(entry["type"], entry["type"])
                        entry["path"] = f"/proc/{self._container.pid}/ns/{name}"
            options = CreateOptions(
                job["bundle"],
                stdio=(null, output, output),
                console_socket=f"{job['output']}.sock" if listener else "",
                rootless=bool(job.get("rootless")),
            )
            started = time.monotonic()
            self._containers.append(create(job["root"], job["id"], spec, options))
            self.answer["seconds"] = time.monotonic() - started
            self.answer["pids"].append(self._container.pid)
        finally:
            os.close(output)
            os.close(null)
            if listener is not None:
                listener.close()

    def _console_socket(self, output: str) -> Any:
        import socket

        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(f"{output}.sock")
        listener.listen(1)
        return listener

    def _life(self, step: dict[str, Any]) -> None:
        """Have a container live and die, or fail: its error, or its exit code, is in the answer."""
        from wherry.errors import Error

        output = f"{step['life']}/life.output"
        job = {"create": True, "bundle": step["life"], "output": output, "console": step.get("console", False)}
        code, kind, message = None, "", ""
        try:
            self._create_one(job)
            self._container.start()
            code = self._container.wait()
        except (Error, OSError) as error:
            kind, message = type(error).__name__, str(error)
        except BaseException as error:
            kind, message = f"! {type(error).__name__}", str(error)
        while self._containers:
            self._containers.pop().delete(force=True)
        self.answer.setdefault("lives", []).append([code, kind, message])

    def _fuzz(self, step: dict[str, Any]) -> None:
        """Have one specification after another made a container of and deleted; what comes of each is in the answer."""
        from wherry.errors import Error
        from wherry.runc.create import CreateOptions, create
        from wherry.runc.spec import parse_spec

        with open(os.path.join(self._job["bundle"], "config.json")) as file:
            text = file.read()
        results = self.answer["results"] = []
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for path, value in step["fuzz"]:
            spec = json.loads(text)
            place: Any = spec
            *parents, last = path
            for part in parents:
                place = place[part]
            place[last] = value
            try:
                checked = parse_spec(json.dumps(spec).encode(), "config.json")
                options = CreateOptions(self._job["bundle"], stdio=(null, null, null))
                created = create(self._job["root"], self._job["id"], checked, options)
                try:
                    results.append(["", ""])
                finally:
                    created.delete(force=True)
            except (Error, OSError) as error:
                results.append([type(error).__name__, str(error)])
            except BaseException as error:
                import traceback

                results.append(["! " + type(error).__name__, traceback.format_exc()])
        os.close(null)

    def _load(self, step: dict[str, Any]) -> None:
        from wherry.runc.container import Container

        self._containers.append(Container.load(self._job["root"], step["load"]))

    def _start(self, _step: Any = None) -> None:
        self._container.start()

    def _wait(self, _step: Any = None) -> None:
        self.answer["codes"].append(self._container.wait())

    def _delete(self, _step: Any = None) -> None:
        self._containers.pop().delete()

    def _delete_last(self) -> None:
        while len(self._containers) > 1:
            self._containers.pop().delete(force=True)

    def _owner(self) -> None:
        self.answer["owner"] = os.stat(f"/proc/{self._container.pid}/environ").st_uid

    def _state(self, _step: Any = None) -> None:
        self.answer["states"].append(self._container.state())

    def _exec(self, step: dict[str, Any]) -> None:
        from wherry.runc.exec import ExecOptions, exec_process

        output = os.open(step["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        listener = self._console_socket(self._job["output"]) if step["exec"].get("terminal") else None
        options = ExecOptions(
            stdio=(null, output, output), console_socket=f"{self._job['output']}.sock" if listener else ""
        )
        try:
            pid = exec_process(self._containers[step.get("container", -1)], step["exec"], options)
        finally:
            if listener is not None:
                listener.close()
            os.close(output)
            os.close(null)
        if step.get("wait", True):
            self.answer["codes"].append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def _await(self, step: dict[str, Any]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            with open(step.get("output", self._job["output"])) as file:
                if step["await"] in file.read():
                    return
            if time.monotonic() > deadline:
                raise AssertionError(f"{step['await']!r} is not said")
            time.sleep(0.005)

    def _touch(self, step: dict[str, Any]) -> None:
        with open(step["touch"], "w"):
            pass

    def _sleep(self, step: dict[str, Any]) -> None:
        time.sleep(step["sleep"])


def _run_protected(how: str) -> None:
    """Run this program again by a protected copy of its interpreter."""
    program = own_executable.read_only_mount() if how.startswith("mount") else own_executable.sealed_copy()
    if how == "mount-kept":
        os.set_inheritable(program, True)
        null = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1, 2)]
        os.posix_spawn("/bin/sleep", ["sleep", "4"], {}, file_actions=null)
        os.set_inheritable(program, False)
    environment = own_executable.library_path(os.environ) | {"WHERRY_RUN_AGAIN": "1"}
    os.execve(f"/proc/self/fd/{program}", [sys.executable, *sys.argv], environment)


def main() -> None:
    with open(sys.argv[1]) as file:
        described = json.load(file)
    if described.get("protect") and "WHERRY_RUN_AGAIN" not in os.environ:
        _run_protected(described["protect"])
    own_executable.restore_environment()
    os.environ.pop("WHERRY_RUN_AGAIN", None)
    job = Job(described)
    try:
        job.run()
    finally:
        with open(described["answer"], "w") as file:
            json.dump(job.answer, file)


if __name__ == "__main__":
    main()
