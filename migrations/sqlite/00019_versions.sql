-- +goose Up

-- As in schema 14: a version of the configuration's profile, which is kept among the settings, says what a device is set up with.
ALTER TABLE settings ADD COLUMN signed blob;

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', CAST(strftime('%s', 'now') AS integer) * 1000)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
