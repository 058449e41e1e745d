-- The archive, version 1. Header bytes are the evidence; every other column is a copy of what they or the payload say, for
-- searching, and `cartulary verify` compares them. Tables are partitioned by record id, a UUIDv7 and so a time.
CREATE SCHEMA IF NOT EXISTS cartulary;

CREATE TABLE cartulary.schema_version (
    version    integer     NOT NULL PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE cartulary.record (
    id          uuid   NOT NULL PRIMARY KEY,
    header      bytea  NOT NULL,
    hash        bytea  NOT NULL,
    previous    bytea  NOT NULL,
    journal     uuid   NOT NULL,
    incarnation uuid   NOT NULL,
    event       uuid,
    sequence    bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    seen_at     timestamptz,
    kind        text   NOT NULL,
    endpoint    text   NOT NULL,
    node        text,
    cluster     text,
    host        text,
    ingress     text,
    from_jid    text,
    from_bare   text,
    to_jid      text,
    to_bare     text,
    target      text,
    room        text,
    type        text,
    stanza_id   text,
    origin_id   text,
    action      text,
    condition   text,
    session     text,
    direction   text,
    thread      text,
    subject     text,
    body        text,
    html        text,
    label       text
) PARTITION BY RANGE (id);

CREATE TABLE cartulary.payload (
    record_id uuid     NOT NULL,
    number    smallint NOT NULL,
    form      smallint NOT NULL,
    salt      bytea,
    bytes     bytea,
    PRIMARY KEY (record_id, number)
) PARTITION BY RANGE (record_id);

-- Who was meant to get an accepted message: one row for each recipient.
CREATE TABLE cartulary.delivery (
    record_id uuid    NOT NULL,
    ordinal   integer NOT NULL,
    bare      text    NOT NULL,
    occupant  text,
    resources jsonb   NOT NULL,
    direction text    NOT NULL,
    PRIMARY KEY (record_id, ordinal)
) PARTITION BY RANGE (record_id);

-- What became of it, as outcome records tell.
CREATE TABLE cartulary.outcome (
    record_id uuid    NOT NULL,
    ordinal   integer NOT NULL,
    event     uuid    NOT NULL,
    bare      text    NOT NULL,
    occupant  text,
    resources jsonb   NOT NULL,
    result    text    NOT NULL,
    reason    text,
    PRIMARY KEY (record_id, ordinal)
) PARTITION BY RANGE (record_id);

-- Nothing is refused because nobody made a partition in time.
CREATE TABLE cartulary.record_default   PARTITION OF cartulary.record   DEFAULT;
CREATE TABLE cartulary.payload_default  PARTITION OF cartulary.payload  DEFAULT;
CREATE TABLE cartulary.delivery_default PARTITION OF cartulary.delivery DEFAULT;
CREATE TABLE cartulary.outcome_default  PARTITION OF cartulary.outcome  DEFAULT;

CREATE INDEX record_stream   ON cartulary.record (journal, endpoint, incarnation, sequence, id);
CREATE INDEX record_event    ON cartulary.record (event);
CREATE INDEX record_from     ON cartulary.record (from_bare, id);
CREATE INDEX record_to       ON cartulary.record (to_bare, id);
CREATE INDEX record_room     ON cartulary.record (room, id) WHERE room IS NOT NULL;
CREATE INDEX record_seen_at  ON cartulary.record (seen_at);
CREATE INDEX delivery_person ON cartulary.delivery (bare, record_id);
CREATE INDEX outcome_event   ON cartulary.outcome (event);
