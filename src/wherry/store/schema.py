"""The database's schema, as the migrations that lead to it. Append only: user_version counts those applied.

Times are integer nanoseconds since the epoch. Labels are JSON objects. Protobuf Any values are kept as the two columns
type_url and value, byte for byte.
"""

from __future__ import annotations

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE namespaces (
        name TEXT PRIMARY KEY,
        labels TEXT NOT NULL DEFAULT '{}'
    ) WITHOUT ROWID;

    CREATE TABLE containers (
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        labels TEXT NOT NULL,
        image TEXT NOT NULL,
        runtime_name TEXT NOT NULL,
        runtime_options_url TEXT,             -- NULL: no options were given
        runtime_options BLOB,
        spec_url TEXT,
        spec BLOB,
        snapshotter TEXT NOT NULL,
        snapshot_key TEXT NOT NULL,
        extensions TEXT NOT NULL,             -- {key: [type_url, base64 of value]}
        sandbox TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        PRIMARY KEY (namespace, id)
    ) WITHOUT ROWID;

    CREATE TABLE images (
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        labels TEXT NOT NULL,
        target_media_type TEXT NOT NULL,
        target_digest TEXT NOT NULL,
        target_size INTEGER NOT NULL,
        target_annotations TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        PRIMARY KEY (namespace, name)
    ) WITHOUT ROWID;

    CREATE TABLE leases (
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        labels TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        PRIMARY KEY (namespace, id)
    ) WITHOUT ROWID;

    CREATE TABLE lease_resources (
        namespace TEXT NOT NULL,
        lease TEXT NOT NULL,
        type TEXT NOT NULL,                   -- content, ingests, snapshots/<snapshotter>
        id TEXT NOT NULL,
        PRIMARY KEY (namespace, lease, type, id),
        FOREIGN KEY (namespace, lease) REFERENCES leases (namespace, id) ON DELETE CASCADE
    ) WITHOUT ROWID;

    CREATE TABLE content (
        namespace TEXT NOT NULL,
        digest TEXT NOT NULL,
        size INTEGER NOT NULL,
        labels TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        PRIMARY KEY (namespace, digest)
    ) WITHOUT ROWID;
    CREATE INDEX content_by_digest ON content (digest);

    CREATE TABLE ingests (
        id INTEGER PRIMARY KEY AUTOINCREMENT, -- names the directory below ingest/; never used again
        namespace TEXT NOT NULL,
        ref TEXT NOT NULL,
        total INTEGER NOT NULL,
        expected TEXT NOT NULL,
        started_at INTEGER NOT NULL,          -- when it was updated last, its file knows
        expires_at INTEGER,                   -- NULL: held by a lease
        UNIQUE (namespace, ref)
    );

    CREATE TABLE snapshots (
        id INTEGER PRIMARY KEY AUTOINCREMENT, -- names the directory of the snapshotter; never used again
        namespace TEXT NOT NULL,
        snapshotter TEXT NOT NULL,
        key TEXT NOT NULL,
        parent INTEGER REFERENCES snapshots (id),
        kind INTEGER NOT NULL,                -- 1 view, 2 active, 3 committed, as on the wire
        labels TEXT NOT NULL,
        size INTEGER NOT NULL DEFAULT 0,      -- of a committed one
        inodes INTEGER NOT NULL DEFAULT 0,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        UNIQUE (namespace, snapshotter, key)
    );
    CREATE INDEX snapshots_by_parent ON snapshots (parent);
    """,
    """
    CREATE TABLE sandboxes (
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        labels TEXT NOT NULL,
        runtime_name TEXT NOT NULL,
        runtime_options_url TEXT,             -- NULL: no options were given
        runtime_options BLOB,
        spec_url TEXT,
        spec BLOB,
        extensions TEXT NOT NULL,             -- {key: [type_url, base64 of value]}
        sandboxer TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        PRIMARY KEY (namespace, id)
    ) WITHOUT ROWID;

    CREATE TABLE mounts (                     -- activations of the mount manager
        id INTEGER PRIMARY KEY AUTOINCREMENT, -- names the directory of its mount points; never used again
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        labels TEXT NOT NULL,
        lease TEXT NOT NULL,                  -- that it was made under, or ''
        active TEXT,                          -- [{type, source, target, options, mount_point, mounted_at, data}];
        system TEXT,                          -- [{type, source, target, options}]; NULL both: not mounted yet
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        UNIQUE (namespace, name)
    );
    """,
)
