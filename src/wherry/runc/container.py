"""A container that was created: what any later call, by any process, can do with it. OCI runtime specification,
runtime.md, "Operations"."""

from __future__ import annotations

import os

from wherry.errors import FailedPrecondition, NotFound, Unknown
from wherry.linux import signals
from wherry.oci import json_text
from wherry.runc.cgroups.cgroup import load_cgroup
from wherry.runc.gate import is_waiting, open_gate
from wherry.runc.hooks import run_hooks
from wherry.runc.spec import check_id, check_resources
from wherry.runc.state import directory_of, hook_state, ids, read_state, remove_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runc.cgroups.cgroup import Cgroup
    from wherry.runc.state import State

#: Seconds for a killed process to be gone.
_KILL_TIMEOUT = 10.0


class Container:
    """One container, as its state directory has it."""

    __slots__ = ("cgroup", "root", "state_record")

    def __init__(self, root: str, state: State, cgroup: Cgroup) -> None:
        self.root = root
        self.state_record = state
        self.cgroup = cgroup

    @classmethod
    def load(cls, root: str, id: str) -> Container:
        """Return a container of a root directory. NotFound("container does not exist"), InvalidArgument for the id."""
        check_id(id)
        state = read_state(root, id)
        return cls(root, state, load_cgroup(state.cgroup, systemd_unit=state.systemd_unit, rootless=state.rootless))

    def is_current(self) -> bool:
        """Tell whether its document is the one that it was loaded from: else it is to be loaded again."""
        return self.state_record.is_current(self.directory)

    # -- looks ------------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self.state_record.id

    @property
    def bundle(self) -> str:
        return self.state_record.bundle

    @property
    def spec(self) -> dict[str, Any]:
        return self.state_record.spec

    @property
    def rootfs(self) -> str:
        return os.path.join(self.bundle, self.spec["root"].get("path") or "")

    @property
    def pid(self) -> int:
        """Init's; 0 when it has ended."""
        return self.state_record.pid if self._is_alive() else 0

    @property
    def created(self) -> str:
        """When, RFC 3339."""
        return self.state_record.created

    @property
    def annotations(self) -> dict[str, str]:
        annotations: dict[str, str] = self.spec.get("annotations") or {}
        return annotations

    @property
    def owner(self) -> int:
        """The user id of whoever created it."""
        return self.state_record.user

    @property
    def directory(self) -> str:
        return directory_of(self.root, self.id)

    def status(self) -> str:
        """Return "created", "running", "paused" or "stopped"."""
        if not self._is_alive():
            return "stopped"
        if self.cgroup.frozen():
            return "paused"
        return "created" if is_waiting(self.directory) else "running"

    def _is_alive(self) -> bool:
        state = self.state_record
        if not state.pid:
            return False
        try:
            with open(f"/proc/{state.pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return fields[0] not in (b"Z", b"X") and int(fields[19]) == state.start_time

    def state(self) -> dict[str, Any]:
        """Return the state document, with runc's additions."""
        status = self.status()
        return {
            "ociVersion": self.spec.get("ociVersion") or "",
            "id": self.id,
            "pid": self.state_record.pid if status != "stopped" else 0,
            "status": status,
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
            **({"annotations": self.annotations} if self.annotations else {}),
            "owner": "",
        }

    def pids(self) -> list[int]:
        """Return the container's processes."""
        return self.cgroup.pids()

    def stats(self) -> dict[str, Any]:
        """Return the figures of its cgroup, as `runc events --stats` has them under "data"."""
        return self.cgroup.stats()

    # -- what is done to it -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let the created process go on to its program. FailedPrecondition in any other state."""
        if not self._is_alive():
            raise FailedPrecondition_("cannot start a container that has stopped")
        try:
            opened = open_gate(self.directory)
        except OSError as error:
            raise Unknown(f"unable to start: {error}") from None
        if not opened:
            raise FailedPrecondition_("cannot start an already running container")
        self._run_poststart_hooks()

    def _run_poststart_hooks(self) -> None:
        hooks = (self.spec.get("hooks") or {}).get("poststart") or ()
        if not hooks:
            return
        try:
            run_hooks(hooks, self._hook_state("running"), self.bundle)
        except Unknown:
            self._signal_init(signals.SIGKILL)
            raise

    def _hook_state(self, status: str) -> bytes:
        return json_text.dumps(hook_state(self.state_record, status)).encode()

    def kill(self, number: int, *, all: bool = False) -> None:
        """Send a signal to init, or to every process. NotFound("container not running") if there is no init."""
        every = all or (number == signals.SIGKILL and self._shares_pid_namespace())
        if every and self.cgroup.pids():
            self.cgroup.kill(number)
            return
        if all and not self._is_alive():
            return  # as in runc, nobody being there is no error
        self._signal_init(number)  # without a cgroup of its own no other process is known to be its
        if number == signals.SIGKILL and self.cgroup.frozen():
            self.cgroup.thaw()  # v1: a frozen process does not die of it

    def _shares_pid_namespace(self) -> bool:
        namespaces = (self.spec.get("linux") or {}).get("namespaces") or ()
        return not any(entry.get("type") == "pid" and not entry.get("path") for entry in namespaces)

    def _signal_init(self, number: int) -> None:
        pidfd = self.open_init()
        try:
            signals.send(pidfd, number)
        except ProcessLookupError:
            raise _not_running() from None
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise Unknown(f"unable to signal init: {reason}") from None
        finally:
            os.close(pidfd)

    def open_init(self) -> int:
        """Return a pidfd of init, proven by its start time. NotFound("container not running")."""
        state = self.state_record
        try:
            if not state.pid:
                raise ProcessLookupError
            pidfd = os.pidfd_open(state.pid)
        except ProcessLookupError:
            raise _not_running() from None
        if self._is_alive():
            return pidfd
        os.close(pidfd)
        raise _not_running()

    def pause(self) -> None:
        """Freeze every process. FailedPrecondition unless it runs."""
        status = self.status()
        if status not in ("created", "running"):
            raise FailedPrecondition_("container not running")
        self.cgroup.freeze()

    def resume(self) -> None:
        """Let every process go on. FailedPrecondition unless it is paused."""
        if self.status() != "paused":
            raise FailedPrecondition_("container not paused")
        self.cgroup.thaw()

    def update(self, resources: dict[str, Any]) -> None:
        """Change the limits to those of a LinuxResources document, the others left as they are.

        NotFound if it is stopped, InvalidArgument for the document.
        """
        if not self._is_alive():
            raise _not_running()
        check_resources(resources)
        self.cgroup.set(resources)
        recorded = self.spec.setdefault("linux", {}).setdefault("resources", {})
        for name, values in resources.items():
            if isinstance(values, dict) and isinstance(recorded.get(name), dict):
                recorded[name].update(values)
            else:
                recorded[name] = values
        self.state_record.spec_changed()
        self.state_record.write(self.directory)

    def delete(self, *, force: bool = False) -> str:
        """Forget the container, its cgroup with it. FailedPrecondition while it runs, unless `force` kills it first.

        Returns why a poststop hook failed, which harms nobody any more: "" if none did.
        """
        if self._is_alive():
            if force:
                self._end()
            elif is_waiting(self.directory) and not self.cgroup.frozen():
                self._end()  # it was created and never started
            else:
                status = self.status()
                raise FailedPrecondition_(f"cannot delete container {self.id} that is not stopped: {status}")
        elif force or self._shares_pid_namespace():
            self._end_the_rest()
        self.cgroup.delete()
        hooks = (self.spec.get("hooks") or {}).get("poststop") or ()
        _remove(self.directory)
        if hooks:
            try:
                run_hooks(hooks, self._hook_state("stopped"), self.bundle)
            except Unknown as error:
                return error.message
        return ""

    def _end(self) -> None:
        """Kill init and wait for it to be gone, whoever collects it."""
        try:
            pidfd = self.open_init()
        except NotFound:
            return
        try:
            signals.send(pidfd, signals.SIGKILL)
            if self.cgroup.frozen():
                self.cgroup.thaw()
            self._end_the_rest()
            _wait(pidfd)
        except ProcessLookupError:
            return  # at this moment
        finally:
            os.close(pidfd)

    def _end_the_rest(self) -> None:
        if self.cgroup.pids():
            self.cgroup.kill(signals.SIGKILL)

    def wait(self) -> int:
        """Return the exit code, as a shell has it, of an init that is a child of this process, when it has ended."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.state_record.pid, 0)[1])
        return status if status >= 0 else 128 - status


def FailedPrecondition_(text: str) -> FailedPrecondition:  # noqa: N802  # stands where the class would
    """Return the error with runc's words alone: clients compare them."""
    error = FailedPrecondition()
    error.message = text
    error.args = (text,)
    return error


def _not_running() -> NotFound:
    error = NotFound()
    error.message = "container not running"
    error.args = (error.message,)
    return error


def _wait(pidfd: int) -> None:
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(_KILL_TIMEOUT * 1000):
        raise Unknown(f"the container's process does not end within {_KILL_TIMEOUT:.0f} s of SIGKILL")


def _remove(directory: str) -> None:
    try:
        remove_directory(directory)
    except FileNotFoundError:
        return  # another has deleted it at this moment
    except OSError as error:
        raise Unknown(f"unable to remove {directory}: {(error.strerror or '').lower()}") from None


def containers(root: str) -> list[Container]:
    """Return all containers of a root directory; one that is removed meanwhile is left out."""
    found = []
    for id in ids(root):
        try:
            found.append(Container.load(root, id))
        except NotFound:
            continue
    return found
