"""AppArmor: a container whose specification names a profile is confined by it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.names import unique
from tests.shim import bundle
from tests.shim.lab import Lab, Reader
from tests.shim.peers import Ours, Shim, StockV2
from wherry.errors import Error

pytestmark = pytest.mark.vm

_PROFILES = Path("/sys/kernel/security/apparmor/profiles")

_PROFILE = """
profile {name} flags=(attach_disconnected,mediate_deleted) {{
  file,
  capability,
  network,
  signal,
  deny /dev/denied w,
}}
"""


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[str]:
    """A profile that is loaded, under which one file can't be written."""
    name = unique("wherry-test-")
    source = tmp_path / "profile"
    source.write_text(_PROFILE.format(name=name))
    subprocess.run(["apparmor_parser", "--add", "--skip-cache", source], check=True)
    yield name
    subprocess.run(["apparmor_parser", "--remove", "--skip-cache", source], check=True)
    assert name not in _PROFILES.read_text()


async def _confined(lab: Lab, kind: type[Shim], profile: str, *more: str) -> tuple[str, str]:
    """Return what a container and an exec in it, both confined, say of themselves and may write.

    The container has `more` capabilities.
    """
    tries = "cat /proc/self/attr/current; echo 1 >/dev/allowed && cat /dev/allowed; echo 2 >/dev/denied; echo $?"
    command = ("sh", "-c", f"{tries}; sleep 1000")
    spec = bundle.spec(lab.namespace, lab.names.id("c"), command, apparmor=profile)
    sets = spec["process"]["capabilities"]
    spec["process"]["capabilities"] = {name: [*has, *more] for name, has in sets.items()}
    container = await lab.shim(kind, spec=spec)
    out, err, exec_out, exec_err = (container.fifo(name) for name in ("out", "err", "exec-out", "exec-err"))
    screen, errors, exec_screen, _ = (Reader(fifo) for fifo in (out, err, exec_out, exec_err))
    await container.create(stdout=out, stderr=err)
    await container.start()
    document = bundle.process("sh", "-c", tries, apparmorProfile=profile)
    await container.exec("e", document=document, stdout=exec_out, stderr=exec_err)
    await container.start("e")
    await container.wait("e")
    of_exec = await exec_screen.ended()
    await errors.until(b"/dev/denied: Permission denied")
    await container.stop()
    await container.end_shim()
    return (await screen.ended()).decode(), of_exec.decode()


async def test_profile(lab: Lab, profile: str) -> None:
    ours = await _confined(lab, Ours, profile)
    assert ours == (f"{profile} (enforce)\n1\n1\n",) * 2
    assert await _confined(lab, StockV2, profile) == ours
    # What is exec'ed is a copy of a process that was given the profile.
    assert await _confined(lab, Ours, profile, "CAP_SYS_PTRACE") == ours


async def test_profile_that_is_not_loaded(lab: Lab) -> None:
    name = unique("wherry-absent-")
    answers = []
    for kind in (StockV2, Ours):
        container = await lab.shim(kind, "true", apparmor=name)
        with pytest.raises(Error) as failure:
            await container.create()
        answers.append(failure.value.message)
        await container.end_shim()
    assert "unable to apply apparmor profile" in answers[0]
    assert f"apparmor profile '{name}': there is no such profile" in answers[1]
