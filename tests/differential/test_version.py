"""`ctr version`, and what needs no namespace."""

from __future__ import annotations

from tests.differential.transcript import Side, differential


@differential
def test_version(side: Side) -> None:
    side.ctr("version")


@differential
def test_uuid_stays_the_same(side: Side) -> None:
    first, second = (side.ctr("version").text.split("UUID: ")[1] for _ in range(2))
    side.note("uuid is the same", first == second)
