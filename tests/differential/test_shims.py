"""The shims exchanged: wherryd with Debian's own, Debian's containerd with ours, under both command lines.

The flows are those of the other files here; what ctr prints must be what it prints of containerd with its own shims.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.differential.test_events import test_life_of_a_task as test_events_of_a_task
from tests.differential.test_run import (
    test_bad_command,
    test_detach,
    test_mount,
    test_output_and_status,
    test_root_file_system,
    test_terminal,
    test_with_ns,
)
from tests.differential.test_shim_command import test_shim_command
from tests.differential.test_tasks import (
    test_attach,
    test_attach_to_a_terminal,
    test_background_processes_end_with_the_container,
    test_checkpoint_where_criu_cannot_work,
    test_exec,
    test_exec_errors,
    test_exec_in_a_terminal,
    test_kill_all,
    test_kill_an_exec,
    test_list,
    test_metrics,
    test_pause_and_resume,
    test_ps,
    test_remove,
    test_restart_of_the_daemon,
    test_start_again,
)
from tests.harness import leaks
from tests.harness.archives import BUSYBOX
from tests.harness.daemon import Containerd, ContainerdWithOurShims, Daemon, WherrydWithDebiansShims

__all__ = [
    "test_attach",
    "test_attach_to_a_terminal",
    "test_background_processes_end_with_the_container",
    "test_bad_command",
    "test_checkpoint_where_criu_cannot_work",
    "test_detach",
    "test_events_of_a_task",
    "test_exec",
    "test_exec_errors",
    "test_exec_in_a_terminal",
    "test_kill_all",
    "test_kill_an_exec",
    "test_list",
    "test_metrics",
    "test_mount",
    "test_output_and_status",
    "test_pause_and_resume",
    "test_ps",
    "test_remove",
    "test_restart_of_the_daemon",
    "test_root_file_system",
    "test_shim_command",
    "test_start_again",
    "test_terminal",
    "test_with_ns",
]


@pytest.mark.parametrize("runtime", ["io.containerd.runc.v2", "io.containerd.runtime.v1.linux"])
def test_the_shims_are_exchanged(subject: Daemon, busybox_archive: Path, runtime: str) -> None:
    namespace, container = subject.namespace(), subject.id()
    subject.ctr("images", "import", busybox_archive, namespace=namespace).check()
    flags = ("run", "--detach", "--null-io", "--runtime", runtime)
    subject.ctr(*flags, BUSYBOX, container, "sleep", "1000", namespace=namespace).check()
    (shim,) = (line for line in leaks.processes(namespace) if "-namespace" in line)
    # Ours run from a mount of the interpreter that is nowhere, which has no path but "/".
    program = Path(f"/proc/{shim.split()[0]}/exe").readlink().name or "python"
    assert program.startswith("python" if isinstance(subject, Containerd) else "containerd-shim"), shim


@pytest.fixture(scope="session", params=["wherryd with Debian's shims", "containerd with our shims"])
def subject(request: pytest.FixtureRequest, start_session_daemon: StartDaemon) -> Daemon:
    if "wherryd" in request.param:
        return start_session_daemon(WherrydWithDebiansShims())
    return start_session_daemon(ContainerdWithOurShims())
