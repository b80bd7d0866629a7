-- +goose Up

CREATE TABLE trust_tables (
    id         integer PRIMARY KEY AUTOINCREMENT,
    digest     blob NOT NULL UNIQUE, -- SHA-256 of the list as the hello had it
    hashes     integer NOT NULL,
    first_seen integer NOT NULL,
    used_at    integer NOT NULL -- within an hour of its last use
);

CREATE TABLE trust_hashes (
    trust_table bigint NOT NULL REFERENCES trust_tables (id) ON DELETE CASCADE,
    position    integer NOT NULL,
    algorithm   integer NOT NULL,
    digest      blob NOT NULL,
    PRIMARY KEY (trust_table, position)
);
CREATE INDEX trust_hashes_digest ON trust_hashes (digest);

CREATE TABLE devices (
    uuid             text PRIMARY KEY,
    lifecycle        text NOT NULL DEFAULT 'discovered' CHECK (lifecycle IN (
        'discovered', 'pending_approval', 'pending_identity', 'pending_certificate', 'queued', 'provisioning',
        'verifying', 'provisioned', 'drifted', 'maintaining', 'failed', 'dormant', 'quarantined', 'external',
        'credentials_unknown', 'unprovisioning', 'unprovisioned', 'retired')),
    reason           text NOT NULL DEFAULT '',
    detail           text NOT NULL DEFAULT '',
    device_mode      text NOT NULL DEFAULT '',
    health           text NOT NULL DEFAULT '',
    amt_version      text NOT NULL DEFAULT '',
    amt_major        integer NOT NULL DEFAULT 0,
    sku              text NOT NULL DEFAULT '',
    realm            text NOT NULL DEFAULT '',
    host             text NOT NULL DEFAULT '',
    domain           text NOT NULL DEFAULT '',
    fqdn             text NOT NULL DEFAULT '',
    suffix           text NOT NULL DEFAULT '',
    mac              text NOT NULL DEFAULT '',
    serial           text NOT NULL DEFAULT '',
    smbios_uuid      text NOT NULL DEFAULT '',
    secure_dns       boolean NOT NULL DEFAULT false,
    address          text NOT NULL DEFAULT '',
    address_key      text NOT NULL DEFAULT '', -- 32 hexadecimal digits, so that a network is a range
    profile          text NOT NULL DEFAULT '',
    profile_version  integer NOT NULL DEFAULT 0,
    trust_table      bigint NOT NULL DEFAULT 0,
    certificate      text NOT NULL DEFAULT '',
    tls_version      text NOT NULL DEFAULT '',
    peer_fingerprint blob,
    tags             text NOT NULL DEFAULT '[]',
    approved         boolean NOT NULL DEFAULT false,
    first_seen       integer,
    last_seen        integer,
    provisioned_at   integer,
    last_contact     integer,
    window_until     integer,
    next_retry       integer,
    device_cert_not_after integer,
    password_changed_at   integer,
    attempts         integer NOT NULL DEFAULT 0,
    hello_count      bigint NOT NULL DEFAULT 0,
    hello_retry      bigint NOT NULL DEFAULT 0,
    admin_flag       boolean NOT NULL DEFAULT false,
    fence            bigint NOT NULL DEFAULT 0,
    owner            text NOT NULL DEFAULT '',
    lease_until      integer,
    generation       integer NOT NULL DEFAULT 0,
    record           text
);
-- No index on what a hello changes (last_seen, address, the counters): hellos come far more often than anything else.
CREATE INDEX devices_lifecycle ON devices (lifecycle);
CREATE INDEX devices_reason ON devices (reason) WHERE reason <> '';
CREATE INDEX devices_fqdn ON devices (fqdn, uuid);
CREATE INDEX devices_mac ON devices (mac) WHERE mac <> '';
CREATE INDEX devices_serial ON devices (serial) WHERE serial <> '';
CREATE INDEX devices_next_retry ON devices (next_retry) WHERE next_retry IS NOT NULL;
CREATE INDEX devices_owner ON devices (owner) WHERE owner <> '';

CREATE TABLE hellos (
    id          integer PRIMARY KEY AUTOINCREMENT,
    uuid        text NOT NULL,
    at          integer NOT NULL,
    source      text NOT NULL,
    local       text NOT NULL DEFAULT '',
    via         text NOT NULL DEFAULT '',
    peer        text NOT NULL DEFAULT '',
    version     integer NOT NULL,
    retry       bigint NOT NULL,
    admin_set   boolean NOT NULL,
    pid         text NOT NULL DEFAULT '',
    trust_table bigint NOT NULL DEFAULT 0,
    extra       blob,
    raw         blob
);
CREATE INDEX hellos_uuid ON hellos (uuid, id);

