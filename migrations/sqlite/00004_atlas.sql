-- +goose Up

-- What decides about a provisioning certificate, so that counting a fleet by trust table reads no device's row.
CREATE INDEX devices_atlas ON devices (trust_table, amt_version, suffix, lifecycle);
