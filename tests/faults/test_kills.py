"""kill -9 of the daemon and of shims at every named step and at random moments, and of inits, under load."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.faults import fleet as fleets
from tests.faults.fleet import Fleet
from tests.faults.inject import sitecustomize as inject
from tests.harness.daemon import Wherryd

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.timeout(900)]

#: How often a step may be armed and not reached, as when the one before it killed the process.
_TRIES = 4


@pytest.fixture
def fleet(start_daemon: StartDaemon, busybox_archive: Path, tmp_path: Path) -> Fleet:
    faults = tmp_path / "faults"
    faults.mkdir()
    places = [str(Path(inject.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {"WHERRY_TEST_FAULTS": str(faults), "PYTHONPATH": os.pathsep.join(places)}
    return Fleet(start_daemon(Wherryd(env=env)), busybox_archive, random.randrange(1 << 32))


async def hit_each(fleet: Fleet, steps: list[str], times: int, at_once: int) -> None:
    """Arm the steps, some at a time, until each was hit `times` times."""
    owed = [step for step in steps for _ in range(times)]
    missed: Counter[str] = Counter()
    while owed:
        fleet.chance.shuffle(owed)
        armed = tuple(set(owed[:at_once]))
        before = fleet.kills.copy()
        await fleet.round(steps=armed)
        for step in armed:
            if fleet.kills[step] > before[step]:
                owed.remove(step)
            else:
                missed[step] += 1
                assert missed[step] < _TRIES * times * at_once, f"{step} is never reached"
    report(fleet)
    assert all(fleet.kills[step] >= times for step in steps)


def report(fleet: Fleet) -> None:
    """Write down what was killed how often, for pytest -rP."""
    for name, count in sorted(fleet.kills.items()):
        print(f"{count:5} {name}")
    print(f"{fleet.kills.total():5} kills, {fleet.restarts} restarts of the daemon")


@pytest.mark.parametrize("part", range(2))
async def test_the_daemon_at_every_step(fleet: Fleet, part: int) -> None:
    await hit_each(fleet, fleets.daemon_steps()[part::2], 1, 1)


@pytest.mark.parametrize("part", range(2))
async def test_shims_at_every_step(fleet: Fleet, part: int) -> None:
    await hit_each(fleet, fleets.shim_steps()[part::2], 1, 3)


@pytest.mark.parametrize("victim", ["daemon", "a_shim", "an_init"])
async def test_at_random(fleet: Fleet, victim: str) -> None:
    while fleet.kills[victim] < 20:
        await fleet.round(getattr(fleet, f"kill_{victim}"))
    report(fleet)


@pytest.mark.long
@pytest.mark.parametrize("part", range(4))
async def test_every_step_ten_times(fleet: Fleet, part: int) -> None:
    await hit_each(fleet, fleets.daemon_steps()[part::4], 10, 1)
    await hit_each(fleet, fleets.shim_steps()[part::4], 10, 3)


@pytest.mark.long
@pytest.mark.parametrize("victim", ["daemon", "a_shim", "an_init"])
async def test_at_random_for_long(fleet: Fleet, victim: str) -> None:
    while fleet.kills[victim] < 200:
        await fleet.round(getattr(fleet, f"kill_{victim}"))
    report(fleet)
