package doctor

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
	"pgregory.net/rapid"

	"github.com/provisiond/provisiond/certs"
)

// TestReadDomain: what may stand in option 15, byte by byte.
func TestReadDomain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		raw      []string
		suffix   string
		odd      string // part of a remark
		unusable string // part of why firmware cannot use it
	}{
		{raw: []string{"corp.example.com"}, suffix: "corp.example.com"},
		{raw: nil, unusable: "missing"},
		{raw: []string{""}, unusable: "empty"},
		{raw: []string{"\x00"}, odd: "NUL", unusable: "empty"},
		{raw: []string{"corp.example.com\x00"}, suffix: "corp.example.com", odd: "NUL byte"},
		{raw: []string{"corp.example.com\x00lab.example.com"}, suffix: "corp.example.com", unusable: "NUL byte inside"},
		{raw: []string{"corp.example.com."}, suffix: "corp.example.com", odd: "ends in a dot"},
		{raw: []string{"Corp.Example.COM"}, suffix: "corp.example.com", odd: "capital letters"},
		{raw: []string{" corp.example.com"}, suffix: "corp.example.com", odd: "white space"},
		{raw: []string{"corp.example.com lab.example.com"}, suffix: "corp.example.com", unusable: "several domains"},
		{raw: []string{"corp.example.com,lab.example.com"}, suffix: "corp.example.com", unusable: "several domains"},
		{raw: []string{"corp.example.com", "lab.example.com"}, suffix: "corp.example.com", unusable: "comes 2 times"},
		{raw: []string{"corp_1.example.com"}, suffix: "corp_1.example.com", odd: "underscore"},
		{raw: []string{"corp..example.com"}, unusable: "not a domain name"},
		{raw: []string{"b\xfccher.example"}, unusable: "not a domain name"},
	} {
		var in [][]byte
		for _, r := range c.raw {
			in = append(in, []byte(r))
		}
		r := readDomain(in)
		if r.Suffix != c.suffix || !strings.Contains(strings.Join(r.Odd, "; "), c.odd) || c.odd == "" && len(r.Odd) > 0 ||
			!strings.Contains(r.Unusable, c.unusable) || (c.unusable == "") != (r.Unusable == "") {
			t.Errorf("%q: %+v", c.raw, r)
		}
	}
}

// TestTheTextsAreThoseOfTheManual: what the doctor says to paste stands in the
// manual, letter by letter.
func TestTheTextsAreThoseOfTheManual(t *testing.T) {
	t.Parallel()
	manual, err := os.ReadFile("../../deploy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := recordText("corp.example.com", []netip.Addr{netip.MustParseAddr("192.0.2.10")}) +
		option15Text("corp.example.com", netip.MustParsePrefix("10.20.0.0/16"))
	n := 0
	for line := range strings.Lines(texts) {
		text, indented := strings.CutPrefix(strings.TrimRight(line, "\n"), "    ")
		if !indented {
			continue
		}
		n++
		if !bytes.Contains(manual, []byte(text)) {
			t.Errorf("deploy/README.md lacks %q", text)
		}
	}
	if n < 10 {
		t.Errorf("only %d lines to paste", n)
	}
}

// TestPrint: what an operator sees.
func TestPrint(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	r := Report{Checks: []Check{
		{Name: "listener", Status: Pass, Detail: "hellos can be left at 192.0.2.10:9971"},
		{Name: "dns:corp.example.com", Status: Fail, Detail: "there is no provisionserver.corp.example.com\nns1: no such name", Hint: "add the record:\n    a line"},
		{Name: "clock", Status: Warn, Detail: "the clock is 3s fast", Hint: "chronyd"},
	}}
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	const wanted = `pass  listener              hellos can be left at 192.0.2.10:9971
fail  dns:corp.example.com  there is no provisionserver.corp.example.com
                            ns1: no such name
                            -> add the record:
                                   a line
warn  clock                 the clock is 3s fast
                            -> chronyd

1 pass, 1 warn, 1 fail
`
	if d := cmp.Diff(wanted, b.String()); d != "" {
		t.Error(d)
	}
	if r.Worst() != Fail || r.Worst().Level() != 2 || (Report{}).Worst() != Pass {
		t.Error(r.Worst())
	}
}

// TestEveryKindIsReported: a metric is made for each kind beforehand, so no
// check may have another.
func TestEveryKindIsReported(t *testing.T) {
	t.Parallel()
	r, _ := New(Config{HelloListen: "127.0.0.1:0", Own: func() []netip.Addr { return nil }}).Run(t.Context())
	have := []string{"configuration"} // made by the command
	for _, c := range r.Checks {
		if len(have) == 0 || have[len(have)-1] != c.Kind() {
			have = append(have, c.Kind())
		}
	}
	if d := cmp.Diff(Kinds(), have); d != "" {
		t.Error(d)
	}
}

// TestNTP: what a server may answer.
func TestNTP(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{0, time.Hour, -24 * time.Hour} {
		d, err := askNTP(t.Context(), ntpServer(t, off))
		if err != nil || (d-off).Abs() > time.Second {
			t.Errorf("%v: %v %v", off, d, err)
		}
	}
	now := time.Now()
	for name, b := range map[string][]byte{
		"kiss of death":  {4<<3 | 4, 0, 12: 'R', 13: 'A', 14: 'T', 15: 'E', 47: 0},
		"not knowing":    {3<<6 | 4<<3 | 4, 2, 47: 0},
		"another client": {4<<3 | 3, 2, 47: 0},
	} {
		if _, err := readNTP(b, now, now); err == nil {
			t.Errorf("%s is believed", name)
		}
	}
	// The count of seconds starts again in February 2036.
	if got := ntpTime([]byte{0, 0, 0, 10, 0, 0, 0, 0},
		time.Date(2036, 2, 7, 6, 28, 30, 0, time.UTC)); got.UTC().Format(time.RFC3339) != "2036-02-07T06:28:26Z" {
		t.Error(got.UTC())
	}
	for d, s := range map[time.Duration]Status{0: Pass, time.Second: Pass, -5 * time.Second: Warn, 31 * time.Second: Fail,
		-24 * time.Hour: Fail} {
		if judgeOffset(d) != s {
			t.Errorf("%v is %s", d, judgeOffset(d))
		}
	}
}

// TestForeignBytesDoNoHarm: whatever a stranger answers, reading ends without a panic.
func TestForeignBytesDoNoHarm(t *testing.T) {
	t.Parallel()
	q, err := question(7, "provisionserver.corp.example.com", dnsmessage.TypeA)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		tail := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "tail")
		b := append(bytes.Clone(q), tail...)
		b[2] |= 0x80
		copy(b[6:12], rapid.SliceOfN(rapid.Byte(), 6, 6).Draw(t, "counts"))
		if a, err := parseDNS(b, 7, "provisionserver.corp.example.com", dnsmessage.TypeA); err == nil {
			addressesIn(a, "provisionserver.corp.example.com")
		}
		m := append(dhcpMessage{Reply: true}.encode()[:240], tail...)
		if got, err := parseDHCP(m); err == nil {
			readDomain(offerOf(got, netip.Addr{}).Domains)
		}
		_, _ = parseDHCP(tail)
	})
}

