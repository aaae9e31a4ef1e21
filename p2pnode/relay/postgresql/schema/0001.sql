-- What relays keep together. The tables are those of the shelf on SQLite, where every column is explained; what differs
-- is here. What is let go of leaves dead rows behind, whose place autovacuum gives to the next ones.

CREATE SCHEMA p2pnode_relay;

CREATE TABLE version (number integer NOT NULL); -- one row: how many of these files were applied
INSERT INTO version VALUES (0);

CREATE TABLE topic (                            -- its row is the lock under which a topic grows
    no        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key       bytea NOT NULL UNIQUE,
    newest    bigint NOT NULL,
    hash      bytea NOT NULL,
    gone      bigint NOT NULL,
    gone_hash bytea NOT NULL,
    bytes     bigint NOT NULL,
    appended  integer NOT NULL,
    due       integer NOT NULL
) WITH (fillfactor = 50);                       -- every message writes the row anew: beside the old one, no index moved
CREATE INDEX topic_due ON topic (due);

CREATE TABLE message (
    topic      bigint NOT NULL,
    number     bigint NOT NULL,
    digest     bytea NOT NULL,
    hash       bytea NOT NULL,
    keep_until integer NOT NULL,
    body       bytea NOT NULL,
    PRIMARY KEY (topic, number),
    UNIQUE (topic, digest)
);
ALTER TABLE message ALTER COLUMN body SET STORAGE EXTERNAL; -- what is sealed cannot be compressed

CREATE TABLE total (                            -- many rows that are added up: one would be a queue for every append
    shard    smallint PRIMARY KEY,              -- the first byte of a topic's key, modulo 64
    topics   bigint NOT NULL DEFAULT 0,
    messages bigint NOT NULL DEFAULT 0,
    bytes    bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);
INSERT INTO total SELECT generate_series(0, 63);

CREATE TABLE replay (
    week integer NOT NULL,
    tag  bytea NOT NULL,
    PRIMARY KEY (week, tag)
);
