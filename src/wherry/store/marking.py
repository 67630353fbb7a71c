"""The mark of a collection: what nothing refers to in one consistent view of the database, by containerd's rules.

Roots are images (unless their own ``containerd.io/gc.expire`` has passed), containers, sandboxes, leases that have not
expired and what they hold, ingests that have not expired, and any blob or snapshot labelled ``containerd.io/gc.root``.
From there:

* an image keeps its target, a container its snapshot, a snapshot its parent, an ingest the blob it expects;
* a label ``containerd.io/gc.ref.content`` or ``….image`` (alone, or with ``.x`` or ``/x`` behind it) keeps the digest
  or the image that is its value, ``containerd.io/gc.ref.snapshot.<snapshotter>`` (also with ``/x``) the key;
* a label ``containerd.io/gc.bref.{content,image,container,snapshot.<snapshotter>}`` is the way back: what has it is
  kept while the thing that is its value is, be that thing there itself or only referred to;
* a label ``containerd.io/gc.cond.snapshot.<snapshotter>`` of a blob or an image, ``usedat<24h|key``, keeps the snapshot
  if the time in that one's label ``containerd.io/gc.cond.value-usedat`` is less (``>``: more) than that ago.

A lease labelled ``containerd.io/gc.flat`` keeps what it lists, snapshots with their parents and images with their
targets, and follows no labels. Times are RFC 3339; one that cannot be read never comes.

It is SQL for a reason: a statement runs without Python's lock, so the daemon goes on beside it, whatever there is to
look at. Python sees garbage alone, and labels that are rare.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from wherry.errors import InvalidArgument
from wherry.oci import duration

PREFIX = "containerd.io/gc."
ROOT = "containerd.io/gc.root"
EXPIRE = "containerd.io/gc.expire"
FLAT = "containerd.io/gc.flat"
CONDITION = "containerd.io/gc.cond.snapshot"
_USED_AT = "containerd.io/gc.cond.value-usedat"

CONTENT = "content"
IMAGES = "images"
CONTAINERS = "containers"
INGESTS = "ingests"
LEASES = "leases"
SNAPSHOTS = "snapshots/"

#: A thing that refers or is referred to: namespace, kind (one of the above; SNAPSHOTS and a snapshotter's name), and
#: digest, name, id, ref or key.
Node = tuple[str, str, str]

#: Nodes that Python looks at before it lets the event loop have its turn.
_TURN = 100

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")

#: Of each table with labels: the kind of its rows, and their key.
LABELLED = {
    "content": ("'content'", "digest"),
    "images": ("'images'", "name"),
    "containers": ("'containers'", "id"),
    "sandboxes": ("'sandboxes'", "id"),
    "snapshots": ("'snapshots/' || r.snapshotter", "key"),
}

# In here a node is one text, which SQLite compares several times faster than three columns.
_TABLES = """
    PRAGMA temp_store = MEMORY;
    CREATE TEMP TABLE roots (node TEXT);
    CREATE TEMP TABLE flat_roots (namespace TEXT, kind TEXT, key TEXT);
    CREATE TEMP TABLE expired (node TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TEMP TABLE edges (node TEXT, target TEXT);
    -- What is kept with all that it refers to, and what is kept alone.
    CREATE TEMP TABLE kept (node TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TEMP TABLE kept_flat (node TEXT PRIMARY KEY) WITHOUT ROWID;
"""


def _text(namespace: str, kind: str, key: str) -> str:
    """Return the SQL for a node's text, of the SQL of its parts. Newlines are in no namespace and no snapshotter."""
    return f"{namespace} || char(10) || {kind} || char(10) || {key}"


def _node(text: str) -> Node:
    namespace, kind, key = text.split("\n", 2)
    return namespace, kind, key


def label_edges(table: str, where: str = "1") -> str:
    """Return the query for the edges that labels of a table's rows (named r) make: namespace, kind, key, to_kind,
    to_key."""
    kind, key = LABELLED[table]
    return f"""
        SELECT namespace,
            CASE WHEN back THEN other ELSE kind END AS kind, CASE WHEN back THEN value ELSE key END AS key,
            CASE WHEN back THEN kind ELSE other END AS to_kind, CASE WHEN back THEN key ELSE value END AS to_key
        FROM (
            SELECT namespace, kind, key, value, back, CASE
                WHEN what = 'content' OR substr(what, 1, 8) IN ('content.', 'content/') THEN 'content'
                WHEN what = 'image' OR substr(what, 1, 6) IN ('image.', 'image/') THEN 'images'
                WHEN back AND (what = 'container' OR substr(what, 1, 10) IN ('container.', 'container/'))
                    THEN 'containers'
                WHEN substr(what, 1, 9) = 'snapshot.'
                    THEN 'snapshots/' || substr(what, 10, instr(substr(what, 10) || '/', '/') - 1)
                END AS other
            FROM (
                SELECT r.namespace, {kind} AS kind, r.{key} AS key, l.value,
                    substr(l.key, 18, 1) = 'b' AS back, substr(l.key, instr(l.key, 'ref.') + 4) AS what
                FROM main.{table} r, json_each(r.labels) l
                WHERE {where} AND instr(r.labels, '{PREFIX}') > 0
                    AND (substr(l.key, 1, 21) = '{PREFIX}ref.' OR substr(l.key, 1, 22) = '{PREFIX}bref.')
            ) LIMIT -1 -- no limit, but each column is computed once then, not wherever it is used
        ) WHERE other IS NOT NULL
    """  # noqa: S608 — table, columns and condition are this room's own words


#: Of each table whose rows refer to something by what they are: that edge, its source, and when there is one.
OWN = {
    "images": ("'images', r.name, 'content', r.target_digest", "main.images r", "1"),
    "containers": (
        "'containers', r.id, 'snapshots/' || r.snapshotter, r.snapshot_key",
        "main.containers r",
        "r.snapshot_key != ''",
    ),
    "snapshots": (
        "'snapshots/' || r.snapshotter, r.key, 'snapshots/' || r.snapshotter, p.key",
        "main.snapshots r JOIN main.snapshots p ON p.id = r.parent",
        "1",
    ),
    "ingests": ("'ingests', r.ref, 'content', r.expected", "main.ingests r", "r.expected != ''"),
}


def own_edges(table: str, where: str = "1") -> str:
    """Return the query for the edges that rows of a table (named r) make by what they are, as label_edges does."""
    edge, source, condition = OWN[table]
    return f"SELECT r.namespace, {edge} FROM {source} WHERE {where} AND {condition}"  # noqa: S608 — as above


def _insert_edges(connection: sqlite3.Connection, query: str) -> None:
    source, target = _text("namespace", "kind", "key"), _text("namespace", "to_kind", "to_key")
    columns = "found (namespace, kind, key, to_kind, to_key)"
    connection.execute(
        f"WITH {columns} AS ({query}) INSERT INTO edges SELECT {source}, {target} FROM found"  # noqa: S608
    )


@dataclass
class Garbage:
    """What was found, in the order in which it can go: what refers before what is referred to."""

    #: Things that can go one after the other.
    nodes: list[Node] = field(default_factory=list)
    #: Things that refer to each other in a ring, or are behind one: these go at once.
    rings: list[Node] = field(default_factory=list)
    #: Of snapshots and ingests the row's id: another of the same name is not the one that was seen.
    ids: dict[Node, int] = field(default_factory=dict)
    #: From what was not kept, or kept alone, to what it refers to, if that was not kept either.
    edges: dict[Node, list[Node]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.nodes or self.rings)


class Marker:
    """What marks one database, again and again: with a connection of its own, whose statements are ready."""

    def __init__(self, path: str) -> None:
        """Take the path of a database; it is opened when it is needed."""
        self._path = path
        self._connection: sqlite3.Connection | None = None
        #: Seconds of the processor that the last mark took.
        self.took = 0.0

    def mark(self, now: int) -> Garbage:
        """Return what is garbage at a time, in nanoseconds. Blocks; for any thread, one at a time."""
        connection = self._connection or self._open()
        began = time.thread_time()
        connection.execute("BEGIN")  # the first query fixes the view, until the end
        try:
            _find_expired(connection, now)
            _find_edges(connection, now)
            _find_roots(connection, now)
            _keep(connection)
            return _garbage(connection)
        finally:
            connection.execute("ROLLBACK")  # which empties the tables too
            self.took = time.thread_time() - began

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(self._path)}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        connection.executescript(_TABLES)
        connection.execute("PRAGMA busy_timeout=10000")
        self._connection = connection
        return connection

    def close(self) -> None:
        """Close the connection; the next mark opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def expired(text: str | None, now: int) -> bool:
    """Tell whether a time, as gc.expire has it, has passed."""
    at = _nanoseconds(text)
    return at is not None and at < now


def _nanoseconds(text: str | None) -> float | None:
    if text is None or _TIME.fullmatch(text) is None:
        return None
    try:
        return datetime.fromisoformat(text).timestamp() * 1e9
    except ValueError:
        return None  # of the right form, and no time: month 13


def _find_expired(connection: sqlite3.Connection, now: int) -> None:
    for table, key in (("images", "name"), ("leases", "id")):
        query = f"""
            SELECT namespace, {key}, (SELECT value FROM json_each(labels) l WHERE l.key = '{EXPIRE}') AS expiry
            FROM main.{table} WHERE instr(labels, '{EXPIRE}') > 0
        """  # noqa: S608 — the table and column named above
        rows = connection.execute(query).fetchall()
        gone = [(f"{namespace}\n{table}\n{key}",) for namespace, key, at in rows if expired(at, now)]
        connection.executemany("INSERT INTO expired VALUES (?)", gone)


def _find_edges(connection: sqlite3.Connection, now: int) -> None:
    for table in LABELLED:
        _insert_edges(connection, label_edges(table))
    for table in OWN:
        _insert_edges(connection, own_edges(table))
    connection.executemany("INSERT INTO edges VALUES (?, ?)", list(_conditional(connection, now)))
    # To sort them once costs a fraction of what an index costs that grows with each.
    connection.execute("CREATE INDEX temp.edges_by_node ON edges (node, target)")


def _conditional(connection: sqlite3.Connection, now: int) -> Iterator[tuple[str, str]]:
    """Yield the edges of the labels gc.cond.snapshot whose condition holds."""
    conditions = [
        (namespace, kind, key, name, value)
        for table in ("content", "images")
        for namespace, kind, key, name, value in _labels(connection, table, CONDITION)
    ]
    if not conditions:
        return
    used: dict[Node, list[float]] = defaultdict(list)
    for namespace, kind, key, _name, value in _labels(connection, "snapshots", _USED_AT):
        if (at := _nanoseconds(value)) is not None:
            used[namespace, kind, key].append(at)
    for namespace, kind, key, name, value in conditions:
        to_kind, to_key = conditioned(name, value)
        times = used.get((namespace, to_kind, to_key), [])
        if any(_holds(each, now - at) for each in value.partition("|")[0].split(",") for at in times):
            yield f"{namespace}\n{kind}\n{key}", f"{namespace}\n{to_kind}\n{to_key}"


def conditioned(label: str, value: str) -> tuple[str, str]:
    """Return the kind and key of the snapshot that a label gc.cond.snapshot is about."""
    return SNAPSHOTS + label[len(CONDITION) :].lstrip("./").partition("/")[0], value.partition("|")[2]


def _holds(condition: str, age: float) -> bool:
    """Tell whether a condition like ``usedat<24h`` holds for what was used so many nanoseconds ago."""
    found = re.fullmatch(r"usedat([<>])([^=].*)", condition, re.DOTALL)
    if found is None:
        return False  # containerd knows no other, and passes them over
    try:
        wanted = duration.parse(found[2])
    except InvalidArgument:
        return False
    return age < wanted if found[1] == "<" else age > wanted


def _labels(connection: sqlite3.Connection, table: str, prefix: str) -> list[tuple[str, str, str, str, str]]:
    """Return namespace, kind, key, label and value of every label in a table that begins so."""
    kind, key = LABELLED[table]
    query = f"""
        SELECT r.namespace, {kind}, r.{key}, l.key, l.value FROM main.{table} r, json_each(r.labels) l
        WHERE instr(r.labels, '{prefix}') > 0 AND substr(l.key, 1, {len(prefix)}) = '{prefix}'
    """  # noqa: S608 — as in label_edges
    return connection.execute(query).fetchall()


def _find_roots(connection: sqlite3.Connection, now: int) -> None:
    def insert(node: str, source: str, *parameters: int) -> None:
        connection.execute(f"INSERT INTO roots SELECT {node} {source}", parameters)

    for table, key in (("images", "name"), ("leases", "id")):
        node = _text("r.namespace", f"'{table}'", f"r.{key}")
        gone = f"SELECT 1 FROM expired e WHERE e.node = {node}"  # noqa: S608
        insert(node, f"FROM main.{table} r WHERE NOT EXISTS ({gone})")
    for table in ("containers", "sandboxes"):
        insert(_text("namespace", f"'{table}'", "id"), f"FROM main.{table}")
    # One without such a time has a lease, or had.
    insert(_text("namespace", "'ingests'", "ref"), "FROM main.ingests WHERE expires_at >= ?", now)
    for table in ("content", "snapshots"):
        kind, key = LABELLED[table]
        rooted = f"SELECT 1 FROM json_each(r.labels) l WHERE substr(l.key, 1, {len(ROOT)}) = '{ROOT}'"  # noqa: S608
        source = f"FROM main.{table} r WHERE instr(r.labels, '{ROOT}') > 0 AND EXISTS ({rooted})"
        insert(_text("r.namespace", kind, f"r.{key}"), source)
    flat = f"EXISTS (SELECT 1 FROM json_each(l.labels) j WHERE j.key = '{FLAT}')"  # noqa: S608
    held = f"""
        FROM main.lease_resources r JOIN main.leases l ON l.namespace = r.namespace AND l.id = r.lease
        WHERE NOT EXISTS (SELECT 1 FROM expired e WHERE e.node = {_text("l.namespace", "'leases'", "l.id")})
    """  # noqa: S608
    # An ingest keeps the blob it expects wholly, under a flat lease too.
    insert(_text("r.namespace", "r.type", "r.id"), f"{held} AND (r.type = 'ingests' OR NOT {flat})")
    query = f"SELECT r.namespace, r.type, r.id {held} AND r.type != 'ingests' AND {flat}"
    connection.execute(f"INSERT INTO flat_roots {query}")


def _keep(connection: sqlite3.Connection) -> None:
    # First what refers to something itself. Most things are layers and do not: the recursion, which looks each up and
    # keeps it twice, leaves them to the second step.
    connection.execute(
        """
        INSERT INTO kept WITH RECURSIVE reached (node) AS (
            SELECT node FROM roots UNION SELECT e.target FROM reached r CROSS JOIN edges e ON e.node = r.node
                WHERE EXISTS (SELECT 1 FROM edges x WHERE x.node = e.target)
        ) SELECT node FROM reached
        """
    )
    connection.execute("INSERT OR IGNORE INTO kept SELECT e.target FROM kept k CROSS JOIN edges e ON e.node = k.node")
    # Only from what a thing is: to an image's target, to a snapshot's parents.
    connection.execute(
        f"""
        INSERT INTO kept_flat WITH RECURSIVE reached (namespace, kind, key) AS (
            SELECT namespace, kind, key FROM flat_roots
            UNION SELECT r.namespace, 'content', i.target_digest FROM reached r
            CROSS JOIN main.images i ON r.kind = 'images' AND i.namespace = r.namespace AND i.name = r.key
            UNION SELECT r.namespace, r.kind, p.key FROM reached r
            CROSS JOIN main.snapshots s ON s.namespace = r.namespace AND s.key = r.key
                AND r.kind = 'snapshots/' || s.snapshotter
            CROSS JOIN main.snapshots p ON p.id = s.parent
        ) SELECT {_text("namespace", "kind", "key")} FROM reached
        """  # noqa: S608
    )


def _garbage(connection: sqlite3.Connection) -> Garbage:
    found = Garbage()
    candidates: list[Node] = []
    for table, kind, key, id in (
        ("leases", "'leases'", "id", "NULL"),
        ("images", "'images'", "name", "NULL"),
        ("ingests", "'ingests'", "ref", "r.id"),
        ("content", "'content'", "digest", "NULL"),
        ("snapshots", "'snapshots/' || r.snapshotter", "key", "r.id"),
    ):
        node = _text("r.namespace", kind, f"r.{key}")
        query = f"""
            SELECT {node}, {id} FROM main.{table} r WHERE NOT EXISTS (SELECT 1 FROM kept k WHERE k.node = {node})
            AND NOT EXISTS (SELECT 1 FROM kept_flat k WHERE k.node = {node})
        """  # noqa: S608
        for text, row_id in _in_turns(connection.execute(query)):
            candidates.append(_node(text))
            if row_id is not None:
                found.ids[candidates[-1]] = row_id
    if candidates:
        query = (
            "SELECT DISTINCT node, target FROM edges e WHERE NOT EXISTS (SELECT 1 FROM kept k WHERE k.node = e.target)"
        )
        for source, target in _in_turns(connection.execute(query)):
            found.edges.setdefault(_node(source), []).append(_node(target))
        _order(candidates, found)
    return found


def _in_turns(rows: Iterator[Any]) -> Iterator[Any]:
    """Yield rows; every now and then let other threads run."""
    for number, row in enumerate(rows):
        if number % _TURN == 0:
            time.sleep(0)
        yield row


def _order(candidates: list[Node], found: Garbage) -> None:
    """Sort what refers before what is referred to, by what still refers to each; what is left then is in a ring."""
    referrers: dict[Node, int] = dict.fromkeys(candidates, 0)
    for source, targets in found.edges.items():
        referrers.setdefault(source, 0)
        for target in targets:
            if target != source:
                referrers[target] = referrers.get(target, 0) + 1
    free = [node for node, count in referrers.items() if not count]
    wanted = set(candidates)
    for number, node in enumerate(free):  # which grows meanwhile
        if number % _TURN == 0:
            time.sleep(0)
        for target in found.edges.get(node, ()):
            if target != node:
                referrers[target] -= 1
                if not referrers[target]:
                    free.append(target)
    found.nodes = [node for node in free if node in wanted]
    done = set(found.nodes)
    found.rings = [node for node in candidates if node not in done]
    # Within one write too, a snapshot goes before its parent, which was made before it.
    found.rings.sort(key=lambda node: -found.ids.get(node, 0))
