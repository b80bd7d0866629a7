package main

func engine() Dashboard {
	return Dashboard{
		Name: "engine", Title: "Engine", From: "now-6h",
		Description: "The runs themselves: steps, calls to devices, TLS, leases.",
		Rows: []Row{
			{"Runs", []Panel{
				{Title: "Active runs by node", Kind: lines, Unit: "short", Help: "Zero on one node while others work: look at its log. At the limit everywhere: add workers or a node.",
					Queries: one(`sum by (instance) (provisiond_sessions_active)`, "{{instance}}")},
				{Title: "Runs begun by trigger", Kind: lines, Unit: "ops", Help: "hello is a device in setup, timer a retry or maintenance, api an operator.",
					Queries: one(`sum by (trigger) (rate(provisiond_sessions_started_total[$__rate_interval]))`, "{{trigger}}")},
				{Title: "Failure reasons, top 10", Kind: bars, Unit: "short", Instant: true, Help: "Of the last hour. Each has a section in RUNBOOKS.md.",
					Queries: one(`topk(10, sum by (reason, blame) (increase(provisiond_sessions_finished_total{outcome="failed"}[1h])))`, "{{reason}} ({{blame}})")},
				{Title: "Oldest run under way", Kind: lines, Unit: "s", Limits: []Limit{{900, "red"}}, Help: "A quarter of an hour means that a device or a node hangs.",
					Queries: one(`max(provisiond_oldest_run_age_seconds)`, "oldest")},
				{Title: "Step failure ratio", Kind: lines, Unit: "percentunit", Help: "One step alone points at the call it makes; all steps at the network.",
					Queries: one(`sum by (step) (rate(provisiond_steps_total{result="failed"}[$__rate_interval])) / sum by (step) (rate(provisiond_steps_total[$__rate_interval]))`, "{{step}}")},
				{Title: "Step time p95", Kind: lines, Unit: "s", Help: "Key generation takes minutes in old firmware; anything else over ten seconds is unusual.",
					Queries: one(quantile("0.95", "provisiond_step_duration_seconds", "step"), "{{step}}")},
			}},
			{"Devices' answers", []Panel{
				{Title: "WS-Man results", Kind: lines, Unit: "reqps", Help: "401 in pairs is digest at work. reset and timeout are the network or a busy device; parse_error is something that is not AMT.",
					Queries: one(`sum by (operation, result) (rate(provisiond_wsman_requests_total[$__rate_interval]))`, "{{operation}} {{result}}")},
				{Title: "WS-Man time p95", Kind: lines, Unit: "s", Help: "Firmware answers in 20 to 500 ms. Slower in one building: the line to it.",
					Queries: one(quantile("0.95", "provisiond_wsman_request_duration_seconds", "operation"), "{{operation}}")},
				{Title: "Credential probes", Kind: lines, Unit: "short", Help: "refused with the confirmed password: somebody else changes passwords.",
					Queries: one(`sum by (candidate, result) (increase(provisiond_credential_probes_total[1h]))`, "{{candidate}} {{result}}")},
				{Title: "TLS by version and cipher", Kind: bars, Unit: "short", Width: 12, Instant: true, Help: "Last day. What would be cut off if an old version were forbidden.",
					Queries: one(`sum by (version, cipher) (increase(provisiond_tls_handshakes_total{result="ok"}[1d]))`, "{{version}} {{cipher}}")},
				{Title: "TLS failures", Kind: lines, Unit: "reqps", Width: 12, Help: "A device that refuses our certificate ends here: compare suffix, root and usage with provctl device why.",
					Queries: one(`sum by (version, result) (rate(provisiond_tls_handshakes_total{result!="ok"}[$__rate_interval]))`, "{{version}} {{result}}")},
			}},
			{"Between nodes", []Panel{
				{Title: "Leases: won, empty, error", Kind: lines, Unit: "ops", Width: 12, Help: "error: the database. won without runs finishing: devices that break off.",
					Queries: one(`sum by (result) (rate(provisiond_lease_claims_total[$__rate_interval]))`, "{{result}}")},
				{Title: "Fenced writes", Kind: lines, Unit: "ops", Width: 12, Limits: []Limit{{0.1, "red"}}, Help: "A node wrote after it had lost the device, and was refused: stalls, throttled CPU or a slow database.",
					Queries: one(`sum by (instance) (rate(provisiond_fence_rejections_total[$__rate_interval]))`, "{{instance}}")},
			}},
		},
	}
}

