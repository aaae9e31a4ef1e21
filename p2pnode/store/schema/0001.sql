-- One file holds every space of a node. Row numbers never leave it.

CREATE TABLE space (
    no            INTEGER PRIMARY KEY,
    id            BLOB NOT NULL UNIQUE,
    static_secret BLOB NOT NULL,              -- X25519, this node's face in this space and in no other
    -- counters, moved by the transaction that moves what they count
    entries       INTEGER NOT NULL DEFAULT 0,
    logs          INTEGER NOT NULL DEFAULT 0,
    pending       INTEGER NOT NULL DEFAULT 0, -- entries of report logs not yet on the board
    missing       INTEGER NOT NULL DEFAULT 0, -- rows of lack
    lamport       INTEGER NOT NULL DEFAULT 0  -- the highest held
) STRICT;

CREATE TABLE epoch (
    space  INTEGER NOT NULL REFERENCES space,
    no     INTEGER NOT NULL,                  -- in the order in which this node learned them
    secret BLOB NOT NULL,
    PRIMARY KEY (space, no)
) STRICT, WITHOUT ROWID;

CREATE TABLE author (                         -- the keys that write here; a person may have several, never linked outside
    space INTEGER NOT NULL REFERENCES space,
    no    INTEGER NOT NULL,                   -- 1 is the one that writes unless another is named
    seed  BLOB NOT NULL,
    PRIMARY KEY (space, no)
) STRICT, WITHOUT ROWID;

CREATE TABLE log (
    no       INTEGER PRIMARY KEY,
    space    INTEGER NOT NULL REFERENCES space,
    key      BLOB NOT NULL,                   -- 17 bytes: class, then BLAKE2b-128
    author   BLOB NOT NULL,
    log_id   BLOB NOT NULL,
    founding INTEGER NOT NULL,                -- 1: the header of its one entry names no space
    high     INTEGER NOT NULL,                -- seq, id and lamport of the newest entry held
    newest   BLOB NOT NULL,
    lamport  INTEGER NOT NULL,
    indexed  INTEGER NOT NULL,                -- up to this seq the board knows it
    fork     INTEGER,                         -- the lowest seq at which two authentic entries differ
    trusted  BLOB,                            -- the id at fork - 1
    UNIQUE (space, key)
) STRICT;
CREATE INDEX log_pending ON log (no) WHERE indexed < high;

CREATE TABLE entry (
    no        INTEGER PRIMARY KEY,            -- log.no << 32 | seq
    id        BLOB NOT NULL,
    lamport   INTEGER NOT NULL,
    time      INTEGER NOT NULL,               -- units of 15 minutes
    kind      INTEGER NOT NULL,
    size      INTEGER NOT NULL,               -- of the payload
    payload   BLOB,                           -- absent: there is a row in lack
    signature BLOB,
    refs      BLOB                            -- ids, one behind the other
) STRICT;

CREATE TABLE lack (                           -- entries whose payload is not held
    no   INTEGER PRIMARY KEY,                 -- entry.no
    hash BLOB                                 -- absent: the row was found damaged and is of no use until it comes again
) STRICT;

CREATE TABLE fork (
    log      INTEGER PRIMARY KEY,
    seq      INTEGER NOT NULL,
    evidence BLOB NOT NULL
) STRICT;

-- The board, behind the commit of the entries. Rows come in the order in which they were read, so that every index but
-- the newest-first one grows at its end.

CREATE TABLE report (
    no        INTEGER PRIMARY KEY,
    entry     INTEGER NOT NULL,
    id        BLOB NOT NULL,
    space     INTEGER NOT NULL,
    filed     INTEGER NOT NULL,               -- unix seconds, the author's claim
    lamport   INTEGER NOT NULL,
    category  TEXT NOT NULL,
    cell      TEXT,
    seen_from INTEGER NOT NULL,               -- observed window; where it is unknown: filed
    seen_to   INTEGER NOT NULL
) STRICT;
CREATE INDEX report_newest ON report (filed DESC, lamport DESC, space);
CREATE INDEX report_id ON report (substr(id, 1, 8));

CREATE TABLE cell (cell TEXT PRIMARY KEY) STRICT, WITHOUT ROWID; -- every cell that any report names

CREATE TABLE tag (
    tag    TEXT NOT NULL,
    report INTEGER NOT NULL,
    PRIMARY KEY (tag, report)
) STRICT, WITHOUT ROWID;

-- Which words occur in which report, and nothing more: no text, no positions. Phrases cannot be asked for.
CREATE VIRTUAL TABLE words USING fts5 (
    text, content = '', columnsize = 0, detail = none, tokenize = 'unicode61 remove_diacritics 2'
);

-- Who we met, and what must not happen twice

CREATE TABLE peer (                           -- addresses to dial; nothing about who answers there, or when
    space INTEGER NOT NULL REFERENCES space,
    host  TEXT NOT NULL,
    port  INTEGER NOT NULL,
    PRIMARY KEY (space, host, port)
) STRICT, WITHOUT ROWID;

CREATE TABLE replay (                         -- first messages that were opened
    tag  BLOB PRIMARY KEY,
    week INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE once (                           -- answers to calls that must not be carried out twice
    token  BLOB PRIMARY KEY,
    day    INTEGER NOT NULL,
    answer TEXT NOT NULL                      -- JSON
) STRICT, WITHOUT ROWID;

CREATE TABLE invite_use (
    admission    BLOB PRIMARY KEY,            -- the admission key that the invite announced
    author       BLOB NOT NULL,               -- who claimed it here
    answered     INTEGER NOT NULL,            -- unix seconds
    acknowledged INTEGER NOT NULL DEFAULT 0   -- 1: the newcomer has stored its welcome
) STRICT, WITHOUT ROWID;

CREATE TABLE joining (                        -- joins that have begun: trying again must claim for the same author
    admission BLOB PRIMARY KEY,
    seed      BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE imported (                       -- lines of files that were published before
    space INTEGER NOT NULL REFERENCES space,
    mark  BLOB NOT NULL,
    PRIMARY KEY (space, mark)
) STRICT, WITHOUT ROWID;
