-- +goose Up

-- A user is a person or a service; tokens and console logins are a user's, and end with the user.
CREATE TABLE users (
    name        text PRIMARY KEY,
    roles       text NOT NULL, -- divided by commas: what a token of this user may be given
    created_by  text NOT NULL DEFAULT '',
    created_at  integer NOT NULL,
    disabled_at integer
);

-- A console login. It is good while its token is, and ends by itself.
CREATE TABLE sessions (
    id         integer PRIMARY KEY AUTOINCREMENT,
    hash       blob NOT NULL UNIQUE, -- SHA-256 of what the cookie holds
    token_id   bigint NOT NULL,
    created_at integer NOT NULL,
    expires_at integer NOT NULL,
    ended_at   integer
);
CREATE INDEX sessions_token ON sessions (token_id);
CREATE INDEX sessions_expires ON sessions (expires_at);

-- '' is what schema 8 writes: such a token is of the user of its own name.
ALTER TABLE tokens ADD COLUMN user_name text NOT NULL DEFAULT '';

-- Until now a token was a person: each becomes a user of its own.
UPDATE tokens SET user_name = name WHERE name NOT LIKE 'session:%';
INSERT INTO users (name, roles, created_by, created_at)
    SELECT name, role, 'migration', created_at FROM tokens t
    WHERE name NOT LIKE 'session:%' AND NOT EXISTS (SELECT 1 FROM tokens newer WHERE newer.name = t.name AND newer.id > t.id);

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', CAST(strftime('%s', 'now') AS integer) * 1000)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