func service() Dashboard {
	return Dashboard{
		Name: "service", Title: "Service internals", From: "now-6h",
		Description: "Queue, database, API and the process on each node.",
		Rows: []Row{
			{"Queue and intake", []Panel{
				{Title: "Jobs waiting", Kind: lines, Unit: "short", Width: 6, Help: "Grows with a roll-out of machines and falls again. Growing for an hour: add a node.",
					Queries: one(`max(provisiond_queue_depth)`, "waiting")},
				{Title: "Open hello connections", Kind: lines, Unit: "short", Width: 6, Help: "Near hello.limits.connections: somebody opens connections and says nothing.",
					Queries: one(`sum by (instance) (provisiond_hello_connections)`, "{{instance}}")},
				{Title: "Time to store a hello, p99", Kind: lines, Unit: "s", Width: 6, Limits: []Limit{{1, "red"}}, Help: "The objective is one second. Slow: the database's disk.",
					Queries: one(quantile("0.99", "provisiond_hello_persist_duration_seconds", ""), "p99")},
				{Title: "Hellos in the spool", Kind: lines, Unit: "short", Width: 6, Limits: []Limit{{1, "yellow"}}, Help: "Kept on disk while the database is away; replayed by themselves.",
					Queries: one(`sum by (instance) (provisiond_hello_spool_entries)`, "{{instance}}")},
				{Title: "Jobs taken back from dead nodes", Kind: lines, Unit: "short", Width: 6, Limits: []Limit{{1, "yellow"}}, Help: "A node died or hung while it worked; others go on with its devices. Look at its log.",
					Queries: one(`sum by (instance) (increase(provisiond_queue_rescued_total[1h]))`, "{{instance}}")},
			}},
			{"Database", []Panel{
				{Title: "Store up", Kind: stat, Unit: "short", Width: 6, Height: 6, Base: "red", Limits: []Limit{{1, "green"}}, Names: map[string]string{"0": "down", "1": "up"}, Help: "Down: mend the database; the nodes go on by themselves.",
					Queries: one(`min by (instance) (provisiond_store_up)`, "{{instance}}")},
				{Title: "Store operation p99", Kind: lines, Unit: "s", Width: 6, Height: 6, Help: "Rising together: disk. One operation: a missing index or a lock.",
					Queries: one(quantile("0.99", "provisiond_store_operation_duration_seconds", "operation"), "{{operation}}")},
				{Title: "Store errors", Kind: lines, Unit: "ops", Width: 6, Height: 6, Help: "Any lasting error here is paged as StoreUnavailable or a budget burn.",
					Queries: one(`sum by (operation, result) (rate(provisiond_store_operations_total{result!="ok"}[$__rate_interval]))`, "{{operation}} {{result}}")},
				{Title: "Database size", Kind: lines, Unit: "bytes", Width: 6, Height: 6, Help: "Hellos, events and run steps are kept for a set time: growth should level off.",
					Queries: one(`max(provisiond_store_size_bytes)`, "size")},
				{Title: "Clock against the database", Kind: lines, Unit: "s", Width: 12, Height: 6, Limits: []Limit{{30, "red"}}, Help: "Leases use the database's clock; devices are given the node's.",
					Queries: one(`abs(provisiond_clock_offset_seconds)`, "{{instance}}")},
				{Title: "Backup age", Kind: stat, Unit: "s", Width: 6, Height: 6, Limits: []Limit{{26 * 3600, "red"}}, Help: "Run provisiond backup create, then verify. All passwords are in that database.",
					Queries: one(`time() - max(provisiond_backup_last_success_timestamp_seconds)`, "age")},
				{Title: "Self-test age", Kind: stat, Unit: "s", Width: 6, Height: 6, Limits: []Limit{{900, "red"}}, Help: "Each node knocks at its own hello port and API. Old: drain it.",
					Queries: one(`time() - min by (instance) (provisiond_selftest_last_success_timestamp_seconds > 0)`, "{{instance}}")},
			}},
			{"API", []Panel{
				{Title: "Requests by status", Kind: lines, Unit: "reqps", Width: 12, Stack: true, Help: "5xx are ours: one log line each. 401 and 403 are on the security dashboard.",
					Queries: one(`sum by (code) (rate(provisiond_http_requests_total[$__rate_interval]))`, "{{code}}")},
				{Title: "Request time p99", Kind: lines, Unit: "s", Width: 12, Limits: []Limit{{0.25, "red"}}, Help: "The objective is 99 % within a quarter of a second.",
					Queries: one(quantile("0.99", "provisiond_http_request_duration_seconds", "route"), "{{route}}")},
			}},
			{"Process", []Panel{
				{Title: "CPU", Kind: lines, Unit: "short", Help: "Cores in use. One handshake with a device costs a few milliseconds.",
					Queries: one(`rate(process_cpu_seconds_total{job="provisiond"}[$__rate_interval])`, "{{instance}}")},
				{Title: "Memory", Kind: lines, Unit: "bytes", Help: "Under 100 KiB a session. Growth without sessions is a leak: report it with provisiond support-bundle.",
					Queries: []Query{{Expr: `process_resident_memory_bytes{job="provisiond"}`, Legend: "resident {{instance}}"}, {Expr: `go_memstats_heap_inuse_bytes{job="provisiond"}`, Legend: "heap {{instance}}"}}},
				{Title: "Goroutines", Kind: lines, Unit: "short", Help: "A few for each session and connection.",
					Queries: one(`go_goroutines{job="provisiond"}`, "{{instance}}")},
				{Title: "File descriptors used", Kind: lines, Unit: "percentunit", Width: 12, Limits: []Limit{{0.8, "red"}}, Help: "Near 1: raise LimitNOFILE in the unit.",
					Queries: one(`process_open_fds{job="provisiond"} / process_max_fds{job="provisiond"}`, "{{instance}}")},
				{Title: "Garbage collection", Kind: lines, Unit: "s", Width: 12, Help: "Seconds of pause a second.",
					Queries: one(`rate(go_gc_duration_seconds_sum{job="provisiond"}[$__rate_interval])`, "{{instance}}")},
			}},
		},
	}
}