// TestDNSAnswers: aliases, loops and pointers.
func TestDNSAnswers(t *testing.T) {
	t.Parallel()
	a := dnsAnswer{Answer: []record{
		{Name: "provisionserver.corp.example.com", Type: dnsmessage.TypeCNAME, TTL: 30, Target: "amt.corp.example.com"},
		{Name: "amt.corp.example.com", Type: dnsmessage.TypeA, TTL: 300, Addr: netip.MustParseAddr("192.0.2.1")},
	}}
	addrs, aliases, ttl, _ := addressesIn(a, "ProvisionServer.corp.example.com.")
	if len(addrs) != 1 || len(aliases) != 1 || ttl != 30 {
		t.Error(addrs, aliases, ttl)
	}
	loop := dnsAnswer{Answer: []record{{Name: "a.b", Type: dnsmessage.TypeCNAME, Target: "c.b"},
		{Name: "c.b", Type: dnsmessage.TypeCNAME, Target: "a.b"}}}
	if addrs, _, _, _ := addressesIn(loop, "a.b"); len(addrs) != 0 {
		t.Error(addrs)
	}
	if _, _, err := readName([]byte{0xc0, 0x00}, 0); err == nil {
		t.Error("a pointer to itself is followed")
	}
	for _, bad := range []string{"", "a..b", strings.Repeat("a", 64) + ".com", strings.Repeat("abcdefgh.", 40)} {
		if _, err := question(1, bad, dnsmessage.TypeA); err == nil {
			t.Errorf("%q is asked for", bad)
		}
	}
	for addr, name := range map[string]string{"192.0.2.10": "10.2.0.192.in-addr.arpa",
		"fd00::1": "1." + strings.Repeat("0.", 28) + "0.d.f.ip6.arpa"} {
		if got := arpa(netip.MustParseAddr(addr)); got != name {
			t.Errorf("%s: %s", addr, got)
		}
	}
}

// TestWordsForSizes keeps figures readable.
func TestWordsForSizes(t *testing.T) {
	t.Parallel()
	var got []string
	for _, n := range []int64{0, 1023, 1024, 5 << 20, 3 << 40} {
		got = append(got, size(n))
	}
	if d := cmp.Diff([]string{"0 bytes", "1023 bytes", "1.0 KiB", "5.0 MiB", "3.0 TiB"}, got); d != "" {
		t.Error(d)
	}
	if s := fmt.Sprint(ageWords(90*time.Minute), " ", ageWords(30*time.Hour), " ",
		ageWords(72*time.Hour)); s != "90 minutes 30 hours 3 days" {
		t.Error(s)
	}
}

// TestWhatWasNotLookedAt: a check without anything to look at says skip, not that all
// is well; and whatever is not well names the next move.
func TestWhatWasNotLookedAt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Config{
		"nothing named": {Certificates: func() ([]*certs.Provisioning, []error) { return nil, nil }, Running: func(context.Context) Daemon { return Daemon{} }},
		"a daemon of which nothing is known": {DataDir: "/nowhere/at/all", HelloListen: "127.0.0.1:9971", Zones: []string{"corp.example.com"}, Resolvers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")},
			Certificates: func() ([]*certs.Provisioning, []error) { return nil, nil },
			Running:      func(context.Context) Daemon { return Daemon{Up: true, Unknown: "it is not asked"} }},
	} {
		if c.Own == nil {
			c.Own = func() []netip.Addr { return nil }
		}
		report, _ := New(c).Run(t.Context())
		skipped := map[string]bool{}
		for _, check := range report.Checks {
			if check.Status.Level() > 0 && check.Hint == "" {
				t.Errorf("%s: %s %s without a hint: %s", name, check.Status, check.Name, check.Detail)
			}
			skipped[check.Name] = check.Status == Skip
		}
		for _, want := range []string{"dhcp", "device", "tls"} {
			if !skipped[want] {
				t.Errorf("%s: %s did not look and does not say skip", name, want)
			}
		}
	}
}
