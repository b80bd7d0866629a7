-- +goose Up

-- Who writes into this database must not become somebody by it: a row that grants something carries a MAC (signed) over its key and what
-- it grants, under a key that is not here. NULL: nobody signed it. Schema 13 writes NULL, and such a row counts until all are signed.
ALTER TABLE tokens ADD COLUMN signed blob;
ALTER TABLE sessions ADD COLUMN signed blob;
ALTER TABLE users ADD COLUMN signed blob;
ALTER TABLE authorised_devices ADD COLUMN signed blob;
ALTER TABLE assignment_rules ADD COLUMN signed blob;
ALTER TABLE profiles ADD COLUMN signed blob;
ALTER TABLE names ADD COLUMN signed blob;
ALTER TABLE devices ADD COLUMN signed blob;
ALTER TABLE otps ADD COLUMN signed blob;
ALTER TABLE jobs ADD COLUMN signed blob;

-- A node that signs what it writes. While one that does not is about, nothing is refused for want of a MAC.
ALTER TABLE nodes ADD COLUMN signs boolean NOT NULL DEFAULT false;

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', CAST(strftime('%s', 'now') AS integer) * 1000)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
