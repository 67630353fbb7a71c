#!/usr/bin/env python3
"""How long an image takes: wherry beside Debian's containerd, alternating in one run, caches equal.

(a) import and unpack of a Debian tree of 448 MB as eight gzip layers; (b) the same as one layer;
(c) its pull, eight layers, from Debian's docker-registry on loopback;
(d) peak memory (Pss) of the daemon and all below it, for images of 100 MB and 2 GB as well.

Each time includes `sync -f` of the daemon's root. Medians in seconds and their ratios, as a table in Markdown.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.daemons import ENVIRONMENT, Daemon, Daemons, running_daemons
from bench.image_archives import debian_tree, image, random_tree
from tests.harness.registry import registry

_NAME = "docker.io/library/debian-tree:latest"


class Side:
    """One daemon with its command line."""

    def __init__(self, name: str, daemon: Daemon, root: str, ours: bool, command: list[str]) -> None:
        self.name = name
        self.daemon = daemon
        self._root = root
        self._ours = ours
        self._command = command

    def bring(self, archive: Path) -> list[str]:
        return [*self._command, "image" if self._ours else "images", "import", str(archive)]

    def pull(self, reference: str) -> list[str]:
        if self._ours:
            return [*self._command, "image", "pull", reference]
        return [*self._command, "images", "pull", "--plain-http", reference]

    def time(self, command: list[str], name: str) -> float:
        """Run a command, wait for the disk, remove the image; return the seconds of the first two."""
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
        subprocess.run(["sync", "-f", self._root], check=True)
        took = time.perf_counter() - began
        words = ["image", "rm", name] if self._ours else ["images", "rm", "--sync", name]
        subprocess.run([*self._command, *words], check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        subprocess.run(["sync", "-f", self._root], check=True)
        return took

    def peak(self, command: list[str], name: str) -> float:
        """Run a command and return the peak of the memory, in MiB."""
        watch = Watch(self.daemon.pid)
        self.time(command, name)
        return watch.stop()


class Watch(threading.Thread):
    """Looks at the memory of a process and all below it, every 20 ms."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._peak = 0
        self._done = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._done.wait(0.02):
            self._peak = max(self._peak, sum(map(_pss, [self._pid, *_below(self._pid)])))

    def stop(self) -> float:
        self._done.set()
        self.join()
        return self._peak / 1024


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except (OSError, ProcessLookupError):
        pass
    return 0


def _below(pid: int) -> list[int]:
    found = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += [int(child), *_below(int(child))]
    except OSError:
        pass
    return found


def sides(daemons: Daemons) -> list[Side]:
    place = daemons.place
    return [
        Side("containerd", daemons.containerd, f"{place}/croot", False, daemons.ctr),
        Side("wherry", daemons.wherryd, f"{place}/r", True, daemons.wherry),
    ]


def alternate(count: int, sides: Sequence[Side], command: Callable[[Side], list[str]], name: str) -> list[float]:
    """Return each side's median over rounds in which both have their turns; one round warms the caches."""
    rounds = [[side.time(command(side), name) for side in sides] for _ in range(count + 1)][1:]
    return [statistics.median(values) for values in zip(*rounds, strict=True)]


def row(what: str, unit: str, theirs: float, ours: float) -> None:
    print(f"| {what} | {theirs:.2f} {unit} | {ours:.2f} {unit} | {ours / theirs:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--parts", default="abcd")
    parser.add_argument("--trees", type=Path, help="where trees and archives are kept (default: not at all)")
    options = parser.parse_args()
    with ExitStack() as undo:
        kept = options.trees or Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="wbt")))
        kept.mkdir(exist_ok=True)
        tree = debian_tree(kept)
        eight, one = image(tree, 8, _NAME), image(tree, 1, _NAME)
        daemons = undo.enter_context(running_daemons())
        theirs, ours = sides(daemons)
        print("| | containerd | wherry | ratio |\n|---|---|---|---|")
        for part, what, archive in (("a", "import, 8 layers", eight), ("b", "import, 1 layer", one)):
            if part in options.parts:
                bring = functools.partial(Side.bring, archive=archive)
                row(what, "s", *alternate(options.count, (theirs, ours), bring, _NAME))
        if "c" in options.parts:
            server = undo.enter_context(registry(kept))
            reference = f"{server.host}/debian-tree:8"
            subprocess.run(
                ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci-archive:{eight}", f"docker://{reference}"],
                check=True,
            )
            both = alternate(options.count, (theirs, ours), lambda side: side.pull(reference), reference)
            row("pull, 8 layers", "s", *both)
        if "d" in options.parts:
            memory = [("8 layers", eight), ("1 layer", one)]
            memory += [(f"{size} MB", image(random_tree(kept, size * 10**6), 4, _NAME)) for size in (100, 2000)]
            for what, archive in memory:
                row(f"peak memory, {what}", "MiB", *(side.peak(side.bring(archive), _NAME) for side in (theirs, ours)))


if __name__ == "__main__":
    main()
