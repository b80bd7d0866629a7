-- +goose Up

-- The audit's chain up to seq, signed with the server's key: whoever recomputes the chain cannot sign it again.
CREATE TABLE audit_checkpoints (
    seq       bigint PRIMARY KEY,
    at        timestamptz(3) NOT NULL,
    hash      bytea NOT NULL,
    signature bytea NOT NULL
);
CREATE TRIGGER audit_checkpoints_kept BEFORE UPDATE OR DELETE ON audit_checkpoints FOR EACH ROW EXECUTE FUNCTION provisiond_append_only();

-- The profile that a person gave this very device; it goes before lists and rules.
ALTER TABLE devices ADD COLUMN assigned_profile text NOT NULL DEFAULT '';

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', now())
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
