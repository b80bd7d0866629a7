-- +goose NO TRANSACTION
-- +goose Up

-- In which hour a device was last heard, counted from 1970: lists by last_seen begin with it. An index on last_seen itself
-- would be written at each hello; this one at the first of an hour. A trigger keeps it, for nodes of every version.
ALTER TABLE devices ADD COLUMN IF NOT EXISTS seen_hour integer NOT NULL DEFAULT 0;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION devices_seen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.seen_hour := coalesce(floor(extract(epoch FROM NEW.last_seen) / 3600), 0);
    RETURN NEW;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE TRIGGER devices_seen BEFORE INSERT OR UPDATE OF last_seen ON devices FOR EACH ROW EXECUTE FUNCTION devices_seen();
-- +goose StatementEnd
-- A thousand at a time, so that no hello waits long for its device's row.
-- +goose StatementBegin
DO $$
DECLARE
    past uuid := '00000000-0000-0000-0000-000000000000';
    batch uuid[];
BEGIN
    LOOP
        SELECT array_agg(uuid ORDER BY uuid) INTO batch FROM (SELECT uuid FROM devices WHERE uuid > past ORDER BY uuid LIMIT 1000) AS next;
        EXIT WHEN batch IS NULL;
        PERFORM 1 FROM devices WHERE uuid = ANY (batch) ORDER BY uuid FOR UPDATE;
        UPDATE devices SET seen_hour = floor(extract(epoch FROM last_seen) / 3600)
            WHERE uuid = ANY (batch) AND last_seen IS NOT NULL AND seen_hour <> floor(extract(epoch FROM last_seen) / 3600);
        past := batch[array_upper(batch, 1)];
        COMMIT;
    END LOOP;
END $$;
-- +goose StatementEnd

-- In the place of devices_lifecycle: those of a lifecycle, last heard first.
CREATE INDEX CONCURRENTLY IF NOT EXISTS devices_seen ON devices (lifecycle, seen_hour);
DROP INDEX CONCURRENTLY IF EXISTS devices_lifecycle;

-- In the place of devices_reason: reasons are counted without reading a device.
CREATE INDEX CONCURRENTLY IF NOT EXISTS devices_reasons ON devices (reason, lifecycle) WHERE reason <> '';
DROP INDEX CONCURRENTLY IF EXISTS devices_reason;

-- Few devices have a tag, and none when it says hello.
CREATE INDEX CONCURRENTLY IF NOT EXISTS devices_tagged ON devices (uuid) WHERE tags <> '[]';

-- Who is at this address, or in this network? A hello from where the last one came from writes nothing here.
CREATE INDEX CONCURRENTLY IF NOT EXISTS devices_address ON devices (address_key) WHERE address_key <> '';

-- Which words there are, and who has a rare one. A setup writes these, a hello does not.
CREATE INDEX CONCURRENTLY IF NOT EXISTS devices_version ON devices (amt_version) WHERE amt_version <> '';
CREATE INDEX CONCURRENTLY IF NOT EXISTS devices_suffix ON devices (suffix) WHERE suffix <> '';
CREATE INDEX CONCURRENTLY IF NOT EXISTS devices_profile ON devices (profile) WHERE profile <> '';
CREATE INDEX CONCURRENTLY IF NOT EXISTS devices_health ON devices (health) WHERE health <> '';

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', now())
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
