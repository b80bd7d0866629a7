package doctor

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestOwnTLS: how long the certificates of our own listeners last, measured by
// the life of each, and what their files hold that nobody uses.
func TestOwnTLS(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	cert := func(name string, age, left time.Duration) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-age), NotAfter: now.Add(left)}
	}
	for _, c := range []struct {
		name         string
		certs        []*x509.Certificate
		wrong        error
		status       Status
		detail, hint string
	}{
		{"a year's, new", []*x509.Certificate{cert("a", day, 364*day)}, nil, Pass, "a: 364 days left, until 2027-11-22", ""},
		{"a year's, near its end", []*x509.Certificate{cert("a", 352*day, 13*day)}, nil, Warn, "a: 13 days left", "replace the files of api.tls"},
		{"a day's, renewed in time", []*x509.Certificate{cert("a", 16*time.Hour, 8*time.Hour)}, nil, Pass, "0 days left", ""},
		{"a day's, forgotten", []*x509.Certificate{cert("a", 20*time.Hour, 4*time.Hour)}, nil, Warn, "0 days left", "no restart is needed"},
		{"ended", []*x509.Certificate{cert("a", 90*day, -time.Second)}, nil, Fail, "a: expired 2026-11-23T02:59:59Z", "replace"},
		{"not begun", []*x509.Certificate{cert("a", -time.Hour, 90*day)}, nil, Fail, "valid only from 2026-11-23T04:00:00Z", "clock"},
		{"one of two ended", []*x509.Certificate{cert("a", 90*day, -day), cert("b", day, 364*day)}, nil, Warn, "a: expired 2026-11-22", "replace"},
		{"no pair", []*x509.Certificate{cert("a", day, 364*day)}, errors.New("no pair"), Fail, "what the files of api.tls hold cannot be used: no pair\na: 364 days left", "A restart would fail"},
	} {
		v := &visit{Doctor: New(Config{TLS: func() []Shown {
			return []Shown{{Name: "api", Key: "api.tls", Certificates: c.certs, Wrong: c.wrong}}
		}}), now: now}
		got := v.tls(t.Context())
		if len(got) != 1 || got[0].Name != "tls:api" || got[0].Status != c.status || !strings.Contains(got[0].Detail, c.detail) ||
			!strings.Contains(got[0].Hint, c.hint) || (got[0].Hint == "") != (c.hint == "") {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	if got := (&visit{Doctor: New(Config{})}).tls(t.Context()); len(got) != 1 || got[0].Status != Skip {
		t.Errorf("without TLS: %+v", got)
	}
}
