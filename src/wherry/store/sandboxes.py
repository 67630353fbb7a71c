"""Sandboxes: the records of what several containers share. Whether one runs is its controller's to say."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from wherry import identifiers
from wherry.errors import AlreadyExists, InvalidArgument, NotFound
from wherry.store import filters, labels, namespaces, packed
from wherry.store.database import Database
from wherry.store.packed import Packed

#: What an update without a mask replaces, as containerd's.
_UPDATABLE = ("labels", "extensions", "spec", "runtime")


@dataclass(frozen=True)
class Sandbox:
    """One sandbox's record. Times are nanoseconds since the epoch."""

    id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    runtime_name: str = ""
    runtime_options: Packed | None = None
    spec: Packed | None = None
    extensions: Mapping[str, Packed] = field(default_factory=dict)
    #: The controller that runs it.
    sandboxer: str = ""
    created_at: int = 0
    updated_at: int = 0


class SandboxStore:
    """The sandboxes of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, namespace: str, id: str) -> Sandbox:
        """Return a sandbox. NotFound if there is none of this id."""
        rows = self._database.read("SELECT * FROM sandboxes WHERE namespace = ? AND id = ?", (namespace, id))
        if not rows:
            raise NotFound(f'sandbox "{id}" in namespace "{namespace}"')
        return _from_row(rows[0])

    def list(self, namespace: str, filter_texts: Sequence[str]) -> list[Sandbox]:
        """Return the sandboxes that match any of the filters."""
        matches = filters.parse_all(filter_texts)
        rows = self._database.read("SELECT * FROM sandboxes WHERE namespace = ? ORDER BY id", (namespace,))
        return [sandbox for sandbox in map(_from_row, rows) if matches(_adaptor(sandbox))]

    async def create(self, namespace: str, sandbox: Sandbox) -> Sandbox:
        """Store a new sandbox and return it with its times. AlreadyExists for an id in use."""
        try:
            identifiers.validate(sandbox.id)
        except InvalidArgument as error:
            raise InvalidArgument(f"failed to validate sandbox: invalid sandbox ID: {error.message}") from None
        now = time.time_ns()
        made = replace(sandbox, created_at=now, updated_at=now)

        def insert(connection: sqlite3.Connection) -> None:
            namespaces.ensure(connection, namespace)
            try:
                connection.execute(f"INSERT INTO sandboxes VALUES ({','.join('?' * 12)})", _to_row(namespace, made))  # noqa: S608
            except sqlite3.IntegrityError:
                raise AlreadyExists(f'write error: sandbox bucket "{made.id}" already exists') from None

        await self._database.write(insert)
        return self.get(namespace, made.id)

    async def update(self, namespace: str, sandbox: Sandbox, paths: Sequence[str]) -> Sandbox:
        """Change what the paths name, all that may change without any, and return the result.

        NotFound without such a sandbox; InvalidArgument for what cannot change.
        """

        def change(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT * FROM sandboxes WHERE namespace = ? AND id = ?", (namespace, sandbox.id)
            ).fetchone()
            if row is None:
                raise NotFound(f'sandbox "{sandbox.id}" in namespace "{namespace}"')
            made = replace(_merged(_from_row(row), sandbox, paths), updated_at=time.time_ns())
            connection.execute(f"REPLACE INTO sandboxes VALUES ({','.join('?' * 12)})", _to_row(namespace, made))  # noqa: S608

        await self._database.write(change)
        return self.get(namespace, sandbox.id)

    async def delete(self, namespace: str, id: str) -> None:
        """Delete a sandbox's record. NotFound if there is none."""

        def remove(connection: sqlite3.Connection) -> None:
            cursor = connection.execute("DELETE FROM sandboxes WHERE namespace = ? AND id = ?", (namespace, id))
            if not cursor.rowcount:
                raise NotFound(f'failed to delete sandbox "{id}"')

        await self._database.write(remove)


def _merged(old: Sandbox, new: Sandbox, paths: Sequence[str]) -> Sandbox:
    if not paths:
        if new.runtime_name != old.runtime_name:
            raise InvalidArgument("sandbox.Runtime.Name field is immutable")
        paths = _UPDATABLE
    made = replace(old, labels=labels.updated(old.labels, new.labels, paths))
    for path in paths:
        if path == "labels" or path.startswith("labels."):
            continue
        if path == "spec":
            made = replace(made, spec=new.spec)
        elif path == "runtime":
            made = replace(made, runtime_name=new.runtime_name, runtime_options=new.runtime_options)
        elif path == "extensions":
            made = replace(made, extensions=dict(new.extensions))
        elif path.startswith("extensions."):
            key = path.removeprefix("extensions.")
            made = replace(made, extensions=packed.updated(made.extensions, new.extensions, key))
        else:
            raise InvalidArgument(f'cannot update "{path}" field on sandbox "{old.id}"')
    return made


def _to_row(namespace: str, sandbox: Sandbox) -> tuple[object, ...]:
    options_url, options = sandbox.runtime_options or (None, None)
    spec_url, spec = sandbox.spec or (None, None)
    return (
        namespace,
        sandbox.id,
        labels.encode(sandbox.labels),
        sandbox.runtime_name,
        options_url,
        options,
        spec_url,
        spec,
        packed.encode(sandbox.extensions),
        sandbox.sandboxer,
        sandbox.created_at,
        sandbox.updated_at,
    )


def _from_row(row: sqlite3.Row) -> Sandbox:
    options_url, spec_url = row["runtime_options_url"], row["spec_url"]
    return Sandbox(
        id=row["id"],
        labels=labels.decode(row["labels"]),
        runtime_name=row["runtime_name"],
        runtime_options=(options_url, row["runtime_options"]) if options_url is not None else None,
        spec=(spec_url, row["spec"]) if spec_url is not None else None,
        extensions=packed.decode(row["extensions"]),
        sandboxer=row["sandboxer"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _adaptor(sandbox: Sandbox) -> filters.Adaptor:
    def ask(path: list[str]) -> tuple[str, bool]:
        if path == ["id"]:
            return sandbox.id, True
        if path[0] == "labels":
            return filters.labels_field(sandbox.labels, path)
        return "", False

    return ask
