-- Relays: helpers that keep sealed messages for a space, and what of ours lies there.

CREATE TABLE relay (
    no    INTEGER PRIMARY KEY,
    space INTEGER NOT NULL REFERENCES space,
    host  TEXT NOT NULL,
    port  INTEGER NOT NULL,
    key   BLOB NOT NULL,                      -- what it must prove that it holds
    UNIQUE (space, key)
) STRICT;

CREATE TABLE topic (                          -- how far this node has read in the topics of a relay
    no     INTEGER PRIMARY KEY,
    relay  INTEGER NOT NULL REFERENCES relay,
    epoch  INTEGER NOT NULL,                  -- epoch.no
    week   INTEGER NOT NULL,
    number INTEGER NOT NULL,                  -- cursor: number of a message, and the running hash behind it
    hash   BLOB NOT NULL,
    first  INTEGER NOT NULL,                  -- the oldest message that the relay kept then
    UNIQUE (relay, epoch, week)
) STRICT;

CREATE TABLE posted (                         -- which entries the messages of a topic hold
    topic  INTEGER NOT NULL REFERENCES topic,
    number INTEGER NOT NULL,                  -- of the message
    log    INTEGER NOT NULL,                  -- log.no
    first  INTEGER NOT NULL,
    last   INTEGER NOT NULL,
    kind   INTEGER NOT NULL,                  -- 0 headers alone, 1 with payloads, 2 another branch from `first` on
    PRIMARY KEY (topic, number, log, first, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE reread (                         -- messages of which something could not be taken yet
    topic  INTEGER NOT NULL REFERENCES topic,
    number INTEGER NOT NULL,
    PRIMARY KEY (topic, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE theirs (                         -- the frontier in the last bundle: what its maker needs no more
    space  INTEGER NOT NULL REFERENCES space,
    key    BLOB NOT NULL,
    high   INTEGER NOT NULL,
    newest BLOB,
    state  INTEGER NOT NULL,
    PRIMARY KEY (space, key)
) STRICT, WITHOUT ROWID;
