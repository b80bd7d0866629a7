-- +goose Up

-- Whose digest realm is this? Asked at each setup, since a password's hash is good under its realm only.
CREATE INDEX IF NOT EXISTS devices_realm ON devices (realm) WHERE realm <> '';

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', CAST(strftime('%s', 'now') AS integer) * 1000)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
