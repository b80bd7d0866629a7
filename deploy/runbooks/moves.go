package main

// firstMoves is what the person who was woken does first, for each alert.
var firstMoves = map[string][]string{
	"ProvisiondDown": {
		"`systemctl status provisiond` and `journalctl -u provisiond -n 100`, or `kubectl describe pod`.",
		"Does the node answer on `/healthz` from its own machine? Then the network between Prometheus and the node is at fault.",
		"Are other nodes up? Then devices notice nothing: any node takes any hello.",
	},
	"ProvisiondHelloBudgetFastBurn": {
		"`provisiond_store_up` is 0: mend the database first, the nodes need nothing.",
		"`result=\"overload\"` rises: find the top sources in the log (`hello.rejected`) and block them, or narrow who reaches 9971.",
		"Neither: is the disk full, the database read-only or a standby? `provisiond doctor` says so.",
		"Devices repeat hellos for hours: being back within 6 hours loses none.",
	},
	"ProvisiondHelloBudgetSlowBurn": {
		"Look at the store's p99 on the service dashboard over a week.",
		"Add a node, or move the database to faster disks.",
	},
	"ProvisiondSessionServerFailures": {
		"Top reason with blame `server` on the failure dashboard, then its section below.",
		"Did the certificate expire? Did the master key or the database move? Was a version rolled out in the last hours?",
		"If a roll-out did it: roll back. The schema stays readable for the version before.",
	},
	"ProvisiondTimeToProvisionSlow": {
		"Is the queue long? Then add workers or a node.",
		"Is one step slow (step time on the engine dashboard)? Key generation in old firmware takes minutes and is no fault of ours.",
		"Is one network slow? Look at the failure dashboard by suffix.",
	},
	"ProvisiondApiErrors": {
		"Which route? API panels on the service dashboard.",
		"`journalctl -u provisiond -p warning`: each server error is one line with its cause.",
	},
	"ProvisiondQueueStuck": {
		"Are runs active on every node? If none is: look for `lease_claims_total{result=\"error\"}` and the database.",
		"All workers busy: long steps or devices that hang; see the oldest run in the console.",
		"Restart one node; its runs are taken over and resumed.",
	},
	"ProvisiondBacklogGrowing": {
		"Is it a roll-out of new machines? Then wait or add a node.",
		"Is it the same devices again and again? The failure dashboard names the reason.",
	},
	"ProvisiondStoreUnavailable": {
		"Database first: is it up, is it the primary, are connections left, is the disk full?",
		"Nodes send no secret while it lasts and go on by themselves when it is back.",
		"After a fail-over to an asynchronous standby read the fail-over section of deploy/README.md.",
	},
	"ProvisiondStoreGrowth": {
		"Which table grows? `provisiond doctor` prints the sizes.",
		"Shorten retention of hellos and events, or find the device that says hello without end.",
	},
	"ProvisiondLeaseContention": {
		"CPU throttling of a container, a paused virtual machine, a slow database: node panels of the service dashboard.",
		"A clock that steps: the clock offset panel.",
	},
	"ProvisiondClockSkew": {
		"`timedatectl`, `chronyc tracking`: mend time on that node.",
		"Devices that were set meanwhile get their clock again with `provctl maintain --all --task clock`.",
	},
	"ProvisiondSelfTestFailing": {
		"Drain the node: stop it, others take over.",
		"`provisiond doctor` on it says where the road is broken; `provisiond selftest` sets a simulated device up with its certificates.",
	},
	"ProvisiondVersionSkew": {
		"Finish the roll-out. Two neighbouring versions may run side by side, three may not.",
	},
	"ProvisiondHelloSilence": {
		"From a client network: `nslookup ProvisionServer`, then a TCP connection to port 9971.",
		"Did the address behind ProvisionServer move? Did a firewall rule go?",
		"`provisiond doctor` checks every zone and DHCP option 15.",
		"Perhaps nothing is wrong: a fleet that is fully managed says nothing.",
	},
	"ProvisiondHelloFlood": {
		"Sources: log lines `hello.rejected`, one a minute for each source.",
		"Block them upstream, or close 9971 to all but device networks.",
		"Is the source a NAT in front of real devices? Then raise `hello.limits.per_source_per_minute`.",
	},
	"ProvisiondEgressDenied": {
		"The log names the address and the rule that refused it.",
		"All hellos from one address: a balancer or NAT hides the devices. In Kubernetes the service needs `externalTrafficPolicy: Local`.",
		"A new device network: add it to `provisioning.networks`.",
	},
	"ProvisiondDnsProbeFailed": {
		"`provisiond doctor` prints the record to add, for BIND, dnsmasq and Windows.",
		"Compare with the zone's own servers: split views answer differently inside and outside.",
	},
	"ProvisiondOption15Wrong": {
		"`provisiond doctor` prints what the DHCP server offers and what the certificate serves.",
		"Set option 15 on the scope. Option 119 does not replace it.",
	},
	"ProvisiondDoctorFailing": {
		"`provisiond doctor`: each failed check comes with a hint and the text to paste.",
	},
	"ProvisiondDeviceCredentialUnknown": {
		"Do not retry: the firmware counts wrong passwords.",
		"`provctl device show UUID`: was it set up elsewhere, reset, or given another board?",
		"Was an older database restored? Then look for the newer backup: the password is in it.",
		"`provctl device adopt UUID` tries passwords you know, slowly. The last way is to unprovision it in MEBx, on site.",
	},
	"ProvisiondCredentialsUnknownSurge": {
		"Stop provisiond on all nodes, so that nothing more is written to devices.",
		"Was a database or master key restored in the last hours? Is another tool rotating passwords?",
		"Restore the newest backup beside the running database and compare: deploy/README.md, disaster recovery.",
	},
	"ProvisiondFailureSurge": {
		"The reason in the alert has its own section below.",
		"One network or suffix only? The failure dashboard shows it.",
	},
	"ProvisiondStuckProvisioning": {
		"The console's device page shows the step that hangs.",
		"`provctl device retry UUID` starts another attempt; it asks the device first and resumes.",
	},
	"ProvisiondSetupWindowClosing": {
		"`provctl device list` sorted by window: what do these devices wait for?",
		"Approve them, name them, or import the certificate they need.",
		"A window that has passed opens again after ten seconds without power.",
	},
	"ProvisiondDuplicateUuid": {
		"`provctl device show UUID` shows addresses, hash lists and MACs of both.",
		"A cloned board: give one a UUID of its own with the maker's tool. A repaired board: retire the old record.",
	},
	"ProvisiondRetiredDeviceHello": {
		"Find the switch port of the address in the event.",
		"Yours after all: `provctl device restore UUID`. Not yours any more: tell whoever is responsible for hardware.",
	},
	"ProvisiondStrayHellos": {
		"`provctl event list --name stray_hello` names the devices, and the address that each hello came from.",
		"Find that address's switch port. A cloned board, or a repaired one that kept its UUID: give it one of its own with the maker's " +
			"tool.",
		"Nobody knows the machine: take its port down. It learnt nothing and the device was told nothing, but it sits in a network of " +
			"provisioning.networks.",
		"It is the device after all, on a new lease and without its setup: `provctl device address UUID ADDRESS`, then `provctl device " +
			"why UUID`.",
	},
	"ProvisiondDeviceCertsExpiring": {
		"`provctl device list` for the health of these devices: most are switched off or moved.",
		"`provctl maintain --all --task cert` tries them again now.",
	},
	"ProvisiondRolloutStopped": {
		"`provctl job list --state stopped`, then `provctl job show ID`: it says which device, and what it answered.",
		"`provctl device why UUID`: was it switched off in that moment, or does the change shut this server out? Reach it at the machine " +
			"or with another console before anything else is changed.",
		"A fault of the change: `provctl profile rollback NAME --to VERSION` rolls the older one out, again one device first, and ends " +
			"what is left of this job; other jobs: `provctl job abort ID`.",
		"No fault of it: `provctl job resume ID`. Devices lost until then no longer hold it.",
	},
	"ProvisiondContactLost": {
		"`provctl event list --name contact_lost` names the devices and what they were told before.",
		"`provctl maintain UUID --task check` asks one again. As soon as it answers it counts no more; one that is gone for good: " +
			"`provctl device retire UUID`.",
		"Three within a day hold routine maintenance, until one of them answers or the day is over.",
	},
	"ProvisiondMaintenanceFailing": {
		"`provctl job list`, then `provctl job show ID`: a result for each device.",
		"Unreachable devices are no fault of the job; wrong passwords are an alarm of their own.",
	},
	"ProvisiondProvisioningCertRenewalDue": {
		"`provctl cert renew ID --dry-run` says what it takes and which devices depend on it; without `--dry-run` the renewal begins.",
		"What was bought: order with the request that is printed. What our own root issued: its successor is there at once, `provctl " +
			"cert replace OLD NEW`.",
	},
	"ProvisiondProvisioningCertExpiring": {
		"Order the renewal under the same names, with the AMT usage (OID 2.16.840.1.113741.1.2.3) and a root the devices know: `provctl " +
			"cert advise`.",
		"`provctl cert renew ID` makes the new request, if nobody did; the old certificate stays active beside it. `provctl cert list` " +
			"says how far the renewal is.",
	},
	"ProvisiondProvisioningCertExpiringSoon": {
		"Ask the vendor where the order stands.",
		"`provctl cert import FILE`, then `provctl cert check ID --amt 11.8 --suffix DOMAIN`.",
	},
	"ProvisiondProvisioningCertLastWeek": {
		"`provctl cert list`: has a successor arrived? Then `provctl cert replace OLD NEW`, once more with `--yes`.",
		"None has: press the vendor, or order elsewhere under a root that `provctl cert advise` names.",
	},
	"ProvisiondProvisioningCertExpired": {
		"Import the renewal: `provctl cert import FILE`. Waiting devices go on by themselves.",
		"None at hand: devices keep saying hello for hours and stay recorded; managed devices are not touched.",
	},
	"ProvisiondProvisioningCertUnusable": {
		"`provctl cert show ID` lists the findings; each has a section below.",
		"The file's backup: `provctl cert backup restore`.",
	},
	"ProvisiondNoCertificateForDevices": {
		"`provctl device why UUID` for one of them: suffix, roots and certificates side by side.",
		"Suffix: mend DHCP option 15 or get a certificate for that domain. Root: `provctl cert advise`.",
	},
	"ProvisiondPeerVerificationFailures": {
		"Was CMOS cleared or a board changed? Then `provctl device approve UUID`.",
		"If not: look at the switch port and the path. Nothing secret was sent.",
	},
	"ProvisiondOdcaFailure": {
		"Treat the machine as an impostor: find its switch port.",
		"Pre-production hardware also does this; it never belongs in a production network.",
	},
	"ProvisiondSecretStoreDown": {
		"Is the master key file there and readable, the systemd credential loaded, the secret mounted?",
		"Was the key changed? Only the key that sealed the database opens it; take it from the escrow.",
	},
	"ProvisiondAuditChainBroken": {
		"Keep the database as it is: take a copy before anything else.",
		"`provctl audit verify` names the first record that is wrong, and `provctl audit verify --against FILE` holds the chain against " +
			"the last export.",
		"Did its end go? Each node's data folder keeps what the node saw last (store.seen), and log and metrics have every checkpoint: " +
			"`provctl audit verify --checkpoint RECORD:HASH`.",
		"Treat it as an incident: somebody with write access to the database changed history. Was an older copy put back by hand, not by " +
			"`provisiond restore`? Then move store.seen away on each node and restart it.",
	},
	"ProvisiondRowsRefused": {
		"`provisiond rows check` names them, and the audit has when they were first met: `provctl audit list --action rows.refused`.",
		"Treat it as an incident: somebody who may write into the database tried to become somebody. Change that password, and look for " +
			"what else it was used for.",
		"Did a node of an earlier release write them after the upgrade, or was an older dump put back? Look at each row, then " +
			"`provisiond rows sign --reason …` makes them count. A run that does not count gives way to the next order; a job " +
			"(`forged`) is ended by `provctl job abort ID`.",
	},
	"ProvisiondBackupStale": {
		"`provisiond backup create`, then `provisiond backup verify FILE`.",
		"Why did the timer not run? `systemctl list-timers`, or the CronJob's last pod.",
	},
}
