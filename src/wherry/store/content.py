"""Content: blobs by digest, and the ingests that become blobs. Namespaces share the files, and see only their own.

Blobs are named by their SHA-256 digest, as containerd's are. An expected digest of another algorithm is taken, and
cannot be met.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from wherry.errors import (
    AlreadyExists,
    Error,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from wherry.oci import digest as digests
from wherry.store import filters, ingest_rows, labels, leases
from wherry.store.blobs import BlobFiles
from wherry.store.database import Database
from wherry.store.following import Following, Progress
from wherry.store.ingest import IngestData, in_thread, to_the_end

#: How long, in seconds, a second writer of an ingest waits for the first: a client may come back before the end of
#: its last stream is noticed.
_PATIENCE = 1.0
#: Rows that are looked at without a pause for others.
_PAGE = 100
#: Whether a blob's file is needed: by a namespace that has it, or by an ingest that it may stand for.
_NEEDED = """
    SELECT EXISTS (SELECT 1 FROM content WHERE digest = ?) OR EXISTS (SELECT 1 FROM ingests WHERE expected = ?)
"""


@dataclass(frozen=True, slots=True)
class Info:
    """One blob, as a namespace knows it. Times are nanoseconds since the epoch."""

    digest: str
    size: int
    labels: Mapping[str, str]
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class Status:
    """One ingest. `total` is 0 and `expected` "" if nobody said."""

    ref: str
    offset: int
    total: int
    expected: str
    started_at: int
    updated_at: int


class ContentStore:
    """The content of one database and one directory."""

    def __init__(self, database: Database, root: str) -> None:
        self._database = database
        self._files = BlobFiles(root)
        self._locks: dict[tuple[str, str], _Lock] = {}
        #: Open writers by the digest that they are to end up with.
        self._expected: dict[tuple[str, str], ContentWriter] = {}

    @property
    def root(self) -> str:
        """The store's directory."""
        return self._files.root

    def info(self, namespace: str, digest: str) -> Info:
        """Return what is known of a blob. NotFound, or InvalidArgument for what is no digest."""
        digests.validate(digest)
        rows = self._database.read("SELECT * FROM content WHERE namespace = ? AND digest = ?", (namespace, digest))
        if not rows:
            raise NotFound(f"content digest {digest}")
        return _info(rows[0])

    def has(self, namespace: str, digest: str) -> bool:
        """Tell whether a namespace has a blob; no digest at all is no error."""
        return bool(
            self._database.read("SELECT 1 FROM content WHERE namespace = ? AND digest = ?", (namespace, digest))
        )

    def open(self, namespace: str, digest: str) -> tuple[int, int]:
        """Return a descriptor of a blob, which the caller closes, and the blob's size. NotFound."""
        info = self.info(namespace, digest)
        return self._files.open(digest), info.size

    def pages(self, namespace: str, filter_texts: Sequence[str] = ()) -> Iterator[list[Info]]:
        """Yield the blobs that match any of the filters, in the order of digests, a bounded number at a time."""
        matches = filters.parse_all(filter_texts)
        query = "SELECT * FROM content WHERE namespace = ? AND digest > ? ORDER BY digest LIMIT ?"
        last = ""
        while rows := self._database.read(query, (namespace, last, _PAGE)):
            last = rows[-1]["digest"]
            yield [info for info in map(_info, rows) if matches(_adaptor(info))]

    async def update(self, namespace: str, digest: str, new: Mapping[str, str], paths: Sequence[str] = ()) -> Info:
        """Change a blob's labels: those the mask names, or all without one. NotFound, InvalidArgument."""
        digests.validate(digest)
        labels.check_mask(paths, ("labels", "labels."), f'content info "{digest}"')

        def change(connection: sqlite3.Connection) -> Info:
            row = _row(connection, namespace, digest)
            if row is None:
                raise NotFound(f"content digest {digest}")
            old = _info(row)
            made = labels.updated(old.labels, new, paths or ("labels",))
            labels.validate(made, "info.Labels")
            now = time.time_ns()
            connection.execute(
                "UPDATE content SET labels = ?, updated_at = ? WHERE namespace = ? AND digest = ?",
                (labels.encode(made), now, namespace, digest),
            )
            return Info(digest, old.size, made, old.created_at, now)

        return await self._database.write(change)

    async def delete(self, namespace: str, digest: str, lease: str = "") -> None:
        """Take a blob out of a namespace, and out of the caller's lease. NotFound."""
        digests.validate(digest)

        def remove(connection: sqlite3.Connection) -> None:
            query = "DELETE FROM content WHERE namespace = ? AND digest = ?"
            if not connection.execute(query, (namespace, digest)).rowcount:
                raise NotFound(f"content digest {digest}")
            connection.execute(
                "DELETE FROM lease_resources WHERE namespace = ? AND lease = ? AND type = ? AND id = ?",
                (namespace, lease, leases.CONTENT, digest),
            )

        await self._database.write(remove)
        await self.discard([digest])

    async def discard(self, candidates: Sequence[str]) -> None:
        """Remove the files of those blobs that no namespace has any more."""
        for start in range(0, len(candidates), _PAGE):
            await self._retire(candidates[start : start + _PAGE])
        await in_thread(self._files.empty_removed)

    async def discard_ingests(self, ingests: Sequence[int]) -> None:
        """Remove the files of ingests whose rows are gone."""
        for ingest in ingests:
            await in_thread(functools.partial(self._files.remove_ingest, ingest))

    async def _retire(self, candidates: Sequence[str]) -> None:
        def retire(connection: sqlite3.Connection) -> None:
            for digest in candidates:
                if not connection.execute(_NEEDED, (digest, digest)).fetchone()[0]:
                    self._files.retire(digest)

        # A transaction of its own, after the rows are gone for good; in the writer's order, so that a commit which
        # counts on such a file comes either before, and keeps it, or after, and puts it back.
        await self._database.write(retire)

    async def collect(self) -> None:
        """Remove every file that the database does not know: at the start, and after rows have been deleted."""
        for ingest in await in_thread(self._files.ingests):
            if not self._database.read("SELECT 1 FROM ingests WHERE id = ?", (ingest,)):
                await self.discard_ingests([ingest])
        unknown = set(await in_thread(self._files.digests))
        query = "SELECT DISTINCT digest FROM content WHERE digest > ? ORDER BY digest LIMIT ?"
        last = ""
        while rows := self._database.read(query, (last, _PAGE)):
            last = rows[-1]["digest"]
            unknown.difference_update(row["digest"] for row in rows)
            await asyncio.sleep(0)
        await self.discard(sorted(unknown))

    # Ingests.

    def status(self, namespace: str, ref: str) -> Status:
        """Return how far an ingest is. NotFound."""
        rows = self._database.read("SELECT * FROM ingests WHERE namespace = ? AND ref = ?", (namespace, ref))
        if not rows:
            raise NotFound(f'ingest ref "{ref}"')
        return self._status(rows[0])

    def statuses(self, namespace: str, filter_texts: Sequence[str] = ()) -> list[Status]:
        """Return the ingests that match any of the filters."""
        matches = filters.parse_all(filter_texts)
        rows = self._database.read("SELECT * FROM ingests WHERE namespace = ? ORDER BY ref", (namespace,))

        def adaptor(ref: str) -> filters.Adaptor:
            return lambda path: (ref, True) if path == ["ref"] else ("", False)

        return [self._status(row) for row in rows if matches(adaptor(row["ref"]))]

    def _status(self, row: sqlite3.Row) -> Status:
        seen = self._files.stat_ingest(row["id"])
        offset, updated_at = (seen.st_size, seen.st_mtime_ns) if seen else (0, row["started_at"])
        total = row["total"]
        if seen is None and row["expected"]:
            shared = self._database.read("SELECT size FROM content WHERE digest = ? LIMIT 1", (row["expected"],))
            if shared and total in (0, shared[0]["size"]):
                offset = total = shared[0]["size"]
        return Status(row["ref"], offset, total, row["expected"], row["started_at"], updated_at)

    async def abort(self, namespace: str, ref: str) -> None:
        """Give up an ingest. NotFound."""

        def remove(connection: sqlite3.Connection) -> tuple[int, str]:
            row = connection.execute(
                "SELECT id, expected FROM ingests WHERE namespace = ? AND ref = ?", (namespace, ref)
            ).fetchone()
            if row is None:
                raise NotFound(f'ingest ref "{ref}"')
            ingest_rows.forget(connection, namespace, ref, row["id"])
            return row["id"], row["expected"]

        ingest, expected = await self._database.write(remove)
        await in_thread(lambda: self._files.remove_ingest(ingest))
        if expected and self._files.exists(expected):
            await self.discard([expected])  # which it alone may have kept

    async def writer(
        self, namespace: str, ref: str, *, total: int = 0, expected: str = "", lease: str = ""
    ) -> ContentWriter:
        """Open an ingest for writing, new or where it was left, and lock it until the writer is closed.

        It starts again if `total` contradicts what was said before. If another namespace has the expected blob, of the
        right size, it counts as written. AlreadyExists if this namespace has it, Unavailable while another writes,
        NotFound for an unknown lease, InvalidArgument without a ref.
        """
        if not ref:
            raise InvalidArgument("ref must not be empty")
        await self._lock(namespace, ref)
        try:
            opened = await self._database.write(
                lambda connection: ingest_rows.open_ingest(connection, namespace, ref, total, expected, lease)
            )
            if opened is None:
                # Not raised within the write, so that the lease keeps what it was given.
                raise AlreadyExists(f"content {expected}")
            shared = expected if opened.shared_size is not None else ""
            data = IngestData(self._files, opened.id, shared=shared, size=opened.shared_size or 0)
            try:
                with _full_disk():
                    await data.open(new=opened.new, resume=opened.resume)
            except BaseException:
                data.close()
                raise
        except BaseException:
            self._unlock(namespace, ref)
            raise
        writer = ContentWriter(self, namespace, ref, opened.id, total, opened.started_at, lease, data)
        if expected:
            self._expected.setdefault((namespace, expected), writer)
            writer.expected = expected
        return writer

    def follow(self, namespace: str, digest: str) -> Following:
        """Return the ingest that is being written and to become the blob of a digest, to be read meanwhile.

        For callers in this process. NotFound if none is.
        """
        writer = self._expected.get((namespace, digest))
        if writer is None:
            raise NotFound(f"content digest {digest}: no ingest is being written")
        return writer.follow()

    def _forget_writer(self, writer: ContentWriter) -> None:
        key = writer.namespace, writer.expected
        if self._expected.get(key) is writer:
            del self._expected[key]

    async def _lock(self, namespace: str, ref: str) -> None:
        key = namespace, ref
        try:
            async with asyncio.timeout(_PATIENCE):
                while key in self._locks:
                    await self._locks[key].released.wait()
        except TimeoutError:
            seconds = time.monotonic() - self._locks[key].since if key in self._locks else 0.0
            raise Unavailable(f"ref {ref} locked for {seconds:.3f}s") from None
        self._locks[key] = _Lock()

    def _unlock(self, namespace: str, ref: str) -> None:
        self._locks.pop((namespace, ref)).released.set()

    async def _record(self, writer: ContentWriter, digest: str, new: Mapping[str, str], shared: bool) -> None:
        """Make an ingest's row a blob's. The file is in place, but for what is deleted meanwhile."""
        namespace, ref, ingest = writer.namespace, writer.ref, writer.ingest
        size = writer.offset

        def record(connection: sqlite3.Connection) -> bool:
            if not connection.execute("SELECT 1 FROM ingests WHERE id = ?", (ingest,)).fetchone():
                raise NotFound(f'ingest ref "{ref}"')
            exists = _row(connection, namespace, digest) is not None
            if not exists:
                if shared:
                    # The ingest has kept it, whatever became of the namespace that it was of.
                    if not self._files.exists(digest):
                        raise FailedPrecondition(f'"{ref}": content {digest} was removed meanwhile')
                elif not self._files.exists(digest):
                    self._files.link(ingest, digest)
                now = time.time_ns()
                connection.execute(
                    "INSERT INTO content VALUES (?, ?, ?, ?, ?, ?)",
                    (namespace, digest, size, labels.encode(new), now, now),
                )
            ingest_rows.forget(connection, namespace, ref, ingest)
            leases.add_resource(connection, namespace, writer.lease, leases.CONTENT, digest)
            return exists

        try:
            existed = await self._database.write(record)
        except Exception:
            await self.discard([digest])
            raise
        await in_thread(lambda: self._files.remove_ingest(ingest))
        if existed:
            raise AlreadyExists(f"content {digest}")


