-- The registry of rtunnel in an SQLite file, version 1.
--
-- The script runs in one transaction, and does nothing to a file that another process
-- has just made the same way.

BEGIN IMMEDIATE;

-- "rtun": tells our files from other people's.
PRAGMA application_id = 0x7274756e;
PRAGMA user_version = 1;

-- One row. The revision grows by one with every change of an entry, so that whoever
-- polls sees that something changed by reading one number.
CREATE TABLE IF NOT EXISTS registry (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL
);
INSERT OR IGNORE INTO registry (id, revision) VALUES (1, 0);

-- What the proxies know: see rtunnel/registry/records.py.
CREATE TABLE IF NOT EXISTS entry (
    key      TEXT PRIMARY KEY,
    value    TEXT NOT NULL,    -- JSON
    revision INTEGER NOT NULL, -- of the registry when this entry was written
    expires  REAL              -- seconds since the epoch; NULL is never
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS entry_expires ON entry (expires) WHERE expires IS NOT NULL;

COMMIT;
