-- +goose Up

-- What was done lately under a limit that all nodes share and a restart does not forget: passwords read by a token, calls to
-- an address that did not answer. An hour of it, and of each key no more than its limit.
CREATE TABLE lately (
    id   integer PRIMARY KEY AUTOINCREMENT,
    kind text NOT NULL,
    key  text NOT NULL,
    at   integer NOT NULL
);
CREATE INDEX lately_key ON lately (kind, key, at);
CREATE INDEX lately_at ON lately (at);

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', CAST(strftime('%s', 'now') AS integer) * 1000)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