class ContentWriter:
    """An ingest that is being written. Its methods are called one after the other; close it, committed or not."""

    def __init__(
        self,
        store: ContentStore,
        namespace: str,
        ref: str,
        ingest: int,
        total: int,
        started_at: int,
        lease: str,
        data: IngestData,
    ) -> None:
        self.namespace = namespace
        self.ref = ref
        self.ingest = ingest
        self.total = total
        self.started_at = started_at
        self.lease = lease
        #: The digest that was announced, or "".
        self.expected = ""
        self._store = store
        self._data = data
        self._progress = Progress(data.offset)

    async def __aenter__(self) -> ContentWriter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def offset(self) -> int:
        """The number of bytes so far."""
        return self._data.offset

    @property
    def digest(self) -> str:
        """The digest of the bytes so far."""
        return self._data.digest

    @property
    def updated_at(self) -> int:
        """When bytes were added last, in nanoseconds."""
        return self._data.modified_at or self.started_at

    async def write(self, data: bytes) -> None:
        """Add bytes. ResourceExhausted if the disk is full, and then the ingest is gone: it only holds space."""
        try:
            await self._data.write(data)
        except ResourceExhausted as error:
            self._progress.fail(error)
            await self._data.truncate()
            await self._give_up()
            raise
        self._progress.advance(self.offset)

    async def truncate(self) -> None:
        """Start again with no bytes."""
        self._progress.advance(0)
        with _full_disk():
            await self._data.truncate()

    def follow(self) -> Following:
        """Return a reader of what is written, and of what will be."""
        return Following(self._data.duplicate(), self._progress)

    def fileno(self) -> int:
        """A descriptor of the file, for a process that writes it whole; `adopt` follows."""
        return self._data.fileno()

    def adopt(self, digest: str) -> None:
        """Take the word of the process that wrote the file for its digest."""
        self._data.adopt(digest)

    async def commit(self, size: int = 0, expected: str = "", new: Mapping[str, str] | None = None) -> str:
        """Make the bytes a blob with these labels, and return its digest.

        FailedPrecondition if size (unless 0) or digest (unless "") differ, and the ingest is kept; AlreadyExists if the
        namespace has the blob, and the ingest is gone; NotFound if the ingest was aborted; ResourceExhausted.
        """
        try:
            made = await self._check_and_commit(size, expected, new or {})
        except AlreadyExists:
            self._progress.commit()  # somebody else was quicker: the same bytes
            raise
        except Error as error:
            self._progress.fail(error)
            raise
        self._progress.commit()
        return made

    async def _check_and_commit(self, size: int, expected: str, new: Mapping[str, str]) -> str:
        labels.validate(new)
        if size and size != self.offset:
            raise FailedPrecondition(f'"{self.ref}" failed size validation: {self.offset} != {size}')
        digest = self.digest
        if expected and expected != digest:
            raise FailedPrecondition(f"unexpected commit digest {digest}, expected {expected}")
        await to_the_end(self._commit(digest, new))
        return digest

    async def _commit(self, digest: str, new: Mapping[str, str]) -> None:
        shared = bool(self._data.shared)
        with _full_disk():
            await self._data.publish()
        await self._store._record(self, digest, new, shared)

    async def abort(self) -> None:
        """Give the ingest up; nothing happens if it is gone."""
        await self._give_up()

    async def _give_up(self) -> None:
        try:
            await self._store.abort(self.namespace, self.ref)
        except NotFound:
            pass

    def close(self) -> None:
        """Close the file and let others write. What was not committed is kept."""
        self._progress.fail(Unavailable(f'ingest "{self.ref}" was left before it was complete'))
        self._store._forget_writer(self)
        self._data.close()
        self._store._unlock(self.namespace, self.ref)


class _Lock:
    __slots__ = ("released", "since")

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.released = asyncio.Event()


@contextlib.contextmanager
def _full_disk() -> Iterator[None]:
    """Give a full disk the kind that clients understand."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(f"content store: {os.strerror(error.errno).lower()}") from None
        raise


def _row(connection: sqlite3.Connection, namespace: str, digest: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM content WHERE namespace = ? AND digest = ?", (namespace, digest)
    ).fetchone()
    return row


def _info(row: sqlite3.Row) -> Info:
    return Info(row["digest"], row["size"], labels.decode(row["labels"]), row["created_at"], row["updated_at"])


def _adaptor(info: Info) -> filters.Adaptor:
    def ask(path: list[str]) -> tuple[str, bool]:
        if path == ["digest"]:
            return info.digest, True
        if path[0] == "labels":
            return filters.labels_field(info.labels, path)
        return "", False

    return ask
