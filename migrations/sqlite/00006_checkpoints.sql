-- +goose Up

-- The audit's chain up to seq, signed with the server's key: whoever recomputes the chain cannot sign it again.
CREATE TABLE audit_checkpoints (
    seq       bigint PRIMARY KEY,
    at        integer NOT NULL,
    hash      blob NOT NULL,
    signature blob NOT NULL
);
-- +goose StatementBegin
CREATE TRIGGER audit_checkpoints_kept_update BEFORE UPDATE ON audit_checkpoints
BEGIN SELECT RAISE(ABORT, 'rows of audit_checkpoints are never changed or deleted'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_checkpoints_kept_delete BEFORE DELETE ON audit_checkpoints
BEGIN SELECT RAISE(ABORT, 'rows of audit_checkpoints are never changed or deleted'); END;
-- +goose StatementEnd

-- The profile that a person gave this very device; it goes before lists and rules.
ALTER TABLE devices ADD COLUMN assigned_profile text NOT NULL DEFAULT '';

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', CAST(strftime('%s', 'now') AS integer) * 1000)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
