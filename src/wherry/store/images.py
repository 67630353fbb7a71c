"""Images: names for content. Any name will do; nothing is normalised here."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from wherry.errors import AlreadyExists, InvalidArgument, NotFound
from wherry.oci import digest
from wherry.store import filters, labels, leases, namespaces
from wherry.store.collection import EXPIRE
from wherry.store.database import Database


@dataclass(frozen=True)
class Target:
    """The descriptor that an image points to."""

    media_type: str = ""
    digest: str = ""
    size: int = 0
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Image:
    """One image. Times are nanoseconds since the epoch."""

    name: str
    target: Target
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: int = 0
    updated_at: int = 0


class ImageStore:
    """The images of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, namespace: str, name: str) -> Image:
        """Return an image. NotFound if there is none of this name."""
        rows = self._database.read("SELECT * FROM images WHERE namespace = ? AND name = ?", (namespace, name))
        if not rows:
            raise NotFound(f'image "{name}"')
        return _from_row(rows[0])

    def list(self, namespace: str, filter_texts: Sequence[str]) -> list[Image]:
        """Return the images that match any of the filters."""
        matches = filters.parse_all(filter_texts)
        rows = self._database.read("SELECT * FROM images WHERE namespace = ? ORDER BY name", (namespace,))
        images = map(_from_row, rows)
        return [image for image in images if matches(_adaptor(image))] if filter_texts else list(images)

    async def create(self, namespace: str, image: Image, lease: str = "") -> Image:
        """Store a new image and return it with its times. AlreadyExists for a name in use.

        One that expires joins the lease, if one is given (NotFound if there is none of this id); the others need none.
        """
        _validate(image)
        now = time.time_ns()
        made = replace(image, created_at=now, updated_at=now)

        def insert(connection: sqlite3.Connection) -> None:
            namespaces.ensure(connection, namespace)
            _lease(connection, namespace, lease, made)
            try:
                connection.execute("INSERT INTO images VALUES (?,?,?,?,?,?,?,?,?)", _to_row(namespace, made))
            except sqlite3.IntegrityError:
                raise AlreadyExists(f'image "{made.name}"') from None

        await self._database.write(insert)
        return self.get(namespace, made.name)

    async def update(self, namespace: str, image: Image, paths: Sequence[str], lease: str = "") -> Image:
        """Change what the mask names, everything but created_at without one, and return the result.

        One that expires then joins the lease, as in `create`.
        """
        if not image.name:
            raise InvalidArgument("image name is required for update")

        def change(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT * FROM images WHERE namespace = ? AND name = ?", (namespace, image.name)
            ).fetchone()
            if row is None:
                raise NotFound(f'image "{image.name}"')
            made = replace(_merged(_from_row(row), image, paths), updated_at=time.time_ns())
            _validate(made)
            _lease(connection, namespace, lease, made)
            connection.execute("REPLACE INTO images VALUES (?,?,?,?,?,?,?,?,?)", _to_row(namespace, made))

        await self._database.write(change)
        return self.get(namespace, image.name)

    async def delete(self, namespace: str, name: str, target: str = "", lease: str = "") -> None:
        """Delete an image, and take it out of the caller's lease. NotFound if there is none, or if a target's digest is
        given and the image has another.
        """

        def remove(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT target_digest FROM images WHERE namespace = ? AND name = ?", (namespace, name)
            ).fetchone()
            if row is None:
                raise NotFound(f'image "{name}"')
            if target and row["target_digest"] != target:
                raise NotFound(f'image "{name}" has target {row["target_digest"]}, not {target}')
            connection.execute("DELETE FROM images WHERE namespace = ? AND name = ?", (namespace, name))
            leases.remove_resource(connection, namespace, lease, leases.IMAGES, name)

        await self._database.write(remove)


def _lease(connection: sqlite3.Connection, namespace: str, lease: str, image: Image) -> None:
    if image.labels.get(EXPIRE):
        leases.add_resource(connection, namespace, lease, leases.IMAGES, image.name)


def _merged(old: Image, new: Image, paths: Sequence[str]) -> Image:
    if not paths:
        return replace(new, created_at=old.created_at)
    made = replace(old, labels=labels.updated(old.labels, new.labels, paths))
    for path in paths:
        if path == "labels" or path.startswith("labels."):
            continue
        if path == "target":
            # "target" also carries the annotations, which are part of the descriptor.
            made = replace(made, target=new.target)
        elif path == "annotations" or path.startswith("annotations."):
            annotations = labels.updated(made.target.annotations, new.target.annotations, [path], "annotations")
            made = replace(made, target=replace(made.target, annotations=annotations))
        else:
            raise InvalidArgument(f'cannot update "{path}" field on image "{old.name}"')
    return made


def _validate(image: Image) -> None:
    if not image.name:
        raise InvalidArgument("image name must not be empty")
    labels.validate(image.labels, "image.Labels")
    try:
        digest.validate(image.target.digest)
    except InvalidArgument as error:
        reason = error.message.split(": ", 1)[1]  # the digest stands in front already
        raise InvalidArgument(f"Target.Digest {json.dumps(image.target.digest)} invalid: {reason}") from None
    if image.target.size <= 0:
        raise InvalidArgument("Target.Size must be greater than zero")
    if not image.target.media_type:
        raise InvalidArgument("Target.MediaType must be set")


def _to_row(namespace: str, image: Image) -> tuple[object, ...]:
    return (
        namespace,
        image.name,
        labels.encode(image.labels),
        image.target.media_type,
        image.target.digest,
        image.target.size,
        json.dumps(dict(image.target.annotations)),
        image.created_at,
        image.updated_at,
    )


def _from_row(row: sqlite3.Row) -> Image:
    _namespace, name, own, media_type, digest, size, annotations, created_at, updated_at = row
    target = Target(media_type, digest, size, labels.decode(annotations))
    return Image(name, target, labels.decode(own), created_at, updated_at)


def _adaptor(image: Image) -> filters.Adaptor:
    def ask(path: list[str]) -> tuple[str, bool]:
        if path == ["name"]:
            return image.name, bool(image.name)
        if path == ["target", "digest"]:
            return image.target.digest, bool(image.target.digest)
        if path == ["target", "mediatype"]:
            return image.target.media_type, bool(image.target.media_type)
        if path[0] == "labels":
            return filters.labels_field(image.labels, path)
        if path[0] == "annotations":
            return filters.labels_field(image.target.annotations, path)
        return "", False

    return ask
