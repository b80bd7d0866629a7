package certs

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
)

// now is when all tests of this package take place.
var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// lab is shared, so that each RSA key is made once for the whole package.
var lab = sync.OnceValue(func() *certtest.Lab { return certtest.NewLab(now) })

func secret(s string) amt.Secret { return amt.NewSecret(s) }

func load(t *testing.T, f certtest.Leaf) *Provisioning {
	t.Helper()
	p, err := LoadPFX(t.Context(), f.PFX(certtest.Modern, "x"), secret("x"), now)
	if err != nil {
		t.Fatalf("load %s: %v", f.Cert.Subject, err)
	}
	return p
}

func codeOf(err error) reason.Code {
	var r *reason.Error
	if errors.As(err, &r) {
		return r.Code
	}
	if err != nil {
		return "not a reason: " + reason.Code(err.Error())
	}
	return ""
}

func has(p *Provisioning, s Severity, c reason.Code) bool {
	for _, f := range p.Findings {
		if f.Severity == s && f.Code == c {
			return true
		}
	}
	return false
}

func version(s string) amt.Version {
	if s == "" {
		return amt.Version{}
	}
	v, err := amt.ParseVersion(s)
	if err != nil {
		panic(err)
	}
	return v
}
