package sim

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
)

func TestSuffixRule(t *testing.T) {
	t.Parallel()
	old, now := suffixRules{}, suffixRules{wildcard: true, comNet: true, extended: true, san: true}
	for _, row := range []struct {
		name, suffix string
		rules        suffixRules
		want         bool
	}{
		{"server.east.company.local", "east.company.local", old, true},
		{"server.east.company.local", "company.local", old, true},
		{"SERVER.Company.Local", "company.local.", old, true},
		{"server.east.company.local", "mkgt.east.company.local", now, false},
		{"server.east.company.local", "west.company.local", now, false},
		{"server.east.company.com", "west.company.com", old, false},
		{"server.east.company.com", "west.company.com", now, true},
		{"a.example.fr", "b.example.fr", now, false},
		{"srv.a.example.fr", "b.a.example.fr", now, true},
		{"a.example.io", "b.example.io", now, false},
		{"xcompany.com", "company.com", now, false},
		{"*.company.local", "company.local", now, true},
		{"*.company.local", "east.company.local", now, true},
		{"*.east.company.local", "company.local", now, true},
		{"*.company.local", "company.local", old, false},
		{"*.company.local", "local", now, false},
		{"", "company.local", now, false},
		{"server.company.local", "", now, false},
	} {
		if got := serves(row.name, row.suffix, row.rules); got != row.want {
			t.Errorf("%q for a device of %q: %t, want %t", row.name, row.suffix, got, row.want)
		}
	}
}

func TestFirmwareJudgesTheChainItself(t *testing.T) {
	t.Parallel()
	swap := func(l *lab, order ...int) *lab {
		c := *l
		c.chain = nil
		for _, i := range order {
			c.chain = append(c.chain, l.chain[i])
		}
		return &c
	}
	good := sharedLab()
	forged := *good
	forged.chain = append([][]byte(nil), good.chain...)
	forged.chain[1] = newLab(t, labOptions{cn: "x.lab.test", bits: 1024}).chain[1] // an intermediate of the same name, by another hand
	for _, row := range []struct {
		what        string
		lab         *lab
		personality string
		suffix      string
		roots       []amt.TrustHash
		ok          bool
	}{
		{"a proper chain", good, "11", "lab.test", good.hashes(), true},
		{"the root left out", swap(good, 0, 1), "11", "lab.test", good.hashes(), false},
		{"root first, as a popular tool sends it", swap(good, 2, 1, 0), "11", "lab.test", good.hashes(), false},
		{"only the leaf", swap(good, 0), "11", "lab.test", good.hashes(), false},
		{"an intermediate skipped", swap(good, 0, 2), "11", "lab.test", good.hashes(), false},
		{"a forged intermediate", &forged, "11", "lab.test", good.hashes(), false},
		{"a root the device does not know", good, "11", "lab.test", []amt.TrustHash{}, false},
		{"an old device knows SHA-1 only", good, "5", "lab.test", amt.HashesOf(good.root())[:2], false},
		{"an old device and its SHA-1 hash", good, "5", "lab.test", amt.HashesOf(good.root())[2:], true},
		{"a new device takes no SHA-1 hash", good, "16", "lab.test", amt.HashesOf(good.root())[2:], false},
		{"another domain", good, "11", "other.test", good.hashes(), false},
		{"no OID, but the OU", newLab(t, labOptions{noOID: true, ou: setupOU}), "11", "lab.test", nil, true},
		{"no OID, and a rewritten OU", newLab(t, labOptions{noOID: true, ou: "Intel(R) client setup certificate"}), "11", "lab.test", nil, false},
		{"no OID and no OU", newLab(t, labOptions{noOID: true}), "11", "lab.test", nil, false},
		{"not a server certificate", newLab(t, labOptions{noServerAuth: true}), "11", "lab.test", nil, false},
		{"expired is not refused", newLab(t, labOptions{notAfter: time.Now().Add(-time.Minute)}), "11", "lab.test", nil, true},
		{"SHA-1 signatures on 11", newLab(t, labOptions{alg: x509.SHA1WithRSA}), "11", "lab.test", nil, true},
		{"SHA-1 signatures on 16", newLab(t, labOptions{alg: x509.SHA1WithRSA}), "16", "lab.test", nil, false},
		{"RSA 1024 on 12", newLab(t, labOptions{bits: 1024}), "12", "lab.test", nil, true},
		{"RSA 1024 on 16", newLab(t, labOptions{bits: 1024}), "16", "lab.test", nil, false},
		{"RSA 3072 on 5", newLab(t, labOptions{bits: 3072}), "5", "lab.test", nil, false},
		{"RSA 3072 on 6", newLab(t, labOptions{bits: 3072}), "6", "lab.test", nil, true},
		{"an ECDSA leaf on 15", newLab(t, labOptions{ecLeaf: true}), "15", "lab.test", nil, true},
		{"an ECDSA leaf on 11", newLab(t, labOptions{ecLeaf: true}), "11", "lab.test", nil, false},
		{"a name only in the SANs", newLab(t, labOptions{cn: "srv.other.test", dns: []string{"srv.lab.test"}}), "11", "lab.test", nil, true},
		{"a name only in the SANs, on 5", newLab(t, labOptions{cn: "srv.other.test", dns: []string{"srv.lab.test"}}), "5", "lab.test", nil, false},
	} {
		t.Run(row.what, func(t *testing.T) {
			t.Parallel()
			roots := row.roots
			if roots == nil {
				roots = row.lab.hashes()
			}
			d := startDevice(t, Config{Personality: row.personality, Suffix: row.suffix, Roots: roots})
			c := newClient(t, d, row.lab.tls())
			c.user, c.password = "admin", "admin"
			_, _, err := c.post(c.envelope("AMT_GeneralSettings", nsXfer+"/Get", "", ""))
			if got := err == nil; got != row.ok {
				t.Errorf("let in: %t (%v), want %t; the device says %v", got, err, row.ok, d.Snapshot().Refusals)
			}
		})
	}
}

func TestNoClientCertificateNoSetup(t *testing.T) {
	t.Parallel()
	d := startDevice(t, Config{})
	c := newClient(t, d, nil)
	if _, _, err := c.post(c.envelope("AMT_GeneralSettings", nsXfer+"/Get", "", "")); err == nil {
		t.Error("a setup session without a client certificate was let in")
	}
}

func TestASuffixFromMEBxGoesBeforeDHCP(t *testing.T) {
	t.Parallel()
	d := startDevice(t, Config{Suffix: "other.test", MEBxSuffix: "lab.test"})
	c := newClient(t, d, sharedLab().tls())
	if got := field1(c.get("AMT_SetupAndConfigurationService", ""), "TrustedDNSSuffix"); got != "lab.test" {
		t.Errorf("TrustedDNSSuffix %q", got)
	}
}
