package doctor

import (
	"testing"
)

const ourRecord = "--host-record=provisionserver." + labZone + "," + labServer

// TestProvisionServerInDNS asks a real dnsmasq, through the real program.
func TestProvisionServerInDNS(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		zone     []string // records of the zone's own server
		resolver []string
		silent   bool // the zone's own server is not running
		lame     bool // it runs, but knows nothing of the zone
		status   Status
		detail   []string
		hint     []string
	}{
		{name: "right", zone: []string{ourRecord}, status: Pass,
			detail: []string{"leads to us", "ns.corp.example.com (10.77.0.2): A 10.77.0.10, TTL 300 s"}},
		{name: "missing", status: Fail,
			detail: []string{"there is no provisionserver.corp.example.com", "ns.corp.example.com (10.77.0.2): no such name"},
			hint: []string{"provisionserver  300  IN  A  10.77.0.10", "host-record=provisionserver.corp.example.com,10.77.0.10",
				"Add-DnsServerResourceRecordA -ZoneName corp.example.com -Name provisionserver -IPv4Address 10.77.0.10"}},
		{name: "wrong", zone: []string{"--host-record=provisionserver.corp.example.com,10.77.0.99"}, status: Fail,
			detail: []string{"leads to 10.77.0.99, which is not this server"}, hint: []string{"ours: 10.77.0.10", "doctor.addresses"}},
		{name: "alias", zone: []string{"--cname=provisionserver.corp.example.com,amt.corp.example.com", "--host-record=amt.corp.example.com,10.77.0.10"}, status: Warn,
			detail: []string{"leads to us; by an alias (CNAME)", "CNAME amt.corp.example.com, A 10.77.0.10"},
			hint:   []string{"IN  A  10.77.0.10"}},
		{name: "alias to nowhere", zone: []string{"--cname=provisionserver.corp.example.com,amt.corp.example.com", "--host-record=amt.corp.example.com,fd77::9"}, status: Fail,
			detail: []string{"leads to fd77::9, which is not this server"}},
		{name: "ours and another", zone: []string{ourRecord, "--host-record=provisionserver.corp.example.com,10.77.0.98"}, status: Warn,
			detail: []string{"also to 10.77.0.98", "first address only"}},
		{name: "split horizon", zone: []string{ourRecord}, resolver: []string{"--host-record=provisionserver.corp.example.com,10.77.0.97"}, status: Warn,
			detail: []string{"leads to us; this machine's resolver answers differently", "this machine's resolver: A 10.77.0.97"}},
		{name: "zone server refuses", resolver: []string{nsRecord(), "--host-record=ns.corp.example.com,10.77.0.2"}, lame: true, status: Fail,
			detail: []string{"no server of corp.example.com answers", "the server refuses to answer (REFUSED)"}},
		{name: "zone server silent", silent: true, resolver: []string{nsRecord(), "--host-record=ns.corp.example.com,10.77.0.2"}, status: Fail,
			detail: []string{"no server of corp.example.com answers"}, hint: []string{"UDP and TCP 53"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newNetLab(t)
			switch {
			case c.lame:
				l.start("infra", "started, version", "dnsmasq", nil, dnsmasq(labOwnDNS)...)
			case !c.silent:
				l.zoneServer(c.zone...)
			}
			l.resolver(c.resolver...)
			r, exit := l.doctor(l.configure(""), "--interface", "lo")
			want(t, checkOf(t, r, "dns:"+labZone), c.status, c.detail, c.hint)
			if exit != r.Worst().Level() {
				t.Errorf("exit status %d with %s as the worst", exit, r.Worst())
			}
		})
	}
}

// TestOption15 asks real DHCP servers by DHCPINFORM.
func TestOption15(t *testing.T) {
	t.Parallel()
	const pool = "--dhcp-range=10.77.0.100,10.77.0.150,1h"
	domain := func(s string) string { return "--dhcp-option=15," + s }
	kea := func(s string) string { return `, {"name": "domain-name", "data": "` + s + `"}` }
	paste := []string{why15, "dhcp-option=15,corp.example.com", `"option-data": [{"name": "domain-name", "data": "corp.example.com"}]`,
		"Set-DhcpServerv4OptionValue -ScopeId 10.77.0.0 -DnsDomain corp.example.com", " network 10.77.0.0 255.255.255.0\n"}
	for _, c := range []struct {
		name    string
		dnsmasq []string // nil: serves no DHCP
		kea     string   // "": is not there
		status  Status
		detail  []string
		hint    []string
	}{
		{name: "right by dnsmasq", dnsmasq: []string{pool, domain("corp.example.com")}, status: Pass,
			detail: []string{"10.77.0.1: option 15 is corp.example.com", "option 6 (DNS servers):    10.77.0.1",
				"a device then asks 10.77.0.1: A 10.77.0.10, TTL", "which is us"}},
		{name: "right by Kea", kea: kea("corp.example.com"), status: Pass, detail: []string{"10.77.0.3: option 15 is corp.example.com", "which is us"}},
		{name: "missing by dnsmasq", dnsmasq: []string{pool, "--dhcp-option=15", "--dhcp-option=option:domain-search,corp.example.com"}, status: Fail,
			detail: []string{"option 15 is missing", "option 119 (corp.example.com) is there, but firmware does not read it",
				"option 15 (domain):        not sent"}, hint: paste},
		{name: "missing by Kea", kea: ` `, status: Fail, detail: []string{"option 15 is missing"}, hint: paste},
		{name: "wrong by dnsmasq", dnsmasq: []string{pool, domain("corp.example.net")}, status: Fail,
			detail: []string{"option 15 is corp.example.net; no certificate serves it", "last 2 labels must agree"}, hint: paste},
		{name: "wrong by Kea", kea: kea("plant.local"), status: Fail, detail: []string{"option 15 is plant.local; no certificate serves it"}, hint: paste},
		{name: "double in one string by dnsmasq", dnsmasq: []string{pool, domain("corp.example.com lab.example.com")}, status: Fail,
			detail: []string{`"corp.example.com lab.example.com" is several domains in one string`}, hint: paste},
		{name: "double in one string by Kea", kea: kea("corp.example.com lab.example.com"), status: Fail, detail: []string{"several domains in one string"}},
		{name: "two servers of two minds", dnsmasq: []string{pool, domain("corp.example.com")}, kea: kea("corp.example.net"), status: Fail,
			detail: []string{"2 DHCP servers answer on eth0 and tell different suffixes", "10.77.0.1: option 15 is corp.example.com",
				"10.77.0.3: option 15 is corp.example.net"}},
		{name: "capitals and a dot", dnsmasq: []string{pool, domain("Corp.Example.COM.")}, status: Warn,
			detail: []string{"capital letters", "ends in a dot"}, hint: []string{"write it plainly: corp.example.com"}},
		{name: "nothing offered", status: Fail, detail: []string{"no DHCP server on eth0 answered"}, hint: []string{"10.77.0.0/24"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newNetLab(t)
			l.zoneServer(ourRecord)
			l.resolver(c.dnsmasq...)
			if c.kea != "" {
				l.kea(c.kea)
			}
			r, exit := l.doctor(l.configure(""))
			want(t, checkOf(t, r, "dhcp:eth0"), c.status, c.detail, c.hint)
			if exit != r.Worst().Level() {
				t.Errorf("exit status %d with %s as the worst", exit, r.Worst())
			}
		})
	}
}
