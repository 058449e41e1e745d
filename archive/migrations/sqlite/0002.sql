-- Version 2: which parser filled the columns that come from a payload, so that `verify` computes them with the same one, and
-- indexes by which the messages of a day and node are counted (EV-2).
ALTER TABLE record ADD COLUMN parser INTEGER NOT NULL DEFAULT 1;

DROP INDEX IF EXISTS record_seen_at;
CREATE INDEX IF NOT EXISTS record_day  ON record (seen_at, kind, cluster, node, ingress);
CREATE INDEX IF NOT EXISTS record_told ON record (kind, id) WHERE kind IN ('tally', 'gap');
