package main

func overview() Dashboard {
	return Dashboard{
		Name: "overview", Title: "Provisioning overview", From: "now-24h",
		Description: "From hello to managed: is the server taking devices in, how fast, and what stands in the way.",
		Rows: []Row{
			{"Now", []Panel{
				{Title: "Managed devices", Kind: stat, Unit: "short", Width: 4, Height: 5, Help: "Devices that a login with their new password has proven to be ours.",
					Queries: one(`max(provisiond_devices{state="provisioned"})`, "managed")},
				{Title: "Coverage", Kind: gauge, Unit: "percentunit", Width: 4, Height: 5, Min: num(0), Max: num(1), Base: "red", Limits: []Limit{{0.8, "yellow"}, {0.95, "green"}},
					Help:    "Managed devices as a share of all that are not retired. Low: see what the rest waits for in the funnel.",
					Queries: one(`sum(max by (state) (provisiond_devices{state=~"provisioned|drifted|maintaining"})) / sum(max by (state) (provisiond_devices{state!="retired"}))`, "coverage")},
				{Title: "Waiting for a person", Kind: stat, Unit: "short", Width: 4, Height: 5, Limits: []Limit{{1, "yellow"}, {50, "orange"}},
					Help:    "Approval, a name, or a certificate is missing. Open the console's list of new systems.",
					Queries: one(`sum(max by (state) (provisiond_devices{state=~"pending_approval|pending_identity|pending_certificate"}))`, "waiting")},
				{Title: "Windows closing", Kind: stat, Unit: "short", Width: 4, Height: 5, Limits: []Limit{{1, "red"}},
					Help:    "Devices that stop listening within the hour and are not managed. After that somebody must cut their power for ten seconds.",
					Queries: one(`max(provisiond_setup_windows_closing)`, "closing")},
				{Title: "Last hello", Kind: stat, Unit: "s", Width: 4, Height: 5, Limits: []Limit{{21600, "yellow"}, {86400, "red"}},
					Help:    "Time since any device said hello. Long silence while devices are missing: check ProvisionServer in DNS and the firewall on 9971.",
					Queries: one(`time() - max(provisiond_hello_last_timestamp_seconds)`, "ago")},
				{Title: "First certificate expires in", Kind: stat, Unit: "dtdurations", Width: 4, Height: 5, Base: "red", Limits: []Limit{{14 * 86400, "yellow"}, {45 * 86400, "green"}},
					Help:    "Provisioning certificates only. Vendors need days: order the renewal when this turns yellow.",
					Queries: one(`min(provisiond_provisioning_certificate_not_after_timestamp_seconds) - time()`, "left")},
			}},
			{"The road", []Panel{
				{Title: "Funnel: devices by state", Kind: bars, Unit: "short", Width: 8, Height: 10, Instant: true, Help: "Where devices stand. A heap before provisioned says what is missing: approval, identity, certificate or workers.",
					Queries: one(`sort_desc(max by (state) (provisiond_devices))`, "{{state}}")},
				{Title: "Hellos by result", Kind: lines, Unit: "reqps", Width: 8, Height: 10, Help: "accepted and duplicate are good. store_error or overload spends the error budget; denied_network wants a look at provisioning.networks.",
					Queries: one(`sum by (result) (rate(provisiond_hello_received_total[$__rate_interval]))`, "{{result}}")},
				{Title: "Runs finished by outcome", Kind: lines, Unit: "ops", Width: 8, Height: 10, Stack: true, Help: "failed with blame server is ours to mend; device and network stand on the failure dashboard.",
					Queries: one(`sum by (outcome, blame) (rate(provisiond_sessions_finished_total[$__rate_interval]))`, "{{outcome}} {{blame}}")},
				{Title: "Time from hello to managed", Kind: lines, Unit: "s", Limits: []Limit{{120, "red"}}, Help: "The objective is 95 % within two minutes, approval left out. Slow: look at queue and step times on the engine dashboard.",
					Queries: []Query{
						{Expr: quantile("0.5", "provisiond_time_to_provision_seconds", ""), Legend: "p50"},
						{Expr: quantile("0.95", "provisiond_time_to_provision_seconds", ""), Legend: "p95"},
						{Expr: quantile("0.99", "provisiond_time_to_provision_seconds", ""), Legend: "p99"},
					}},
				{Title: "Top 10 reasons, last 24 h", Kind: bars, Unit: "short", Instant: true, Help: "Each reason has a section in RUNBOOKS.md: causes and what mends it.",
					Queries: one(`topk(10, sum by (reason) (increase(provisiond_sessions_finished_total{outcome="failed"}[24h])) > 0)`, "{{reason}}")},
				{Title: "Oldest device waiting for a worker", Kind: lines, Unit: "s", Limits: []Limit{{300, "red"}}, Help: "Over five minutes somebody is paged: all workers busy, or none running.",
					Queries: one(`max(provisiond_queue_oldest_ready_age_seconds)`, "oldest")},
			}},
			{"Objectives", []Panel{
				{Title: "Hellos kept, 30 days", Kind: stat, Unit: "percentunit", Width: 6, Height: 6, Base: "red", Limits: []Limit{{0.999, "green"}}, Help: "Share of valid hellos that were stored. The objective is 99.9 %.",
					Queries: one(`1 - (sum(increase(provisiond_hello_received_total{result=~"store_error|overload"}[30d])) / sum(increase(provisiond_hello_received_total{result=~"accepted|duplicate|store_error|overload"}[30d])))`, "kept")},
				{Title: "Error budget left, 30 days", Kind: gauge, Unit: "percentunit", Width: 6, Height: 6, Min: num(0), Max: num(1), Base: "red", Limits: []Limit{{0.25, "yellow"}, {0.5, "green"}}, Help: "Empty: put reliability before new things until it recovers.",
					Queries: one(`1 - ((sum(increase(provisiond_hello_received_total{result=~"store_error|overload"}[30d])) / sum(increase(provisiond_hello_received_total{result=~"accepted|duplicate|store_error|overload"}[30d]))) / 0.001)`, "left")},
				{Title: "Burn rate", Kind: lines, Unit: "short", Width: 6, Height: 6, Limits: []Limit{{6, "orange"}, {14.4, "red"}}, Help: "1 spends the budget exactly in 30 days; 14.4 over an hour pages.",
					Queries: []Query{{Expr: `provisiond:hello_errors:ratio_rate1h / 0.001`, Legend: "1 h"}, {Expr: `provisiond:hello_errors:ratio_rate6h / 0.001`, Legend: "6 h"}}},
				{Title: "Nodes by version", Kind: table, Unit: "short", Width: 6, Height: 6, Instant: true, Help: "More than one version for hours: finish the roll-out.",
					Queries: one(`count by (version) (provisiond_build_info)`, "{{version}}")},
			}},
		},
	}
}

