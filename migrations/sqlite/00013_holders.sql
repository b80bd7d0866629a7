-- +goose Up

-- Which device has a name. A name is lower-case and whole; its row is what two devices that want it at once contend for.
-- A name that a device got from an earlier release has no row: it is found by the device's own.
CREATE TABLE name_holders (
    name       text PRIMARY KEY,
    uuid       text NOT NULL,
    claimed_at integer NOT NULL
);
CREATE INDEX name_holders_uuid ON name_holders (uuid);

-- Client certificates of the device CA that other consoles got.
CREATE TABLE console_certificates (
    id          integer PRIMARY KEY AUTOINCREMENT,
    serial      text NOT NULL UNIQUE, -- hexadecimal
    name        text NOT NULL,
    fingerprint blob NOT NULL,        -- SHA-256 of the certificate
    issued_to   text NOT NULL DEFAULT '',
    created_by  text NOT NULL,
    created_at  integer NOT NULL,
    not_after   integer NOT NULL,
    revoked_at  integer,
    revoked_by  text NOT NULL DEFAULT '',
    why         text NOT NULL DEFAULT ''
);

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', CAST(strftime('%s', 'now') AS integer) * 1000)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
