"""wherryd and its shims: where which runtime knows its containers, and where it knows nothing of the other's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.archives import BUSYBOX
from tests.harness.command import run
from tests.harness.daemon import Wherryd
from tests.runc.seams.conftest import PROGRAMS

#: Where a shim of ours has each runtime keep its state.
ROOTS = {"runc": "/run/containerd/runc", "wherry-runc": "/run/wherry/runc"}


@pytest.mark.parametrize("flags", [(), ("--runc-binary", "runc"), ("--runc-binary", "wherry-runc")])
def test_who_knows_a_container(wherryd: Wherryd, busybox_archive: Path, crun: str, flags: tuple[str, ...]) -> None:
    """runc's containers are found where those of containerd's shims are; by default the runtime is ours."""
    namespace, id = wherryd.namespace(), wherryd.id()
    wherryd.ctr("images", "import", busybox_archive, namespace=namespace).check()
    wherryd.ctr("run", "--detach", "--null-io", *flags, BUSYBOX, id, "sleep", "1000", namespace=namespace).check()
    own = flags[-1] if flags else "wherry-runc"
    for name, root in ROOTS.items():
        for runtime, program in {**PROGRAMS, "crun": crun}.items():
            listed = run([program, "--root", f"{root}/{namespace}", "list", "-q"])
            assert (id in listed.text) == (name == runtime == own), (name, runtime)
    ran = run([PROGRAMS[own], "--root", f"{ROOTS[own]}/{namespace}", "exec", id, "echo", "in it"]).check()
    assert ran.text == "in it\n"
