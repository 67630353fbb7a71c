"""Debian's containerd and its shims with wherry-runc: flows of tests/differential, which with runc say the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.differential.test_run import (  # noqa: F401  # tests, which are played here with the sides below
    test_bad_command,
    test_detach,
    test_output_and_status,
    test_signal_is_forwarded,
    test_terminal,
)
from tests.differential.test_tasks import (  # noqa: F401
    test_background_processes_end_with_the_container,
    test_exec,
    test_exec_errors,
    test_exec_in_a_terminal,
    test_kill_all,
    test_kill_an_exec,
    test_metrics,
    test_pause_and_resume,
    test_ps,
    test_remove,
)
from tests.differential.transcript import Side, same_length_directories
from tests.harness.archives import BUSYBOX
from tests.harness.command import run
from tests.harness.daemon import Containerd, ContainerdWithOurRuntime
from tests.runc.seams.conftest import PROGRAMS


@pytest.fixture(scope="module")
def with_our_runtime(start_session_daemon: StartDaemon) -> Containerd:
    return start_session_daemon(ContainerdWithOurRuntime())


@pytest.fixture
def sides(containerd: Containerd, with_our_runtime: Containerd, tmp_path: Path) -> tuple[Side, Side]:
    first, second = same_length_directories(tmp_path)
    return Side(containerd, first), Side(with_our_runtime, second, same_races=True)


def test_which_runtime(containerd: Containerd, with_our_runtime: Containerd, busybox_archive: Path) -> None:
    """In the directory that containerd's shims give to any runtime, each finds its own containers and no others."""
    for daemon, name in ((containerd, "runc"), (with_our_runtime, "wherry-runc")):
        namespace, id = daemon.namespace(), daemon.id()
        daemon.ctr("images", "import", busybox_archive, namespace=namespace).check()
        daemon.ctr("run", "--detach", "--null-io", BUSYBOX, id, "sleep", "1000", namespace=namespace).check()
        root = ("--root", f"/run/containerd/runc/{namespace}")
        for other, program in PROGRAMS.items():
            listed = run([program, *root, "list", "-q"]).check().text
            assert listed == (f"{id}\n" if other == name else "")
            if other != name:
                # runc's delete would remove whatever has that name there.
                refused = run([program, *root, "kill" if other == "runc" else "delete", id])
                assert refused.code == 1 and "does not exist" in refused.error_text
        assert id in daemon.ctr("tasks", "ls", "-q", namespace=namespace).text