func failures() Dashboard {
	return Dashboard{
		Name: "failures", Title: "Failure explorer", From: "now-7d",
		Description: "Why devices are not managed, by reason, firmware generation and suffix, down to the single device.",
		Rows: []Row{
			{"Reasons", []Panel{
				{Title: "Failed runs by reason", Kind: lines, Unit: "short", Width: 12, Stack: true, Help: "A reason that appears in one step came with a change: certificate, DNS, firmware or a release.",
					Queries: one(`sum by (reason) (increase(provisiond_sessions_finished_total{outcome="failed"}[1h]))`, "{{reason}}")},
				{Title: "Failed runs by blame", Kind: lines, Unit: "short", Width: 12, Stack: true, Help: "server is ours to mend, network is DNS, DHCP or firewalls, device is firmware or hardware, policy is a rule of yours.",
					Queries: one(`sum by (blame) (increase(provisiond_sessions_finished_total{outcome="failed"}[1h]))`, "{{blame}}")},
				{Title: "Failures a day", Kind: table, Unit: "short", Width: 12, Height: 10, Help: "One row a day and reason. Follow the reason to its runbook.", Links: deviceLinks,
					Queries: sql(`SELECT day, reason, blame, kind, runs, devices FROM v_failure_daily WHERE $__timeFilter(day) ORDER BY day DESC, runs DESC LIMIT 200`)},
				{Title: "Reason by AMT generation", Kind: table, Unit: "short", Width: 12, Height: 10, Help: "Dark rows: one reason that belongs to one generation. root_not_trusted_by_device on old firmware means SHA-1 roots only.", Links: deviceLinks,
					Queries: sql(`SELECT reason, amt_major, count(*) AS runs, count(DISTINCT uuid) AS devices FROM v_run WHERE state = 'failed' AND $__timeFilter(finished_at) GROUP BY reason, amt_major ORDER BY runs DESC LIMIT 100`)},
				{Title: "Reason by DNS suffix", Kind: table, Unit: "short", Width: 12, Height: 10, Help: "One suffix alone: its DHCP scope or certificate. All suffixes: look at the server.", Links: deviceLinks,
					Queries: sql(`SELECT suffix, reason, count(*) AS runs, count(DISTINCT uuid) AS devices FROM v_run WHERE state = 'failed' AND $__timeFilter(finished_at) GROUP BY suffix, reason ORDER BY runs DESC LIMIT 100`)},
				{Title: "Newest 50 failures", Kind: table, Unit: "short", Width: 12, Height: 10, Help: "uuid opens the drill-down, device its page in the console, reason its runbook.", Links: deviceLinks,
					Queries: sql(`SELECT finished_at, uuid::text AS uuid, coalesce(nullif(fqdn, ''), uuid::text) AS device, amt_version, reason, blame, attempt, detail FROM v_run WHERE state = 'failed' AND $__timeFilter(finished_at) ORDER BY finished_at DESC LIMIT 50`)},
			}},
		},
	}
}

