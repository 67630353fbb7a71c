"""Activations of mounts: what the daemon has mounted under a name, and what holds it.

An activation is held by the lease that it was made under, by what its labels ``containerd.io/gc.bref.…`` name
(container, content, image, snapshot.<snapshotter>), and by what names it in a label ``containerd.io/gc.ref.mount``.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wherry.errors import AlreadyExists, InvalidArgument, NotFound
from wherry.linux.mount import Mount
from wherry.store import filters, labels, leases, namespaces
from wherry.store.database import Database

_BACK_REFERENCE = "containerd.io/gc.bref."
_REFERENCE = "containerd.io/gc.ref.mount"

#: What may name an activation: the tables that have labels, and are never there without being held themselves.
_REFERRERS = ("containers", "content", "images", "leases", "sandboxes", "snapshots")


@dataclass(frozen=True)
class ActiveMount:
    """A mount that the daemon has made. The time is in nanoseconds since the epoch."""

    mount: Mount
    mount_point: str
    mounted_at: int
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Activation:
    """A named list of mounts: those that the daemon has made, and those that are left for the client."""

    id: int
    namespace: str
    name: str
    labels: Mapping[str, str]
    lease: str
    active: Sequence[ActiveMount] = ()
    system: Sequence[Mount] = ()
    #: Whether all of it was mounted; else its daemon died over it.
    complete: bool = False


class MountStore:
    """The activations of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, namespace: str, name: str) -> Activation:
        """Return an activation. NotFound if there is none of this name."""
        query = "SELECT * FROM mounts WHERE namespace = ? AND name = ? AND active IS NOT NULL"
        rows = self._database.read(query, (namespace, name))
        if not rows:
            raise NotFound(f'mount "{name}" not found')
        return _from_row(rows[0])

    def list(self, namespace: str, filter_texts: Sequence[str]) -> list[Activation]:
        """Return the activations that match any of the filters."""
        matches = filters.parse_all(filter_texts)
        query = "SELECT * FROM mounts WHERE namespace = ? AND active IS NOT NULL ORDER BY name"
        rows = self._database.read(query, (namespace,))
        return [activation for activation in map(_from_row, rows) if matches(_adaptor(activation))]

    def all(self) -> Sequence[Activation]:
        """Return every activation of every namespace, those among them that were never finished."""
        return [_from_row(row) for row in self._database.read("SELECT * FROM mounts ORDER BY id")]

    def ids(self) -> set[int]:
        """Return the ids of every activation."""
        return {row["id"] for row in self._database.read("SELECT id FROM mounts")}

    async def begin(self, namespace: str, name: str, new: Mapping[str, str], lease: str) -> int:
        """Take a name before anything is mounted; returns the activation's id.

        AlreadyExists for a name in use, NotFound for a lease that is not there.
        """
        if not name:
            raise InvalidArgument("name of the mounts must be set")
        labels.validate(new, "labels")
        now = time.time_ns()

        def insert(connection: sqlite3.Connection) -> int:
            namespaces.ensure(connection, namespace)
            leases.check(connection, namespace, lease)
            try:
                cursor = connection.execute(
                    "INSERT INTO mounts (namespace, name, labels, lease, created_at, updated_at)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (namespace, name, labels.encode(new), lease, now, now),
                )
            except sqlite3.IntegrityError:
                raise AlreadyExists(f'mount "{name}"') from None
            assert cursor.lastrowid is not None
            return cursor.lastrowid

        return await self._database.write(insert)

    async def finish(self, id: int, active: Sequence[ActiveMount], system: Sequence[Mount]) -> None:
        """Record what has been mounted, and what is left to mount."""
        row = json.dumps([_active_json(each) for each in active]), json.dumps([_json(each) for each in system])

        def change(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE mounts SET active = ?, system = ?, updated_at = ? WHERE id = ?", (*row, time.time_ns(), id)
            )

        await self._database.write(change)

    async def update(self, namespace: str, name: str, new: Mapping[str, str], paths: Sequence[str]) -> Activation:
        """Change labels, all of them without a mask; nothing else of an activation can change. Returns the result."""
        labels.check_mask(paths, ("labels", "labels."), f'mount "{name}"')
        labels.validate(new, "labels")

        def change(connection: sqlite3.Connection) -> None:
            query = "SELECT id, labels FROM mounts WHERE namespace = ? AND name = ? AND active IS NOT NULL"
            row = connection.execute(query, (namespace, name)).fetchone()
            if row is None:
                raise NotFound(f'mount "{name}" not found')
            made = labels.updated(labels.decode(row["labels"]), new, paths or ("labels",))
            connection.execute(
                "UPDATE mounts SET labels = ?, updated_at = ? WHERE id = ?",
                (labels.encode(made), time.time_ns(), row["id"]),
            )

        await self._database.write(change)
        return self.get(namespace, name)

    async def remove(self, id: int) -> None:
        """Forget an activation; nothing happens if it is forgotten."""

        def delete(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM mounts WHERE id = ?", (id,))

        await self._database.write(delete)

    async def take(self, namespace: str, name: str) -> Activation:
        """Forget an activation and return what it was. NotFound if there is none of this name."""

        def delete(connection: sqlite3.Connection) -> Activation:
            query = "SELECT * FROM mounts WHERE namespace = ? AND name = ? AND active IS NOT NULL"
            row = connection.execute(query, (namespace, name)).fetchone()
            if row is None:
                raise NotFound(f'missing mount "{name}" bucket')
            connection.execute("DELETE FROM mounts WHERE id = ?", (row["id"],))
            return _from_row(row)

        return await self._database.write(delete)

    def none(self) -> bool:
        """Say whether there is no activation at all, as mostly."""
        return not self._database.read("SELECT 1 FROM mounts LIMIT 1")

    async def take_unheld(self) -> Sequence[Activation]:
        """Forget the activations that nothing holds and return what they were.

        To be called when everything else has been collected: what is there then, is held.
        """
        return await self._database.write(_take_unheld)


def _take_unheld(connection: sqlite3.Connection) -> list[Activation]:
    rows = connection.execute("SELECT * FROM mounts WHERE active IS NOT NULL").fetchall()
    named: dict[str, set[str]] = {}
    taken = []
    for activation in map(_from_row, rows):
        namespace = activation.namespace
        if namespace not in named:
            named[namespace] = _named(connection, namespace)
        if activation.name in named[namespace] or _held(connection, activation):
            continue
        connection.execute("DELETE FROM mounts WHERE id = ?", (activation.id,))
        taken.append(activation)
    return taken


def _named(connection: sqlite3.Connection, namespace: str) -> set[str]:
    """Return the names that labels of what there is in a namespace refer to."""
    names = set()
    for table in _REFERRERS:
        query = f"SELECT labels FROM {table} WHERE namespace = ? AND labels LIKE ?"  # noqa: S608
        for row in connection.execute(query, (namespace, f"%{_REFERENCE}%")):
            for key, value in labels.decode(row["labels"]).items():
                if key == _REFERENCE or key.startswith((_REFERENCE + ".", _REFERENCE + "/")):
                    names.add(value)
    return names


def _held(connection: sqlite3.Connection, activation: Activation) -> bool:
    def there(query: str, *parameters: str) -> bool:
        return connection.execute(query, (activation.namespace, *parameters)).fetchone() is not None

    if activation.lease and there("SELECT 1 FROM leases WHERE namespace = ? AND id = ?", activation.lease):
        return True
    for key, value in activation.labels.items():
        if not key.startswith(_BACK_REFERENCE):
            continue
        kind, _, rest = key.removeprefix(_BACK_REFERENCE).replace("/", ".", 1).partition(".")
        if kind == "container":
            held = there("SELECT 1 FROM containers WHERE namespace = ? AND id = ?", value)
        elif kind == "content":
            held = there("SELECT 1 FROM content WHERE namespace = ? AND digest = ?", value)
        elif kind == "image":
            held = there("SELECT 1 FROM images WHERE namespace = ? AND name = ?", value)
        elif kind == "snapshot":
            snapshotter = rest.partition("/")[0]
            query = "SELECT 1 FROM snapshots WHERE namespace = ? AND snapshotter = ? AND key = ?"
            held = there(query, snapshotter, value)
        else:
            held = False
        if held:
            return True
    return False


def _json(mount: Mount) -> dict[str, object]:
    return {"type": mount.type, "source": mount.source, "target": mount.target, "options": mount.options}


def _mount(values: Mapping[str, object]) -> Mount:
    options = values["options"]
    assert isinstance(options, list)
    return Mount(str(values["type"]), str(values["source"]), options, str(values["target"]))


def _active_json(active: ActiveMount) -> dict[str, object]:
    return {
        **_json(active.mount),
        "mount_point": active.mount_point,
        "mounted_at": active.mounted_at,
        "data": dict(active.data),
    }


def _from_row(row: sqlite3.Row) -> Activation:
    return Activation(
        id=row["id"],
        namespace=row["namespace"],
        name=row["name"],
        labels=labels.decode(row["labels"]),
        lease=row["lease"],
        active=[
            ActiveMount(_mount(values), values["mount_point"], values["mounted_at"], values["data"])
            for values in json.loads(row["active"] or "[]")
        ],
        system=[_mount(values) for values in json.loads(row["system"] or "[]")],
        complete=row["active"] is not None,
    )


def _adaptor(activation: Activation) -> filters.Adaptor:
    def ask(path: list[str]) -> tuple[str, bool]:
        if path in (["id"], ["name"]):
            return activation.name, True
        if path[0] == "labels":
            return filters.labels_field(activation.labels, path)
        return "", False

    return ask
