-- +goose Up

-- In which hour a device was last heard, counted from 1970: lists by last_seen begin with it. An index on last_seen itself
-- would be written at each hello; this one at the first of an hour. Triggers keep it, for nodes of every version.
ALTER TABLE devices ADD COLUMN seen_hour integer NOT NULL DEFAULT 0;
UPDATE devices SET seen_hour = last_seen / 3600000 WHERE last_seen IS NOT NULL;
-- +goose StatementBegin
CREATE TRIGGER devices_seen_insert AFTER INSERT ON devices WHEN new.seen_hour <> coalesce(new.last_seen, 0) / 3600000
BEGIN UPDATE devices SET seen_hour = coalesce(new.last_seen, 0) / 3600000 WHERE rowid = new.rowid; END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER devices_seen_update AFTER UPDATE OF last_seen ON devices WHEN new.seen_hour <> coalesce(new.last_seen, 0) / 3600000
BEGIN UPDATE devices SET seen_hour = coalesce(new.last_seen, 0) / 3600000 WHERE rowid = new.rowid; END;
-- +goose StatementEnd

-- In the place of devices_lifecycle: those of a lifecycle, last heard first.
CREATE INDEX devices_seen ON devices (lifecycle, seen_hour);
DROP INDEX devices_lifecycle;

-- In the place of devices_reason: reasons are counted without reading a device.
CREATE INDEX devices_reasons ON devices (reason, lifecycle) WHERE reason <> '';
DROP INDEX devices_reason;

-- Few devices have a tag, and none when it says hello.
CREATE INDEX devices_tagged ON devices (uuid) WHERE tags <> '[]';

-- Who is at this address, or in this network? A hello from where the last one came from writes nothing here.
CREATE INDEX devices_address ON devices (address_key) WHERE address_key <> '';

-- Which words there are, and who has a rare one. A setup writes these, a hello does not.
CREATE INDEX devices_version ON devices (amt_version) WHERE amt_version <> '';
CREATE INDEX devices_suffix ON devices (suffix) WHERE suffix <> '';
CREATE INDEX devices_profile ON devices (profile) WHERE profile <> '';
CREATE INDEX devices_health ON devices (health) WHERE health <> '';

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', CAST(strftime('%s', 'now') AS integer) * 1000)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
