"""wherry image prune."""

from __future__ import annotations

import time

import pytest

from tests.cli.commands import Wherry
from tests.harness import archives
from tests.harness.archives import BUSYBOX

DIGEST = archives.digest(archives.busybox().manifest)


def names(wherry: Wherry) -> list[str]:
    return wherry("image", "ls", "-q").split()


def test_only_what_has_no_name_goes(busybox: Wherry) -> None:
    busybox("image", "tag", "busybox", DIGEST, f"import-2026-01-31@{DIGEST}", f"registry.test/x@{DIGEST}")
    assert busybox("image", "prune", "--force") == f"import-2026-01-31@{DIGEST}\n{DIGEST}\n0 B freed\n"
    assert names(busybox) == [BUSYBOX, f"registry.test/x@{DIGEST}"]
    assert busybox("image", "prune", "--force") == "0 B freed\n"
    assert busybox("run", "--rm", "busybox", "echo", "whole") == "whole\n"


def test_all_that_no_container_uses(busybox: Wherry) -> None:
    other = archives.Archive([archives.layer([archives.member("file", b"x" * 100_000)])], b"", "registry.test/other:1")
    other.config = archives.config(other.layers, {})
    busybox("image", "import", "-", input=other.oci())
    busybox("image", "tag", "busybox", "another-name")
    container = busybox.daemon.id()
    # The container's record has the name that was typed.
    busybox("run", "-d", "--name", container, "busybox", "sleep", "100")
    pruned = busybox.json("image", "prune", "--all", "--force", "--json")
    assert pruned["images"] == ["registry.test/other:1"]
    assert pruned["bytes"] > 100_000
    assert names(busybox) == ["another-name", BUSYBOX]
    busybox("rm", "-f", container)
    *removed, freed = busybox("image", "prune", "--all", "--force").splitlines()
    assert removed == ["another-name", BUSYBOX]
    assert freed.endswith("iB freed")
    assert busybox("content", "ls", "-q") == ""
    assert busybox("snapshot", "ls", "-q") == ""


def test_filters(busybox: Wherry) -> None:
    def left(*filters: str) -> bool:
        words = [word for text in filters for word in ("--filter", text)]
        return busybox("image", "prune", "--all", "--force", "-q", *words) == ""

    busybox.daemon.ctr("images", "label", BUSYBOX, "a=b", namespace=busybox.namespace).check()
    assert left("until=24h")
    assert left("until=2020-01-31")
    assert left("label=absent")
    assert left("label=a=c")
    assert left("label!=a")
    assert left("label=a", "until=1h30m")
    time.sleep(1.1)
    assert busybox("image", "prune", "--all", "--force", "-q", "--filter", "label=a=b", "--filter", "until=1s") == (
        f"{BUSYBOX}\n"
    )


@pytest.mark.parametrize("text", ["until=yesterday", "size=3", "label=", "until"])
def test_what_is_no_filter(text: str, wherry: Wherry) -> None:
    assert "is expected" in (said := wherry.fails("image", "prune", "--filter", text)) or "as in 24h" in said


def test_it_asks_first(busybox: Wherry) -> None:
    assert "--force removes without asking" in busybox.fails("image", "prune", "--all")
    for answer, status in (("n", 1), ("", 1), ("y", 0)):
        assert names(busybox) == [BUSYBOX]
        with busybox.terminal("image", "prune", "--all") as terminal:
            terminal.read_until("Remove this image? [y/N] ")
            terminal.enter(f"{answer}\n")
            assert terminal.wait() == status
        assert BUSYBOX in terminal.text
    assert names(busybox) == []