func fleet() Dashboard {
	return Dashboard{
		Name: "fleet", Title: "Fleet health", From: "now-7d",
		Description: "The devices that are managed: are they reachable, as wanted, and up to date.",
		Rows: []Row{
			{"State", []Panel{
				{Title: "Devices by state", Kind: lines, Unit: "short", Width: 12, Stack: true, Help: "drifted differs from its profile: maintenance brings it back. credentials_unknown must be zero.",
					Queries: one(`max by (state) (provisiond_devices)`, "{{state}}")},
				{Title: "Devices by health", Kind: lines, Unit: "short", Width: 12, Stack: true, Help: "unreachable: no answer at the last contact. Many at once is a network matter.",
					Queries: one(`max by (health) (provisiond_devices_by_health)`, "{{health}}")},
				{Title: "No stored password works", Kind: stat, Unit: "short", Width: 6, Height: 5, Limits: []Limit{{1, "red"}}, Help: "Do not retry; read the runbook of credentials_unknown.",
					Queries: one(`max(provisiond_devices{state="credentials_unknown"})`, "devices")},
				{Title: "Differs from profile", Kind: stat, Unit: "short", Width: 6, Height: 5, Limits: []Limit{{1, "yellow"}}, Help: "Maintenance applies the profile again; it stays here only while the device cannot be reached.",
					Queries: one(`max(provisiond_devices{state="drifted"})`, "devices")},
				{Title: "Device certificates expiring", Kind: stat, Unit: "short", Width: 6, Height: 5, Limits: []Limit{{1, "yellow"}}, Help: "Within 30 days. Maintenance renews them when it can reach the device.",
					Queries: one(`max(provisiond_device_certificates_expiring)`, "devices")},
				{Title: "Alarms, 24 h", Kind: stat, Unit: "short", Width: 6, Height: 5, Limits: []Limit{{1, "red"}}, Help: "Duplicate UUIDs, retired devices that say hello, managed devices that were reset.",
					Queries: one(`sum by (alarm) (increase(provisiond_device_alarms_total[24h]))`, "{{alarm}}")},
			}},
			{"Firmware and TLS", []Panel{
				{Title: "Coverage by generation and suffix", Kind: table, Unit: "short", Width: 12, Height: 10, Help: "waiting: a person or a certificate is missing. failed: see the failure explorer.",
					Queries: sql(`SELECT amt_major, suffix, profile, devices, managed, failed, waiting, round(100.0 * managed / devices, 1) AS percent FROM v_coverage ORDER BY devices DESC LIMIT 200`)},
				{Title: "Firmware versions", Kind: table, Unit: "short", Width: 6, Height: 10, Help: "Old builds with known holes are named by reason firmware_vulnerable.",
					Queries: sql(`SELECT amt_version, count(*) AS devices, sum(managed) AS managed FROM v_device WHERE lifecycle <> 'retired' GROUP BY amt_version ORDER BY devices DESC LIMIT 50`)},
				{Title: "TLS versions", Kind: table, Unit: "short", Width: 6, Height: 10, Help: "Below 1.2 is old firmware; update it where the maker offers one.",
					Queries: sql(`SELECT tls_version, count(*) AS devices FROM v_device WHERE managed = 1 GROUP BY tls_version ORDER BY devices DESC`)},
				{Title: "Longest without contact", Kind: table, Unit: "short", Width: 12, Height: 10, Help: "Sold, lost or in a drawer: retire them, so that their next hello raises an alarm.", Links: deviceLinks,
					Queries: sql(`SELECT last_contact, uuid::text AS uuid, coalesce(nullif(fqdn, ''), uuid::text) AS device, lifecycle, health, amt_version, address::text AS address FROM v_device WHERE managed = 1 ORDER BY last_contact NULLS FIRST LIMIT 50`)},
				{Title: "Oldest passwords", Kind: table, Unit: "short", Width: 12, Height: 10, Help: "Rotate with provctl job start rotate.", Links: deviceLinks,
					Queries: sql(`SELECT password_changed_at, uuid::text AS uuid, coalesce(nullif(fqdn, ''), uuid::text) AS device, amt_version, last_contact FROM v_device WHERE managed = 1 ORDER BY password_changed_at NULLS FIRST LIMIT 50`)},
			}},
			{"Maintenance", []Panel{
				{Title: "Maintenance by result", Kind: lines, Unit: "short", Width: 24, Stack: true, Help: "failed over a tenth raises a ticket.",
					Queries: one(`sum by (kind, result) (increase(provisiond_jobs_finished_total[1h]))`, "{{kind}} {{result}}")},
			}},
		},
	}
}

