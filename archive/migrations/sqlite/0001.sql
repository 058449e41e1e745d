-- The archive, version 1. Header bytes are the evidence; every other column is a copy of what they or the payload say, for
-- searching, and `cartulary verify` compares them. Times are microseconds since 1970-01-01 UTC.
CREATE TABLE schema_version (
    version    INTEGER NOT NULL PRIMARY KEY,
    applied_at TEXT    NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE record (
    id          BLOB    NOT NULL PRIMARY KEY,
    header      BLOB    NOT NULL,
    hash        BLOB    NOT NULL,
    previous    BLOB    NOT NULL,
    journal     BLOB    NOT NULL,
    incarnation BLOB    NOT NULL,
    event       BLOB,
    sequence    INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    seen_at     INTEGER,
    kind        TEXT    NOT NULL,
    endpoint    TEXT    NOT NULL,
    node        TEXT,
    cluster     TEXT,
    host        TEXT,
    ingress     TEXT,
    from_jid    TEXT,
    from_bare   TEXT,
    to_jid      TEXT,
    to_bare     TEXT,
    target      TEXT,
    room        TEXT,
    type        TEXT,
    stanza_id   TEXT,
    origin_id   TEXT,
    action      TEXT,
    condition   TEXT,
    session     TEXT,
    direction   TEXT,
    thread      TEXT,
    subject     TEXT,
    body        TEXT,
    html        TEXT,
    label       TEXT
) WITHOUT ROWID;

CREATE TABLE payload (
    record_id BLOB    NOT NULL,
    number    INTEGER NOT NULL,
    form      INTEGER NOT NULL,
    salt      BLOB,
    bytes     BLOB,
    PRIMARY KEY (record_id, number)
);

-- Who was meant to get an accepted message: one row for each recipient.
CREATE TABLE delivery (
    record_id BLOB    NOT NULL,
    ordinal   INTEGER NOT NULL,
    bare      TEXT    NOT NULL,
    occupant  TEXT,
    resources TEXT    NOT NULL,
    direction TEXT    NOT NULL,
    PRIMARY KEY (record_id, ordinal)
);

-- What became of it, as outcome records tell.
CREATE TABLE outcome (
    record_id BLOB    NOT NULL,
    ordinal   INTEGER NOT NULL,
    event     BLOB    NOT NULL,
    bare      TEXT    NOT NULL,
    occupant  TEXT,
    resources TEXT    NOT NULL,
    result    TEXT    NOT NULL,
    reason    TEXT,
    PRIMARY KEY (record_id, ordinal)
);

CREATE INDEX record_stream   ON record (journal, endpoint, incarnation, sequence, id);
CREATE INDEX record_event    ON record (event);
CREATE INDEX record_from     ON record (from_bare, id);
CREATE INDEX record_to       ON record (to_bare, id);
CREATE INDEX record_room     ON record (room, id) WHERE room IS NOT NULL;
CREATE INDEX record_seen_at  ON record (seen_at);
CREATE INDEX delivery_person ON delivery (bare, record_id);
CREATE INDEX outcome_event   ON outcome (event);
