-- +goose Up

-- Since when a change that was sent to a managed device waits for a run that comes to a good end, and since when the
-- device has not answered after such a change.
ALTER TABLE devices ADD COLUMN unproved_at integer;
ALTER TABLE devices ADD COLUMN lost_at integer;
CREATE INDEX devices_lost ON devices (lost_at) WHERE lost_at IS NOT NULL;

-- To whom a person gave another profile than the one they have.
CREATE INDEX devices_assigned ON devices (assigned_profile, uuid) WHERE assigned_profile <> '' AND assigned_profile <> profile;

-- A job goes in waves: one device, some, the rest. A job that was stopped is a draft with the time since when, so that nodes
-- of the version before leave it alone.
ALTER TABLE jobs ADD COLUMN canary integer NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN target text NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN cause text NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN detail text NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN stopped_at integer;
ALTER TABLE jobs ADD COLUMN resumed_at integer;

-- An item is handed over while the run that its command began has not ended; proves is the run that another one, under way,
-- is to prove by a login.
ALTER TABLE job_items ADD COLUMN wave integer NOT NULL DEFAULT 0;
ALTER TABLE job_items ADD COLUMN handed boolean NOT NULL DEFAULT false;
ALTER TABLE job_items ADD COLUMN proves bigint NOT NULL DEFAULT 0;

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', CAST(strftime('%s', 'now') AS integer) * 1000)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