func security() Dashboard {
	return Dashboard{
		Name: "security", Title: "Security", From: "now-24h",
		Description: "Who was refused, who read secrets, and whether keys and audit are sound.",
		Rows: []Row{
			{"At the door", []Panel{
				{Title: "Hellos refused by reason", Kind: lines, Unit: "reqps", Help: "A scan shows as malformed. denied_network: hellos from where no device of yours lives.",
					Queries: one(`sum by (result) (rate(provisiond_hello_received_total{result!~"accepted|duplicate"}[$__rate_interval]))`, "{{result}}")},
				{Title: "Egress refused", Kind: lines, Unit: "short", Help: "We were asked to connect where we may not. One address for all hellos: a NAT or balancer hides the devices.",
					Queries: one(`sum by (reason) (increase(provisiond_egress_denied_total[1h]))`, "{{reason}}")},
				{Title: "API requests refused", Kind: lines, Unit: "reqps", Help: "A wrong or expired token. A burst from nowhere is somebody trying.",
					Queries: one(`sum by (reason) (rate(provisiond_api_auth_failures_total[$__rate_interval]))`, "{{reason}}")},
			}},
			{"Devices' identity", []Panel{
				{Title: "Peer verification", Kind: lines, Unit: "short", Help: "failed: nothing secret was sent. pin: the device's key changed; odca: not Intel's hardware.",
					Queries: one(`sum by (method, result) (increase(provisiond_tls_peer_verifications_total[1h]))`, "{{method}} {{result}}")},
				{Title: "Legacy TLS and X.509 features in use", Kind: bars, Unit: "short", Instant: true, Help: "Last day: what old firmware still needs. Zero means that the feature may be forbidden.",
					Queries: one(`sum by (feature) (increase(provisiond_tls_legacy_features_total[1d]))`, "{{feature}}")},
			}},
			{"Secrets, keys and audit", []Panel{
				{Title: "Secret reads by actor", Kind: lines, Unit: "short", Help: "Each has its reason in the audit log: provctl audit list.",
					Queries: one(`sum by (actor, result) (increase(provisiond_secret_reads_total[1h]))`, "{{actor}} {{result}}")},
				{Title: "Passwords by state", Kind: lines, Unit: "short", Help: "candidate stays high: runs break off after staging. retired only grows.",
					Queries: one(`max by (state) (provisiond_secret_versions)`, "{{state}}")},
				{Title: "Key operations", Kind: lines, Unit: "ops", Help: "error: the master key is missing or wrong, and nothing is sent to devices.",
					Queries: one(`sum by (backend, operation, result) (rate(provisiond_key_operations_total[$__rate_interval]))`, "{{backend}} {{operation}} {{result}}")},
				{Title: "Audit records", Kind: lines, Unit: "ops", Width: 8, Help: "No secret is shown or sent unless its record is stored.",
					Queries: one(`sum by (result) (rate(provisiond_audit_records_total[$__rate_interval]))`, "{{result}}")},
				{Title: "Audit chain last verified", Kind: stat, Unit: "s", Width: 8, Limits: []Limit{{2 * 86400, "red"}}, Help: "Over two days pages: run provctl audit verify.",
					Queries: one(`time() - max(provisiond_audit_last_verified_timestamp_seconds)`, "ago")},
				{Title: "Audit verification failures", Kind: stat, Unit: "short", Width: 8, Limits: []Limit{{1, "red"}}, Help: "Keep the database as it is and treat it as an incident.",
					Queries: one(`max(provisiond_audit_verify_failures_total)`, "failures")},
				{Title: "Audit signed up to record", Kind: lines, Unit: "none", Width: 8, Help: "It never falls: where it does, the end of the audit was cut off.",
					Queries: one(`max(provisiond_audit_checkpoint_record)`, "record")},
				{Title: "Hash of that record", Kind: stat, Unit: "none", Width: 8, Help: "Its first 48 bits as a number; provctl audit verify --checkpoint takes them in hexadecimal digits.",
					Queries: one(`max(provisiond_audit_checkpoint_hash)`, "hash")},
				{Title: "Rows that do not count", Kind: stat, Unit: "short", Width: 8, Limits: []Limit{{1, "red"}}, Help: "Somebody wrote them into the database itself: provisiond rows check.",
					Queries: one(`max(provisiond_rows_refused)`, "rows")},
			}},
		},
	}
}