func device() Dashboard {
	const is = `(uuid::text = lower(${device:sqlstring}) OR lower(fqdn) = lower(${device:sqlstring}) OR lower(mac) = lower(${device:sqlstring}))`
	const whose = `uuid IN (SELECT uuid FROM v_device WHERE ` + is + `)`
	return Dashboard{
		Name: "device", Title: "Device", From: "now-30d", Device: true,
		Description: "One device: what it is, what was done to it and what it answered. Type its UUID, name or MAC above.",
		Rows: []Row{
			{"Device", []Panel{
				{Title: "Identity", Kind: table, Unit: "short", Width: 24, Height: 5, Help: "provctl device why UUID says the same in words, with the evidence.", Links: deviceLinks,
					Queries: sql(`SELECT uuid::text AS uuid, coalesce(nullif(fqdn, ''), uuid::text) AS device, lifecycle, reason, detail, device_mode, health, amt_version, sku, address::text AS address, mac, suffix, profile, profile_version FROM v_device WHERE ` + is)},
				{Title: "Dates", Kind: table, Unit: "short", Width: 24, Height: 5, Help: "window_until is when the device stops listening in setup; next_retry when we try again.",
					Queries: sql(`SELECT first_seen, last_seen, provisioned_at, last_contact, window_until, next_retry, device_cert_not_after, password_changed_at, attempts, hello_count FROM v_device WHERE ` + is)},
			}},
			{"History", []Panel{
				{Title: "Runs", Kind: table, Unit: "short", Width: 24, Height: 8, Help: "One row an attempt; blame says whose fault a failure was.", Links: deviceLinks,
					Queries: sql(`SELECT created_at, id, kind, triggered_by, state, attempt, node, profile, certificate, reason, blame, detail, seconds FROM v_run WHERE ` + whose + ` AND $__timeFilter(created_at) ORDER BY id DESC LIMIT 50`)},
				{Title: "Steps of these runs", Kind: table, Unit: "short", Width: 12, Height: 12, Help: "started without an end is the step under way, or the one a crash broke off: the next attempt asks the device first.", Links: deviceLinks,
					Queries: sql(`SELECT s.started_at, s.run_id, s.attempt, s.seq, s.name, s.state, s.reason, s.detail, extract(epoch FROM s.finished_at - s.started_at) AS seconds FROM run_steps s JOIN v_run r ON r.id = s.run_id WHERE r.` + whose + ` AND $__timeFilter(r.created_at) ORDER BY s.run_id DESC, s.attempt DESC, s.seq LIMIT 300`)},
				{Title: "Timeline", Kind: table, Unit: "short", Width: 12, Height: 12, Help: "Everything that happened to the device, newest first.", Links: deviceLinks,
					Queries: sql(`SELECT at, name, reason, detail, actor, run_id FROM events WHERE ` + whose + ` AND $__timeFilter(at) ORDER BY id DESC LIMIT 300`)},
			}},
		},
	}
}
