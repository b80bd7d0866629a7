package profile

import (
	"slices"
	"strings"
	"testing"
)

const ownName = "ca-00112233.provisiond.internal"

// TestOurOwnNameIsAlwaysTrusted: whatever names a profile gives, a device that is
// told them lets this server in, or it is not told.
func TestOurOwnNameIsAlwaysTrusted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		trusted []string
		want    []string // nil with bad: an error
		bad     bool
	}{
		{"none lets everybody in", nil, nil, false},
		{"somebody else's", []string{"console.lab.example"}, []string{"console.lab.example", ownName}, false},
		{"three", []string{"a.example", "b.example", "c.example"}, []string{"a.example", "b.example", "c.example", ownName}, false},
		{"ours among four", []string{"a.example", "b.example", "c.example", "Provisiond.internal"}, []string{"a.example", "b.example", "c.example", "Provisiond.internal"}, false},
		{"no room", []string{"a.example", "b.example", "c.example", "d.example"}, nil, true},
		{"an end that is no label's", []string{"internal.example", "d.internal"}, []string{"internal.example", "d.internal", ownName}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := Default()
			p.TLS, p.TrustedCN = TLSMutual, c.trusted
			got, err := p.TrustedNames(ownName)
			if (err != nil) != c.bad || !slices.Equal(got, c.want) {
				t.Fatalf("%v, %v; want %v", got, err, c.want)
			}
			if err == nil && !Admits(got, ownName) {
				t.Errorf("%v does not let us in", got)
			}
			if invalid := p.Validate() != nil; invalid != (len(c.trusted) >= MostTrusted) {
				t.Errorf("refused: %t", invalid)
			}
		})
	}
}

// TestUnprotectedNeedsItsWord: a profile without TLS says that it means it.
func TestUnprotectedNeedsItsWord(t *testing.T) {
	t.Parallel()
	p := Default()
	p.TLS = TLSNone
	if err := p.Validate(); err == nil || !strings.Contains(err.Error(), "unprotected: true") {
		t.Errorf("none alone: %v", err)
	}
	p.Unprotected = true
	if err := p.Validate(); err != nil {
		t.Errorf("none with its word: %v", err)
	}
	if r := Risks(p, p); len(r) != 1 || !strings.Contains(r[0].Could, "pass our answers on") {
		t.Errorf("nothing is said of relays: %v", r)
	}
	p.TLS = TLSServer
	if p.Validate() == nil {
		t.Error("the word without none is good")
	}
}

func TestRisks(t *testing.T) {
	t.Parallel()
	mutual := func(names ...string) Profile {
		p := Default()
		p.TLS, p.TrustedCN = TLSMutual, names
		return p
	}
	user := Default()
	user.AdminUser = "chief"
	longer := Default()
	longer.CertificateDays, longer.PasswordDays = 30, 90
	for _, c := range []struct {
		name     string
		from, to Profile
		fields   string
		says     string
	}{
		{"nothing that decides who is let in", Default(), longer, "", ""},
		{"mutual", Default(), mutual("console.lab.example"), "tls", "console-certificate issue"},
		{"a name less", mutual("a.example", "b.example"), mutual("a.example"), "trusted_cn", "b.example"},
		{"a wider name", mutual("pc.a.example"), mutual("a.example"), "", ""},
		{"names at last", mutual(), mutual("a.example"), "trusted_cn", "not named a.example"},
		{"another administrator", Default(), user, "admin_user", "admin"},
	} {
		var fields []string
		said := ""
		for _, r := range Risks(c.from, c.to) {
			fields = append(fields, r.Field)
			said += r.Could
		}
		if strings.Join(fields, ",") != c.fields || !strings.Contains(said, c.says) {
			t.Errorf("%s: %v %s", c.name, fields, said)
		}
	}
}
