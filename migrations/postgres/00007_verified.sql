-- +goose Up

-- How the device's certificate was verified at its last setup: odca, that is, up to Intel's hardware root, or none.
ALTER TABLE devices ADD COLUMN peer_verified text NOT NULL DEFAULT '';

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', now())
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
