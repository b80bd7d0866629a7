-- +goose Up

-- Whom a password is for. setup is the generation that began the set-up a password descends from (0: an earlier release wrote the
-- row); proofs stands on the row of that generation and lists what shows a device to be the one that went through it: a letter (k: SHA-256 of
-- a public key, l: of a certificate, h: of a hardware identity's public key) and 32 bytes each. committed_at is when a password
-- became one that a device outside setup mode may hold.
ALTER TABLE credentials ADD COLUMN setup bigint NOT NULL DEFAULT 0;
ALTER TABLE credentials ADD COLUMN proofs blob;
ALTER TABLE credentials ADD COLUMN committed_at integer;

-- The certificate that a person vouched for (SHA-256), or one letter f: the first one that answers. And the certificate that
-- answered last and was told no password.
ALTER TABLE devices ADD COLUMN vouched blob;
ALTER TABLE devices ADD COLUMN peer_seen blob;

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', CAST(strftime('%s', 'now') AS integer) * 1000)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
