"""`ctr leases`, and what a lease keeps."""

from __future__ import annotations

from tests.differential.transcript import Side, differential


@differential
def test_create_list_remove(side: Side) -> None:
    side.ctr("leases", "ls")
    side.ctr("leases", "create", "--id", "first", "a=1", "b=2")
    side.ctr("leases", "create", "--id", "first")
    side.ctr("leases", "create", "--id", "a path/with blanks", "--expires", "0")
    side.ctr("leases", "create", "--id", "hour", "-x", "1h")
    side.ctr("leases", "ls")
    side.ctr("leases", "ls", "-q")
    side.ctr("leases", "ls", "labels.a==1")
    side.ctr("leases", "ls", "id==hour")
    side.ctr("leases", "ls", "bad filter")
    side.ctr("leases", "rm", "first")
    side.ctr("leases", "rm", "first")
    side.ctr("leases", "rm", "--sync", "hour", "a path/with blanks")
    side.ctr("leases", "ls")
    side.ctr("leases", "rm")


@differential
def test_generated_id(side: Side) -> None:
    side.ctr("leases", "create")
    side.note("leases", len(side.quietly("leases", "ls", "-q").text.split()))


@differential
def test_labels(side: Side) -> None:
    side.ctr("leases", "create", "--id", "big", "k=" + "x" * 4096)
    side.ctr("leases", "create", "--id", "empty", "k=")
    side.ctr("leases", "create", "--id", "bare", "k")
    side.ctr("leases", "ls")


@differential
def test_leases_are_of_a_namespace(side: Side) -> None:
    other = side.other_namespace("other")
    side.ctr("leases", "create", "--id", "same")
    side.ctr("leases", "ls", namespace=other)
    side.ctr("leases", "create", "--id", "same", namespace=other)
    side.ctr("leases", "rm", "same")
    side.ctr("leases", "ls", "-q", namespace=other)


@differential
def test_an_expired_lease_is_collected(side: Side) -> None:
    side.ctr("leases", "create", "--id", "short", "-x", "1s")
    side.quietly("leases", "create", "--id", "other")
    side.until(lambda: _collected(side), "the expired lease stays")
    side.ctr("leases", "ls", "-q")


def _collected(side: Side) -> bool:
    side.collect()
    return "short" not in side.quietly("leases", "ls", "-q").text
