-- +goose NO TRANSACTION
-- +goose Up

-- Since when a change that was sent to a managed device waits for a run that comes to a good end, and since when the
-- device has not answered after such a change.
ALTER TABLE devices ADD COLUMN IF NOT EXISTS unproved_at timestamptz(3);
ALTER TABLE devices ADD COLUMN IF NOT EXISTS lost_at timestamptz(3);
CREATE INDEX CONCURRENTLY IF NOT EXISTS devices_lost ON devices (lost_at) WHERE lost_at IS NOT NULL;

-- To whom a person gave another profile than the one they have.
CREATE INDEX CONCURRENTLY IF NOT EXISTS devices_assigned ON devices (assigned_profile, uuid) WHERE assigned_profile <> '' AND assigned_profile <> profile;

-- A job goes in waves: one device, some, the rest. A job that was stopped is a draft with the time since when, so that nodes
-- of the version before leave it alone.
ALTER TABLE jobs ADD COLUMN IF NOT EXISTS canary integer NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN IF NOT EXISTS target text NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN IF NOT EXISTS cause text NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN IF NOT EXISTS detail text NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN IF NOT EXISTS stopped_at timestamptz(3);
ALTER TABLE jobs ADD COLUMN IF NOT EXISTS resumed_at timestamptz(3);

-- An item is handed over while the run that its command began has not ended; proves is the run that another one, under way,
-- is to prove by a login.
ALTER TABLE job_items ADD COLUMN IF NOT EXISTS wave integer NOT NULL DEFAULT 0;
ALTER TABLE job_items ADD COLUMN IF NOT EXISTS handed boolean NOT NULL DEFAULT false;
ALTER TABLE job_items ADD COLUMN IF NOT EXISTS proves bigint NOT NULL DEFAULT 0;

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', now())
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
