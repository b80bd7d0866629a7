-- +goose NO TRANSACTION
-- +goose Up

-- Where a device is called (address) and where its UUID was last heard are two facts: anybody can say hello in its name.
ALTER TABLE devices ADD COLUMN IF NOT EXISTS heard_from text NOT NULL DEFAULT '';
-- Whose word the address is: '' a hello's, import, operator, agent, dns, contact (a machine with the known key answered there).
ALTER TABLE devices ADD COLUMN IF NOT EXISTS address_by text NOT NULL DEFAULT '';
-- Where an authenticated agent says that the device is, until somebody has answered there.
ALTER TABLE devices ADD COLUMN IF NOT EXISTS agent_address text NOT NULL DEFAULT '';
-- Where a machine with the known key answered last.
ALTER TABLE devices ADD COLUMN IF NOT EXISTS good_address text NOT NULL DEFAULT '';
-- Somebody says hello in its name from elsewhere: from when on it is called, to see whether it is still there.
ALTER TABLE devices ADD COLUMN IF NOT EXISTS claim_due timestamptz;
CREATE INDEX CONCURRENTLY IF NOT EXISTS devices_claims ON devices (claim_due) WHERE claim_due IS NOT NULL;

INSERT INTO settings (key, value, updated_at) VALUES ('schema_readable_from', '4', now())
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
