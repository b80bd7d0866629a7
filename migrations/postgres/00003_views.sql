-- +goose Up

-- Stable, read-only, without secrets: for Grafana's SQL panels and reports. Columns are added, never renamed.

CREATE VIEW v_device AS
SELECT d.uuid, d.lifecycle, d.reason, d.detail, d.device_mode, d.health, d.amt_version, d.amt_major, d.sku, d.fqdn,
       d.host, d.domain, d.suffix, d.mac, d.serial, d.address, d.profile, d.profile_version, d.certificate,
       d.tls_version, d.approved, d.attempts, d.hello_count,
       d.first_seen, d.last_seen, d.provisioned_at,
       d.last_contact, d.window_until, d.next_retry,
       d.device_cert_not_after, d.password_changed_at,
       CASE WHEN d.lifecycle IN ('provisioned', 'drifted', 'maintaining') THEN 1 ELSE 0 END AS managed
FROM devices d;

CREATE VIEW v_run AS
SELECT r.id, r.uuid, d.fqdn, d.amt_version, d.amt_major, d.suffix, r.kind, r.triggered_by, r.state, r.attempt, r.node,
       r.profile, r.task, r.certificate, r.reason, r.detail, r.blame,
       r.created_at, r.started_at, r.finished_at,
       extract(epoch FROM r.finished_at - r.created_at)::double precision AS seconds
FROM runs r JOIN devices d ON d.uuid = r.uuid;

CREATE VIEW v_failure_daily AS
SELECT (r.finished_at AT TIME ZONE 'UTC')::date AS day, r.kind, r.reason, r.blame, count(*) AS runs, count(DISTINCT r.uuid) AS devices
FROM runs r WHERE r.state = 'failed' AND r.finished_at IS NOT NULL
GROUP BY (r.finished_at AT TIME ZONE 'UTC')::date, r.kind, r.reason, r.blame;

CREATE VIEW v_certificate AS
SELECT c.id, c.name, c.names, c.state, c.source, c.not_before, c.not_after,
       c.created_at,
       (SELECT count(*) FROM devices d WHERE d.certificate = c.id) AS devices
FROM certificates c;

CREATE VIEW v_coverage AS
SELECT d.amt_major, d.suffix, d.profile, count(*) AS devices,
       sum(CASE WHEN d.lifecycle IN ('provisioned', 'drifted', 'maintaining') THEN 1 ELSE 0 END) AS managed,
       sum(CASE WHEN d.lifecycle = 'failed' THEN 1 ELSE 0 END) AS failed,
       sum(CASE WHEN d.lifecycle IN ('pending_approval', 'pending_identity', 'pending_certificate') THEN 1 ELSE 0 END) AS waiting
FROM devices d WHERE d.lifecycle <> 'retired'
GROUP BY d.amt_major, d.suffix, d.profile;
