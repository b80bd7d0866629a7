-- +goose Up

-- The user that a password is for. A profile may name another one later, and the device keeps the one it has. '': the profile's.
ALTER TABLE credentials ADD COLUMN login text NOT NULL DEFAULT '';

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', now())
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