func trust() Dashboard {
	return Dashboard{
		Name: "certificates", Title: "Certificates and trust", From: "now-7d",
		Description: "Our provisioning certificates, the roots that devices know, and where the two do not meet.",
		Rows: []Row{
			{"Provisioning certificates", []Panel{
				{Title: "Days to expiry", Kind: bars, Unit: "d", Base: "red", Limits: []Limit{{14, "orange"}, {45, "green"}}, Help: "Order a renewal at 45 days; old and new may overlap.",
					Queries: one(`(min by (cert) (provisiond_provisioning_certificate_not_after_timestamp_seconds) - time()) / 86400`, "{{cert}}")},
				{Title: "Usable", Kind: stat, Unit: "short", Base: "red", Limits: []Limit{{1, "green"}}, Names: map[string]string{"0": "no", "1": "yes"}, Help: "no: provctl cert show ID names the finding.",
					Queries: one(`min by (cert) (provisiond_provisioning_certificate_usable)`, "{{cert}}")},
				{Title: "Devices without a suitable certificate", Kind: stat, Unit: "short", Limits: []Limit{{1, "yellow"}}, Help: "Their suffix or their roots suit none of ours: provctl cert advise.",
					Queries: one(`max(provisiond_devices{state="pending_certificate"})`, "devices")},
				{Title: "Certificates", Kind: table, Unit: "short", Width: 24, Help: "devices: how many were set up with it.",
					Queries: sql(`SELECT id, name, names::text AS names, state, source, not_before, not_after, not_after - now() AS "left", devices FROM v_certificate ORDER BY state, not_after`)},
			}},
			{"Roots that devices know", []Panel{
				{Title: "Devices by announced root", Kind: table, Unit: "short", Width: 12, Height: 10, Help: "A certificate under the top roots serves most devices. algorithm 0 is SHA-1, 2 is SHA-256, 3 is SHA-384.",
					Queries: sql(`SELECT encode(h.digest, 'hex') AS root, h.algorithm, count(DISTINCT d.uuid) AS devices FROM trust_hashes h JOIN devices d ON d.trust_table = h.trust_table WHERE d.lifecycle <> 'retired' GROUP BY h.digest, h.algorithm ORDER BY devices DESC LIMIT 60`)},
				{Title: "Devices that know SHA-1 roots only", Kind: stat, Unit: "short", Width: 6, Height: 5, Limits: []Limit{{1, "yellow"}}, Help: "Old firmware: keep a certificate under an old root for these, or update them.",
					Queries: sql(`SELECT count(*) AS devices FROM devices d WHERE d.lifecycle <> 'retired' AND EXISTS (SELECT 1 FROM trust_hashes h WHERE h.trust_table = d.trust_table) AND NOT EXISTS (SELECT 1 FROM trust_hashes h WHERE h.trust_table = d.trust_table AND octet_length(h.digest) > 20)`)},
				{Title: "Different lists of roots", Kind: stat, Unit: "short", Width: 6, Height: 5, Help: "A fleet has few. A new one is a new firmware, or a hash that somebody added by hand.",
					Queries: sql(`SELECT count(*) AS lists FROM trust_tables`)},
				{Title: "Suffixes and what serves them", Kind: table, Unit: "short", Width: 12, Height: 10, Help: "waiting above zero with no certificate: a gap in coverage.",
					Queries: sql(`SELECT suffix, certificate, count(*) AS devices, sum(managed) AS managed, count(*) FILTER (WHERE lifecycle = 'pending_certificate') AS waiting FROM v_device WHERE lifecycle <> 'retired' GROUP BY suffix, certificate ORDER BY devices DESC LIMIT 100`)},
			}},
			{"Device certificates", []Panel{
				{Title: "Next to expire", Kind: table, Unit: "short", Width: 24, Height: 10, Help: "Maintenance renews them 30 days ahead when it can reach the device.", Links: deviceLinks,
					Queries: sql(`SELECT device_cert_not_after, uuid::text AS uuid, coalesce(nullif(fqdn, ''), uuid::text) AS device, amt_version, last_contact, health FROM v_device WHERE managed = 1 AND device_cert_not_after IS NOT NULL ORDER BY device_cert_not_after LIMIT 50`)},
			}},
		},
	}
}