CREATE TABLE runs (
    id          integer PRIMARY KEY AUTOINCREMENT,
    uuid        text NOT NULL REFERENCES devices (uuid),
    kind        text NOT NULL,
    triggered_by text NOT NULL,
    state       text NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    attempt     integer NOT NULL DEFAULT 0,
    node        text NOT NULL DEFAULT '',
    fence       bigint NOT NULL DEFAULT 0,
    profile     text NOT NULL DEFAULT '',
    task        text NOT NULL DEFAULT '',
    certificate text NOT NULL DEFAULT '',
    created_at  integer NOT NULL,
    not_before  integer NOT NULL,
    started_at  integer,
    finished_at integer,
    reason      text NOT NULL DEFAULT '',
    detail      text NOT NULL DEFAULT '',
    blame       text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX runs_live ON runs (uuid) WHERE state IN ('queued', 'running');
CREATE INDEX runs_uuid ON runs (uuid, id);
CREATE INDEX runs_waiting ON runs (not_before) WHERE state IN ('queued', 'running');
CREATE INDEX runs_finished ON runs (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE run_steps (
    run_id      bigint NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    attempt     integer NOT NULL,
    seq         integer NOT NULL,
    name        text NOT NULL,
    state       text NOT NULL CHECK (state IN ('started', 'done', 'skipped', 'failed')),
    started_at  integer,
    finished_at integer,
    reason      text NOT NULL DEFAULT '',
    detail      text NOT NULL DEFAULT '',
    PRIMARY KEY (run_id, attempt, seq)
);

-- What a device may hold. A row is never deleted, and its ciphertext changes only when a key is rotated.
CREATE TABLE credentials (
    id           integer PRIMARY KEY AUTOINCREMENT,
    uuid         text NOT NULL REFERENCES devices (uuid),
    generation   integer NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('admin', 'mebx')),
    state        text NOT NULL CHECK (state IN ('candidate', 'active', 'retired')),
    sealed       blob NOT NULL,
    key_id       bigint NOT NULL,
    realm        text NOT NULL DEFAULT '',
    peer         blob,
    address      text NOT NULL DEFAULT '',
    created_at   integer NOT NULL,
    sent_at      integer,
    activated_at integer,
    retired_at   integer,
    run_id       bigint NOT NULL DEFAULT 0,
    UNIQUE (uuid, generation, kind)
);
CREATE UNIQUE INDEX credentials_active ON credentials (uuid, kind) WHERE state = 'active';
CREATE INDEX credentials_key ON credentials (key_id);

CREATE TABLE events (
    id     integer PRIMARY KEY AUTOINCREMENT,
    at     integer NOT NULL,
    uuid   text, -- NULL: concerns no device
    run_id bigint NOT NULL DEFAULT 0,
    name   text NOT NULL,
    reason text NOT NULL DEFAULT '',
    detail text NOT NULL DEFAULT '',
    actor  text NOT NULL DEFAULT '',
    data   text
);
CREATE INDEX events_uuid ON events (uuid, id) WHERE uuid IS NOT NULL;
CREATE INDEX events_run ON events (run_id, id) WHERE run_id <> 0;

-- detail is text, not JSON: its bytes are what was hashed.
CREATE TABLE audit (
    seq       bigint PRIMARY KEY,
    at        integer NOT NULL,
    actor     text NOT NULL,
    action    text NOT NULL,
    subject   text NOT NULL,
    detail    text NOT NULL,
    prev_hash blob NOT NULL,
    hash      blob NOT NULL
);
CREATE TABLE audit_head (
    id   integer PRIMARY KEY CHECK (id = 1),
    seq  bigint NOT NULL,
    hash blob NOT NULL
);
INSERT INTO audit_head (id, seq, hash) VALUES (1, 0, x'');

CREATE TABLE data_keys (
    id         bigint PRIMARY KEY,
    wrapped    blob NOT NULL,
    created_at integer NOT NULL
);

CREATE TABLE settings (
    key        text PRIMARY KEY,
    value      text NOT NULL DEFAULT '',
    sealed     blob,
    key_id     bigint NOT NULL DEFAULT 0,
    updated_at integer NOT NULL
);

CREATE TABLE nodes (
    id         text NOT NULL,
    boot       text NOT NULL,
    address    text NOT NULL DEFAULT '',
    version    text NOT NULL DEFAULT '',
    started_at integer NOT NULL,
    seen_at    integer NOT NULL,
    PRIMARY KEY (id, boot)
);

CREATE TABLE tokens (
    id         integer PRIMARY KEY AUTOINCREMENT,
    name       text NOT NULL,
    role       text NOT NULL,
    hash       blob NOT NULL UNIQUE, -- SHA-256 of the token
    created_by text NOT NULL DEFAULT '',
    created_at integer NOT NULL,
    expires_at integer,
    last_used  integer,
    revoked_at integer
);
CREATE UNIQUE INDEX tokens_name ON tokens (name) WHERE revoked_at IS NULL;

CREATE TABLE certificates (
    id         text PRIMARY KEY,
    name       text NOT NULL,
    names      text NOT NULL DEFAULT '[]',
    state      text NOT NULL,
    source     text NOT NULL DEFAULT '',
    chain      blob NOT NULL,
    sealed_key blob,
    key_id     bigint NOT NULL DEFAULT 0,
    not_before integer,
    not_after  integer,
    created_at integer NOT NULL,
    updated_at integer NOT NULL
);

CREATE TABLE certificate_requests (
    id          integer PRIMARY KEY AUTOINCREMENT,
    subject     text NOT NULL,
    names       text NOT NULL DEFAULT '[]',
    csr         blob NOT NULL,
    sealed_key  blob NOT NULL,
    key_id      bigint NOT NULL,
    seal_row    text NOT NULL, -- random, names this row in the envelope
    state       text NOT NULL,
    certificate text NOT NULL DEFAULT '',
    created_by  text NOT NULL DEFAULT '',
    created_at  integer NOT NULL,
    updated_at  integer NOT NULL
);

CREATE TABLE certificate_backups (
    id          integer PRIMARY KEY AUTOINCREMENT,
    certificate text NOT NULL,
    digest      blob NOT NULL,
    actor       text NOT NULL,
    at          integer NOT NULL
);

CREATE TABLE profiles (
    name       text NOT NULL,
    version    integer NOT NULL,
    document   text NOT NULL,
    created_by text NOT NULL DEFAULT '',
    created_at integer NOT NULL,
    PRIMARY KEY (name, version)
);

CREATE TABLE assignment_rules (
    id         integer PRIMARY KEY AUTOINCREMENT,
    position   integer NOT NULL,
    name       text NOT NULL UNIQUE,
    conditions text NOT NULL,
    assign     text NOT NULL,
    enabled    boolean NOT NULL DEFAULT true,
    updated_at integer NOT NULL
);

CREATE TABLE authorised_devices (
    id         integer PRIMARY KEY AUTOINCREMENT,
    kind       text NOT NULL CHECK (kind IN ('uuid', 'serial', 'mac', 'network')),
    value      text NOT NULL,
    profile    text NOT NULL DEFAULT '',
    fqdn       text NOT NULL DEFAULT '',
    note       text NOT NULL DEFAULT '',
    created_by text NOT NULL DEFAULT '',
    created_at integer NOT NULL,
    expires_at integer,
    used_at    integer,
    UNIQUE (kind, value)
);

CREATE TABLE names (
    uuid       text PRIMARY KEY,
    fqdn       text NOT NULL,
    source     text NOT NULL DEFAULT '',
    updated_at integer NOT NULL
);

CREATE TABLE jobs (
    id          integer PRIMARY KEY AUTOINCREMENT,
    kind        text NOT NULL,
    filter      text NOT NULL,
    options     text NOT NULL,
    state       text NOT NULL CHECK (state IN ('draft', 'waiting', 'running', 'done', 'aborted')),
    per_minute  integer NOT NULL DEFAULT 0,
    not_before  integer,
    created_by  text NOT NULL DEFAULT '',
    approved_by text NOT NULL DEFAULT '',
    created_at  integer NOT NULL,
    finished_at integer
);

CREATE TABLE job_items (
    job_id     bigint NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    uuid       text NOT NULL,
    state      text NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed', 'skipped')),
    run_id     bigint NOT NULL DEFAULT 0,
    detail     text NOT NULL DEFAULT '',
    updated_at integer NOT NULL,
    PRIMARY KEY (job_id, uuid)
);
CREATE INDEX job_items_waiting ON job_items (job_id, uuid) WHERE state = 'waiting';
CREATE INDEX job_items_run ON job_items (run_id) WHERE run_id <> 0;

CREATE TABLE otps (
    id         integer PRIMARY KEY AUTOINCREMENT,
    uuid       text NOT NULL,
    sealed     blob NOT NULL,
    key_id     bigint NOT NULL,
    seal_row   text NOT NULL,
    issued_to  text NOT NULL DEFAULT '',
    created_at integer NOT NULL,
    expires_at integer NOT NULL,
    used_at    integer
);
CREATE INDEX otps_uuid ON otps (uuid, id);
