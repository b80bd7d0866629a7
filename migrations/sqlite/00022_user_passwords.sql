-- +goose Up

-- Passwords of the users that a profile wants on a device, beside its administrator: one row a password, as for credentials.
CREATE TABLE user_passwords (
    id           integer PRIMARY KEY AUTOINCREMENT,
    uuid         text NOT NULL REFERENCES devices (uuid),
    name         text NOT NULL,
    generation   integer NOT NULL,
    state        text NOT NULL CHECK (state IN ('candidate', 'active', 'retired')),
    sealed       blob NOT NULL,
    key_id       bigint NOT NULL,
    created_at   integer NOT NULL, -- and sent at: none is made that is not on its way
    activated_at integer,
    retired_at   integer,
    run_id       bigint NOT NULL DEFAULT 0,
    UNIQUE (uuid, name, generation)
);
CREATE UNIQUE INDEX user_passwords_active ON user_passwords (uuid, name) WHERE state = 'active';
CREATE INDEX user_passwords_key ON user_passwords (key_id);
-- +goose StatementBegin
CREATE TRIGGER user_passwords_kept BEFORE DELETE ON user_passwords
BEGIN SELECT RAISE(ABORT, 'rows of user_passwords are never deleted'); END;
-- +goose StatementEnd

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', CAST(strftime('%s', 'now') AS integer) * 1000)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