func network() Dashboard {
	return Dashboard{
		Name: "network", Title: "Network readiness", From: "now-7d",
		Description: "What a device needs before it can find us: ProvisionServer in DNS, option 15 in DHCP, and a clock that is right.",
		Rows: []Row{
			{"The doctor", []Panel{
				{Title: "Checks", Kind: bars, Unit: "short", Width: 12, Height: 10, Instant: true, Min: num(0), Max: num(2), Limits: []Limit{{1, "yellow"}, {2, "red"}}, Names: map[string]string{"0": "pass", "1": "warn", "2": "fail"}, Help: "provisiond doctor says what is wrong and prints the text to paste.",
					Queries: one(`max by (check) (provisiond_doctor_check)`, "{{check}}")},
				{Title: "Last examination", Kind: stat, Unit: "s", Width: 6, Height: 5, Limits: []Limit{{3600, "yellow"}}, Help: "The doctor runs on a timer; this should stay under an hour.",
					Queries: one(`time() - max(provisiond_doctor_last_run_timestamp_seconds)`, "ago")},
				{Title: "Clock against NTP", Kind: stat, Unit: "s", Width: 6, Height: 5, Limits: []Limit{{5, "yellow"}, {30, "red"}}, Help: "Devices are given this clock, and certificates are judged by it.",
					Queries: one(`max by (instance) (abs(provisiond_ntp_offset_seconds))`, "{{instance}}")},
			}},
			{"DNS and DHCP", []Panel{
				{Title: "ProvisionServer by zone", Kind: stat, Unit: "short", Width: 12, Base: "red", Limits: []Limit{{1, "green"}}, Names: map[string]string{"0": "wrong", "1": "right"}, Help: "Wrong: devices of this zone cannot find the server.",
					Queries: one(`min by (zone) (provisiond_dns_probe_ok)`, "{{zone}}")},
				{Title: "Option 15 by scope", Kind: stat, Unit: "short", Width: 12, Base: "red", Limits: []Limit{{1, "green"}}, Names: map[string]string{"0": "wrong", "1": "right"}, Help: "Wrong: devices of this scope refuse our certificate, unless MEBx holds a PKI DNS suffix.",
					Queries: one(`min by (scope) (provisiond_dhcp_probe_ok)`, "{{scope}}")},
			}},
			{"Who speaks", []Panel{
				{Title: "Last hello by suffix", Kind: table, Unit: "short", Width: 12, Height: 10, Help: "A suffix that fell silent while devices are missing there: DNS, DHCP or a firewall in that part of the network.",
					Queries: sql(`SELECT suffix, max(last_seen) AS last_hello, count(*) AS devices, sum(managed) AS managed FROM v_device WHERE lifecycle <> 'retired' GROUP BY suffix ORDER BY last_hello NULLS FIRST LIMIT 100`)},
				{Title: "Last hello by network", Kind: table, Unit: "short", Width: 12, Height: 10, Help: "By /24 for IPv4 and /64 for IPv6. A network that is not listed never reached us.",
					Queries: sql(`SELECT network(set_masklen(address::text::inet, CASE family(address::text::inet) WHEN 4 THEN 24 ELSE 64 END))::text AS network, max(last_seen) AS last_hello, count(*) AS devices, sum(managed) AS managed FROM v_device WHERE lifecycle <> 'retired' AND nullif(address::text, '') IS NOT NULL GROUP BY 1 ORDER BY last_hello NULLS FIRST LIMIT 200`)},
			}},
		},
	}
}
