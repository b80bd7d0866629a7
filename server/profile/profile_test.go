package profile

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/amt"
)

func TestDefaultIsValid(t *testing.T) {
	t.Parallel()
	if err := Default().Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	t.Parallel()
	p := Profile{TLS: "maybe", AdminUser: "$$x", MEBx: "?", ExtendHours: 25, HostName: "bad_name"}
	err := p.Validate()
	if err == nil {
		t.Fatal("an impossible profile is valid")
	}
	for _, key := range []string{"name:", "tls:", "admin_user:", "mebx:", "extend_hours:", "certificate_days:", "host_name:"} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("%s is not named in %q", key, err)
		}
	}
}

// TestShortNamesTellDellsApart: the first half of each of their UUIDs spells DELL.
func TestShortNamesTellDellsApart(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, id := range []string{
		"4c4c4544-0043-4410-8054-b4c04f4e4e32", "4c4c4544-0043-4410-8054-b4c04f4e4e33", "44454c4c-4300-1044-8054-b4c04f4e4e32",
	} {
		u, err := amt.ParseUUID(id)
		if err != nil {
			t.Fatal(err)
		}
		host, _, err := Default().FQDN(Facts{UUID: u})
		again, _, _ := Default().FQDN(Facts{UUID: u})
		if err != nil || host != again || len(host) != len("amt-01234567") || seen[host] {
			t.Errorf("%s is called %s, then %s: %v", id, host, again, err)
		}
		seen[host] = true
	}
}

func TestFQDN(t *testing.T) {
	t.Parallel()
	u, _ := amt.ParseUUID("11223344-5566-7788-99aa-bbccddeeff00")
	facts := Facts{UUID: u, MAC: "01-02-3f-b0-99-99", Address: netip.MustParseAddr("10.1.2.3"), Suffix: "Corp.Example.com.",
		CertificateDomain: "example.com"}
	for _, c := range []struct {
		name, pattern, domain string
		change                func(*Facts)
		want                  string
	}{
		{"the uuid's head and the device's own suffix", "amt-{uuid8}", "", nil, "amt-11223344.corp.example.com"},
		{"the profile's domain wins", "amt-{uuid8}", "lab.test", nil, "amt-11223344.lab.test"},
		{"without a suffix the certificate's domain", "pc-{mac}", "", func(f *Facts) { f.Suffix = "" }, "pc-01023fb09999.example.com"},
		{"an address", "h{ip}", "", nil, "h10-1-2-3.corp.example.com"},
		{"a part that is not known", "pc-{serial}", "", nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := facts
			if c.change != nil {
				c.change(&f)
			}
			p := Default()
			p.HostName, p.Domain = c.pattern, c.domain
			host, domain, err := p.FQDN(f)
			got := host + "." + domain
			if c.want == "" {
				if err == nil {
					t.Fatalf("got %s, want an error", got)
				}
				return
			}
			if err != nil || got != c.want {
				t.Fatalf("got %s, %v; want %s", got, err, c.want)
			}
		})
	}
}

// TestLongerNames: of devices whose UUIDs begin alike each finds a name of its own.
func TestLongerNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, uuid string
		want          []string
	}{
		{"amt-{uuid8}", "11223344-5566-7788-99aa-bbccddeeff00", []string{"amt-11223344", "amt-112233445566", "amt-1122334455667788", "amt-112233445566778899aabbccddeeff00"}},
		{"{uuid8}-pc", "44454c4c-4300-1044-8054-b4c04f4e4e32", nil}, // of its SHA-256
		{"pc-{mac}", "11223344-5566-7788-99aa-bbccddeeff00", []string{"pc-01023fb09999"}},
		{"a-name-that-is-so-long-already-that-no-more-fits-{uuid8}", "11223344-5566-7788-99aa-bbccddeeff00",
			[]string{"a-name-that-is-so-long-already-that-no-more-fits-11223344",
				"a-name-that-is-so-long-already-that-no-more-fits-112233445566"}},
	} {
		u, err := amt.ParseUUID(c.uuid)
		if err != nil {
			t.Fatal(err)
		}
		p := Default()
		p.HostName = c.pattern
		hosts, _, err := p.Names(Facts{UUID: u, MAC: "01-02-3f-b0-99-99"})
		if err != nil || c.want != nil && !slices.Equal(hosts, c.want) || c.want == nil && len(hosts) != 4 {
			t.Errorf("%s: %v, %v", c.pattern, hosts, err)
		}
		for _, h := range hosts {
			if CheckLabel(h) != nil {
				t.Errorf("%q is no host name", h)
			}
		}
	}
}
