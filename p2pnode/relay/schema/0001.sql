-- What a relay keeps, on one machine. Of time it holds days and weeks; of people and addresses nothing.
-- What is let go of leaves free pages behind, sealed like all others, which the next messages fill: the file stops
-- growing at the quota and never shrinks.

CREATE TABLE topic (
    no       INTEGER PRIMARY KEY,
    key      BLOB NOT NULL UNIQUE,
    newest   INTEGER NOT NULL,                -- the number of the newest message, and the running hash behind it
    hash     BLOB NOT NULL,
    gone     INTEGER NOT NULL,                -- the number of the last one let go of, and the running hash behind it
    gone_hash BLOB NOT NULL,
    bytes    INTEGER NOT NULL,                -- of the messages between the two
    appended INTEGER NOT NULL,                -- the day of the newest message
    due      INTEGER NOT NULL                 -- the day on which the oldest message goes; where none is left, this row
) STRICT;
CREATE INDEX topic_due ON topic (due);

CREATE TABLE message (
    no         INTEGER PRIMARY KEY,           -- topic.no << 32 | number
    digest     BLOB NOT NULL,                 -- by which it is known when it comes again
    hash       BLOB NOT NULL,                 -- the topic's running hash behind it
    keep_until INTEGER NOT NULL,              -- the first day on which it may go
    body       BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX message_digest ON message (no >> 32, digest);

CREATE TABLE total (                          -- one row, moved by the transaction that moves what it counts
    no       INTEGER PRIMARY KEY CHECK (no = 1),
    topics   INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    bytes    INTEGER NOT NULL
) STRICT;
INSERT INTO total VALUES (1, 0, 0, 0);

CREATE TABLE replay (                         -- first messages that were opened
    week INTEGER NOT NULL,
    tag  BLOB NOT NULL,
    PRIMARY KEY (week, tag)
) STRICT, WITHOUT ROWID;
