-- +goose Up

-- What became of each setting of a device's profile: shown, counted, and asked before it is written again.
CREATE TABLE device_settings (
    uuid            text NOT NULL REFERENCES devices (uuid) ON DELETE CASCADE,
    name            text NOT NULL,
    state           text NOT NULL CHECK (state IN ('ok', 'differs', 'refused', 'unsupported', 'elsewhere')),
    detail          text NOT NULL DEFAULT '',
    firmware        text NOT NULL DEFAULT '', -- the release this was found on
    profile         text NOT NULL DEFAULT '',
    profile_version integer NOT NULL DEFAULT 0,
    flips           integer NOT NULL DEFAULT 0, -- how often it was mended after it had been as wanted
    at              integer NOT NULL,
    PRIMARY KEY (uuid, name)
) WITHOUT ROWID;
CREATE INDEX device_settings_state ON device_settings (state, name) WHERE state <> 'ok';

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', CAST(strftime('%s', 'now') AS integer) * 1000)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
