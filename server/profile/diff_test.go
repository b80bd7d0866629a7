package profile

import (
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestDifferences: every key of the document is compared, whichever is added to
// it, but for the two that name it.
func TestDifferences(t *testing.T) {
	t.Parallel()
	a := Default()
	if got := Differences(a, a); len(got) != 0 {
		t.Errorf("%v of a document and itself", got)
	}
	leaves(reflect.TypeFor[Profile](), nil, func(at []int, f reflect.StructField) {
		b := Default()
		v := reflect.ValueOf(&b).Elem()
		for _, n := range at { // sections on the way are made
			if v.Kind() == reflect.Pointer {
				v.Set(reflect.New(v.Type().Elem()))
				v = v.Elem()
			}
			v = v.Field(n)
		}
		if v.Kind() == reflect.Pointer {
			v.Set(reflect.New(v.Type().Elem()))
			v = v.Elem()
		}
		switch v.Kind() {
		case reflect.String:
			v.SetString("other")
		case reflect.Int, reflect.Int64:
			v.SetInt(77)
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		default:
			t.Fatalf("a kind of key that is not compared: %s", v.Kind())
		}
		want := 1
		if f.Name == "Name" || f.Name == "Version" {
			want = 0
		}
		if got := Differences(a, b); len(got) != want {
			t.Errorf("%s: %v", f.Name, got)
		}
	})
	b := a
	b.TLS, b.TrustedCN, b.CertificateDays = TLSMutual, []string{"a.example", "b.example"}, 90
	want := []Change{{"tls", "server", "mutual"}, {"trusted_cn", "", "a.example, b.example"}, {"certificate_days", "825", "90"}}
	if d := cmp.Diff(want, Differences(a, b)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// leaves are the keys of a document, those of its sections among them.
func leaves(t reflect.Type, at []int, each func([]int, reflect.StructField)) {
	for i := range t.NumField() {
		f, here := t.Field(i), append(at[:len(at):len(at)], i)
		under := f.Type
		if under.Kind() == reflect.Pointer {
			under = under.Elem()
		}
		if under.Kind() == reflect.Struct {
			leaves(under, here, each)
			continue
		}
		each(here, f)
	}
}

// TestSections: what firmware could not hold is refused, every problem at once, each
// with its key.
func TestSections(t *testing.T) {
	t.Parallel()
	minute, hour, second := Duration(time.Minute), Duration(time.Hour), Duration(time.Second)
	p := Default()
	p.Network = &Network{FQDN: "mine", PreferredFamily: "ipv5", DDNS: &DDNS{Mode: "sometimes", Interval: &minute}}
	p.Redirection = &Redirection{KVM: &KVM{SessionTimeout: &second}}
	p.Consent = &Consent{Required: "never", CodeTimeout: &hour}
	p.Power = &Power{IdleWakeTimeout: &second}
	p.Required, p.Drift = []string{"kvm", "wifi"}, "ignore"
	err := p.Validate()
	for _, want := range []string{
		`network.fqdn: "mine" is not one of shared, dedicated`, `network.preferred_family: "ipv5" is not one of ipv4, ipv6`, `network.ddns.mode: "sometimes"`,
		"network.ddns.interval: 1m is too often for firmware",
		"redirection.kvm.session_timeout: firmware counts whole steps of 1m, and 1s is none",
		`consent.required: "never" is not one of none, kvm, all`, "consent.code_timeout: 1h is not between 1m and 15m", "power.idle_wake_timeout: 1s is not between 1m and",
		`required: "wifi" is not one of network, time,`, `drift: "ignore" is not one of mend, report`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("not said: %s\nin: %v", want, err)
		}
	}
	if got := len(strings.Split(err.Error(), "\n")); got != 10 {
		t.Errorf("%d problems, want 10: %v", got, err)
	}
}

// TestDurations: a time is read as people write it, and written so that it is read
// again.
func TestDurations(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"90s": "1m30s", "10m": "10m", "24h": "24h", "7d": "168h", "0s": "0s", "1h30m": "1h30m"} {
		var d, again Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || d.String() != want {
			t.Errorf("%s: %s, %v", text, d, err)
		}
		if err := again.UnmarshalText([]byte(d.String())); err != nil || again != d {
			t.Errorf("%s is read as %s, %v", d, again, err)
		}
	}
	for _, text := range []string{"", "10", "soon", "d", "-1d"} {
		if err := new(Duration).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is a time", text)
		}
	}
}

// TestUsersOfAProfile: what firmware would refuse of a user, or what could shut people
// out, is refused here.
func TestUsersOfAProfile(t *testing.T) {
	t.Parallel()
	p := Default()
	p.Users = &Users{
		Digest: []DigestUser{
			{Name: "Admin", Realms: []string{"redirection"}}, {Name: "admin", Realms: []string{"redirection"}}, {Name: "$$x", Realms: []string{"redirection"}},
			{Name: "a name of seventeen", Realms: []string{"redirection"}}, {Name: "nurse", Realms: []string{"healing"}, Access: "everywhere"},
			{Name: "idle"}, {Name: "auditor", Realms: []string{"audit-log"}},
		},
		Kerberos: []KerberosUser{{SID: "S-1-5-21-x", Realms: []string{"redirection"}}},
	}
	err := p.Validate()
	for _, want := range []string{
		`"Admin" is reserved by the firmware`, "users.digest.admin: the name is taken", `"$$x" is reserved`, "want 1 to 16 characters",
		`"healing" is not a realm`,
		`users.digest.nurse.access: "everywhere" is not one of`, "users.digest.idle.realms: a user without a realm",
		"audit-log makes an auditor", `"S-1-5-21-x" is not a security identifier`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("not said: %s\nin: %v", want, err)
		}
	}
}

// TestSIDBytes: the well-known group of administrators, as Windows writes it.
func TestSIDBytes(t *testing.T) {
	t.Parallel()
	b, ok := SIDBytes("S-1-5-32-544")
	if want := "01020000000000052000000020020000"; !ok || hex.EncodeToString(b) != want {
		t.Errorf("%x, %t, want %s", b, ok, want)
	}
	for _, sid := range []string{"", "S-1-5", "S-2-5-32-544", "S-1-5-21-1-2-3-4-5-6", "S-1-5-32-99999999999"} {
		if _, ok := SIDBytes(sid); ok {
			t.Errorf("%q is a SID", sid)
		}
	}
}
