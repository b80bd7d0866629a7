-- +goose Up

-- When the device last refused a password, so that those not tried yet get their turn before it is asked the same again.
ALTER TABLE credentials ADD COLUMN refused_at timestamptz(3);

-- Schema 4 does not know the column and needs nothing from it.
INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', now())
ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
