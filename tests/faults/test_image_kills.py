"""kill -9 of the daemon while images are pulled, unpacked, committed and collected."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.conftest import StartDaemon
from tests.harness import archives
from tests.harness.command import environment, run
from tests.harness.daemon import COMMANDS, Wherryd
from tests.harness.registry import Registry, registry

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.timeout(600)]

_LAYERS = 5


def _image() -> archives.Archive:
    """An image of some layers with large and with many files."""
    chance = random.Random(1)
    layers = []
    for number in range(_LAYERS):
        members = [
            archives.directory(f"layer{number}/"),
            archives.member(f"layer{number}/large", chance.randbytes(2**21)),
        ]
        members += [archives.member(f"layer{number}/{each}", b"small") for each in range(200)]
        layers.append(archives.layer(members))
    return archives.Archive(layers, archives.config(layers, {}))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    directory = tmp_path_factory.mktemp("killed")
    archive = directory / "image.tar"
    archive.write_bytes(_image().oci())
    with registry(directory) as running:
        target = f"docker://{running.host}/killed:1"
        run(["skopeo", "copy", "--dest-tls-verify=false", f"oci-archive:{archive}", target]).check()
        yield running


class Victim:
    """A daemon that is killed while it does something with images."""

    def __init__(self, daemon: Wherryd, source: Registry) -> None:
        self.daemon = daemon
        self.source = source
        self.reference = f"{source.host}/killed:1"
        self.namespace = daemon.namespace()
        self.blobs = daemon.root / "io.containerd.content.v1.content/blobs/sha256"
        self.snapshots = daemon.root / "io.containerd.snapshotter.v1.overlayfs/snapshots"
        self.kills = 0

    def wherry(self, *words: str) -> list[str]:
        return [str(COMMANDS / "wherry"), "-a", self.daemon.address, "-n", self.namespace, *words]

    def pull(self) -> float:
        began = time.monotonic()
        run(self.wherry("pull", "-q", self.reference), timeout=120).check()
        return time.monotonic() - began

    def kill_during(self, words: list[str], after: float) -> None:
        """Kill the daemon so many seconds after a command has begun, and start it again."""
        command = subprocess.Popen(
            self.wherry(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment({})
        )
        time.sleep(after)
        self.daemon.kill()
        command.wait(60)
        self.daemon.start()
        self.kills += 1

    def content(self) -> set[str]:
        return set(self.daemon.ctr("content", "ls", "-q", namespace=self.namespace).check().text.split())

    def check_blobs(self) -> None:
        """Every blob that the store has is what its name says, and nothing else lies there."""
        deadline = time.monotonic() + 20
        while True:
            lying, known = {f"sha256:{name}" for name in os.listdir(self.blobs)}, self.content()
            # One whose commit was interrupted has both names, until it is committed or given up.
            active = self.daemon.ctr("content", "active", namespace=self.namespace).check().text
            if known <= lying and all(digest in active for digest in lying - known):
                break
            # A collection, as after each start, takes the records first.
            assert time.monotonic() < deadline, f"{lying ^ known} are not both in the store and in its records"
            time.sleep(0.1)
        for digest in known:
            data = (self.blobs / digest.removeprefix("sha256:")).read_bytes()
            assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest

    def check_snapshots(self, count: int) -> None:
        """There are so many snapshots and as many directories."""
        listed = self.daemon.ctr("snapshots", "ls", namespace=self.namespace).check().text.splitlines()[1:]
        assert len(listed) == count, listed
        deadline = time.monotonic() + 20
        while len(lying := sorted(os.listdir(self.snapshots))) != count:
            assert time.monotonic() < deadline, f"{count} snapshots, but {lying}"
            time.sleep(0.1)

    def pull_again(self) -> None:
        """The same pull completes, and fetches no blob that was there."""
        self.check_blobs()
        had = self.content()
        before = len(self.source.requests())
        self.pull()
        fetched = [each for each in self.source.requests()[before:] if each.startswith("GET") and "/blobs/" in each]
        assert not [each for each in fetched if any(digest in each for digest in had)]
        self.check_blobs()
        self.check_snapshots(_LAYERS)

    def forget(self) -> None:
        """Without the image and the leases of the dead, nothing is left."""
        for lease in self.daemon.listed("leases", self.namespace):
            self.daemon.ctr("leases", "rm", lease, namespace=self.namespace).check()
        run(self.wherry("prune", "--images"), timeout=60).check()
        assert self.content() == set()
        self.check_blobs()
        self.check_snapshots(0)


@pytest.mark.parametrize("count", [8, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(7200)])])
def test_pulls_and_collections_that_are_killed(start_daemon: StartDaemon, source: Registry, count: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    victim = Victim(start_daemon(Wherryd()), source)
    victim.pull()
    victim.forget()
    span = victim.pull() * 1.2
    victim.forget()
    while victim.kills < count:
        victim.kill_during(["pull", "-q", victim.reference], chance.uniform(0, span))
        victim.pull_again()
        if chance.random() < 0.5:
            victim.kill_during(["prune", "--images"], chance.uniform(0, span / 2))
        victim.forget()
    print(f"{victim.kills} kills")
