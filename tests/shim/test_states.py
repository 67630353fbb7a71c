"""Every method in every state: what our shim answers, beside what Debian's does."""

from __future__ import annotations

import pytest

from tests.shim import states
from tests.shim.lab import Lab
from tests.shim.peers import Ours, OursV1, OursV3, Shim, StockV1, StockV2
from wherry.errors import Error

#: A second start of an exec whose start has failed: Debian's shims end by it.
_DEADLY = {("exec_failed", "start")}

#: Differences, and their reasons.
_EXPLAINED = {
    "update with nonsense": "Go's JSON parser has words of its own; ours hands the document to the runtime",
    "exec with nonsense": "as before: the refusal is the same, the parser's words are not",
    "close io of unknown exec": "Debian's forgets the kind of the error here: UNKNOWN, ours NOT_FOUND as everywhere",
    "resize unknown exec": "the same, in version 1",
    "resize": "the same, in version 1, when there is no container, or the exec is deleted",
    "close io": "the same, when the exec is deleted",
    "kill 999": "ours has no program of whose exit status to tell",
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("ours", "stock"), [(Ours, StockV2), (OursV1, StockV1)])
async def test_answers(lab: Lab, ours: type[Shim], stock: type[Shim]) -> None:
    expected = await states.table(lab, stock, _DEADLY)
    given = await states.table(lab, ours, _DEADLY)
    assert given.keys() == expected.keys()
    different = {key: (given[key], expected[key]) for key in given if given[key] != expected[key]}
    unexplained = {
        key: answers
        for key, answers in different.items()
        if key[1] not in _EXPLAINED or not _same_refusal(*answers, method=key[1])
    }
    assert not unexplained
    assert 3 <= len({method for _state, method in different}) <= len(_EXPLAINED)


def _same_refusal(given: str, expected: str, *, method: str) -> bool:
    """Say whether both refuse; and where only the kind differs, that ours is NOT_FOUND."""
    if method == "kill 999":
        return given == expected.replace("runc did not terminate successfully: exit status 1: ", "")
    if "nonsense" in method:
        return given.startswith("Unknown: ") and expected.startswith("Unknown: ")
    return given.startswith("NotFound: process") and expected.startswith("Unknown: process does not exist")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("ours", "stock"), [(Ours, StockV2), (OursV1, StockV1)])
async def test_events(lab: Lab, ours: type[Shim], stock: type[Shim]) -> None:
    for bring in states.STATES:
        expected = await states.sequence(lab, stock, bring)
        assert await states.sequence(lab, ours, bring) == expected, bring.__name__
    expected = await states.sequence(lab, stock, states.created, kill=False)
    assert await states.sequence(lab, ours, states.created, kill=False) == expected


async def test_version_3_is_version_2_by_another_name(lab: Lab) -> None:
    for bring in (states.running, states.exec_running, states.stopped):
        assert await states.sequence(lab, OursV3, bring) == await states.sequence(lab, Ours, bring)


async def test_a_failed_exec_cannot_be_started_again(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    await states.exec_failed(container)
    with pytest.raises(Error, match="cannot start a process whose start has failed"):
        await container.start("e")
    await container.delete("e")
    await container.stop()
    await container.end_shim()
