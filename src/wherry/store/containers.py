"""Containers: the records that tasks are made from."""

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


@dataclass(frozen=True)
class Container:
    """One container's record. Times are nanoseconds since the epoch."""

    id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    runtime_name: str = ""
    runtime_options: Packed | None = None
    spec: Packed | None = None
    snapshotter: str = ""
    snapshot_key: str = ""
    extensions: Mapping[str, Packed] = field(default_factory=dict)
    sandbox: str = ""
    created_at: int = 0
    updated_at: int = 0


class ContainerStore:
    """The containers of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, namespace: str, id: str) -> Container:
        """Return a container. NotFound if there is none of this id."""
        rows = self._database.read("SELECT * FROM containers WHERE namespace = ? AND id = ?", (namespace, id))
        if not rows:
            raise NotFound(f'container "{id}" in namespace "{namespace}"')
        return _from_row(rows[0])

    def list(self, namespace: str, filter_texts: Sequence[str]) -> list[Container]:
        """Return the containers that match any of the filters."""
        matches = filters.parse_all(filter_texts)
        rows = self._database.read("SELECT * FROM containers WHERE namespace = ? ORDER BY id", (namespace,))
        return [container for container in map(_from_row, rows) if matches(_adaptor(container))]

    async def create(self, namespace: str, container: Container) -> Container:
        """Store a new container and return it with its times. AlreadyExists for an id in use."""
        _validate(container, "create container failed validation")
        now = time.time_ns()
        made = replace(container, created_at=now, updated_at=now)

        def insert(connection: sqlite3.Connection) -> None:
            namespaces.ensure(connection, namespace)
            try:
                connection.execute(f"INSERT INTO containers VALUES ({','.join('?' * 15)})", _to_row(namespace, made))  # noqa: S608
            except sqlite3.IntegrityError:
                raise AlreadyExists(f'container "{made.id}"') from None

        await self._database.write(insert)
        return self.get(namespace, made.id)

    async def update(self, namespace: str, container: Container, paths: Sequence[str]) -> Container:
        """Change what the mask names, all that may change without one, and return the result.

        NotFound without such a container; InvalidArgument for what cannot change.
        """
        if not container.id:
            raise InvalidArgument("must specify a container id")

        def change(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT * FROM containers WHERE namespace = ? AND id = ?", (namespace, container.id)
            ).fetchone()
            if row is None:
                raise NotFound(f'container "{container.id}"')
            made = replace(_merged(_from_row(row), container, paths), updated_at=time.time_ns())
            _validate(made, "update failed validation")
            connection.execute(
                f"REPLACE INTO containers VALUES ({','.join('?' * 15)})",  # noqa: S608
                _to_row(namespace, made),
            )

        await self._database.write(change)
        return self.get(namespace, container.id)

    async def delete(self, namespace: str, id: str) -> None:
        """Delete a container's record. NotFound if there is none."""

        def remove(connection: sqlite3.Connection) -> None:
            cursor = connection.execute("DELETE FROM containers WHERE namespace = ? AND id = ?", (namespace, id))
            if not cursor.rowcount:
                raise NotFound(f'container "{id}"')

        await self._database.write(remove)


def _merged(old: Container, new: Container, paths: Sequence[str]) -> Container:
    if not paths:
        if new.snapshotter != old.snapshotter:
            raise InvalidArgument("container.Snapshotter field is immutable")
        if new.runtime_name != old.runtime_name:
            raise InvalidArgument("container.Runtime.Name field is immutable")
        if new.sandbox != old.sandbox:
            raise InvalidArgument("container.SandboxID field is immutable")
        paths = ("labels", "spec", "extensions", "image", "snapshotkey")
    made = replace(old, labels=labels.updated(old.labels, new.labels, paths))
    for path in paths:
        if path == "labels" or path.startswith("labels."):
            continue
        if path == "spec":
            made = replace(made, spec=new.spec)
        elif path == "image":
            made = replace(made, image=new.image)
        elif path == "snapshotkey":
            made = replace(made, snapshot_key=new.snapshot_key)
        elif path == "extensions":
            made = replace(made, extensions=dict(new.extensions))
        elif path.startswith("extensions."):
            key = path.removeprefix("extensions.")
            made = replace(made, extensions=packed.updated(made.extensions, new.extensions, key))
        else:
            raise InvalidArgument(f'cannot update "{path}" field on "{old.id}"')
    return made


def _validate(container: Container, failure: str) -> None:
    try:
        _check(container)
    except InvalidArgument as error:
        raise InvalidArgument(f"{failure}: {error.message}") from None


def _check(container: Container) -> None:
    try:
        identifiers.validate(container.id)
    except InvalidArgument as error:
        raise InvalidArgument(f"container.ID: {error.message}") from None
    if any(not key for key in container.extensions):
        raise InvalidArgument("extension keys must not be zero-length")
    labels.validate(container.labels, "containers.Labels")
    if not container.runtime_name:
        raise InvalidArgument("container.Runtime.Name must be set")
    if container.snapshot_key and not container.snapshotter:
        raise InvalidArgument("container.Snapshotter must be set if container.SnapshotKey is set")
    if container.spec is None and not container.sandbox:
        raise InvalidArgument("container.Spec must be set")


def _to_row(namespace: str, container: Container) -> tuple[object, ...]:
    options_url, options = container.runtime_options or (None, None)
    spec_url, spec = container.spec or (None, None)
    return (
        namespace,
        container.id,
        labels.encode(container.labels),
        container.image,
        container.runtime_name,
        options_url,
        options,
        spec_url,
        spec,
        container.snapshotter,
        container.snapshot_key,
        packed.encode(container.extensions),
        container.sandbox,
        container.created_at,
        container.updated_at,
    )


def _from_row(row: sqlite3.Row) -> Container:
    options_url, spec_url = row["runtime_options_url"], row["spec_url"]
    return Container(
        id=row["id"],
        labels=labels.decode(row["labels"]),
        image=row["image"],
        runtime_name=row["runtime_name"],
        runtime_options=(options_url, row["runtime_options"]) if options_url is not None else None,
        spec=(spec_url, row["spec"]) if spec_url is not None else None,
        snapshotter=row["snapshotter"],
        snapshot_key=row["snapshot_key"],
        extensions=packed.decode(row["extensions"]),
        sandbox=row["sandbox"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _adaptor(container: Container) -> filters.Adaptor:
    def ask(path: list[str]) -> tuple[str, bool]:
        if path == ["id"]:
            return container.id, bool(container.id)
        if path == ["runtime", "name"]:
            return container.runtime_name, bool(container.runtime_name)
        if path == ["image"]:
            return container.image, bool(container.image)
        if path[0] == "labels":
            return filters.labels_field(container.labels, path)
        return "", False

    return ask
