-- +goose Up

-- As in schema 14: a console's certificate, until it is revoked, carries a MAC, so that nobody takes a revocation back by SQL.
ALTER TABLE console_certificates ADD COLUMN signed bytea;

-- A device that this server did not put into a job. Its state says skipped, which nodes of every version leave alone.
ALTER TABLE job_items ADD COLUMN forged boolean NOT NULL DEFAULT false;

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', now())
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
