-- +goose Up

-- Which agent speaks for a device that has no name yet: the one that announced it first, for a time.
CREATE TABLE agents (
    uuid    uuid PRIMARY KEY,
    peer    text NOT NULL, -- as its certificate names it
    expires timestamptz(3) NOT NULL,
    signed  bytea
);
CREATE INDEX agents_peer ON agents (peer);

-- As in schema 14: by what a device is known again, and who may begin something with it.
ALTER TABLE credentials ADD COLUMN signed bytea;
ALTER TABLE runs ADD COLUMN signed bytea;
ALTER TABLE job_items ADD COLUMN signed bytea;

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', now())
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
