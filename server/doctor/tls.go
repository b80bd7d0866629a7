package doctor

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"time"
)

// Shown is what one of our listeners shows to its callers, or believes of them.
type Shown struct {
	Name         string              // api or relays
	Key          string              // the configuration's key that names its files
	Certificates []*x509.Certificate // in use; empty when the files never held any
	Wrong        error               // why what the files hold now is not in use
}

// soonOf is when the end of a certificate is near: a fifth of its life, two
// weeks at most. Who renews by himself renews with a third left.
func soonOf(c *x509.Certificate) time.Duration {
	return min(c.NotAfter.Sub(c.NotBefore)/5, 14*24*time.Hour)
}

// tls says of each certificate of our own listeners how long it lasts, and
// whether what its files hold now is what is in use.
func (v *visit) tls(context.Context) []Check {
	const name = "tls"
	var out []Check
	for _, s := range v.c.TLS() {
		out = append(out, v.ownTLS(name+":"+s.Name, s))
	}
	if len(out) == 0 {
		return one(name, Skip, "", "api.tls is not set: the API is plain HTTP, on loopback")
	}
	return out
}

func (v *visit) ownTLS(name string, s Shown) Check {
	status := Pass
	var lines, hints []string
	const replace = "replace the files of %s; no restart is needed"
	dead := 0 // of several authorities one may have ended
	if s.Wrong != nil {
		status = Fail
		lines = append(lines, fmt.Sprintf("what the files of %s hold cannot be used: %v", s.Key, s.Wrong))
		hints = append(hints, "put files there that are good and belong together; a running daemon takes them up within seconds, and "+
			"until then goes on with what it read before. A restart would fail.")
	}
	for _, c := range s.Certificates {
		left := c.NotAfter.Sub(v.now)
		line := fmt.Sprintf("%s: %d days left, until %s", shownName(c), int(left/(24*time.Hour)), c.NotAfter.UTC().Format(time.DateOnly))
		switch {
		case v.now.Before(c.NotBefore):
			dead, line = dead+1, fmt.Sprintf("%s: valid only from %s", shownName(c), c.NotBefore.UTC().Format(time.RFC3339))
			hints = append(hints, "is the clock of this machine right?")
		case left <= 0:
			dead, line = dead+1, fmt.Sprintf("%s: expired %s", shownName(c), c.NotAfter.UTC().Format(time.RFC3339))
			hints = append(hints, fmt.Sprintf(replace, s.Key))
		case left < soonOf(c):
			status = worse(status, Warn)
			hints = append(hints, fmt.Sprintf(replace, s.Key))
		}
		lines = append(lines, line)
	}
	switch {
	case dead > 0 && dead == len(s.Certificates):
		status = Fail
	case dead > 0:
		status = worse(status, Warn)
	}
	return Check{Name: name, Status: status, Detail: strings.Join(lines, "\n"), Hint: strings.Join(hints, "\n")}
}

// shownName is what a caller knows the certificate by.
func shownName(c *x509.Certificate) string {
	switch {
	case len(c.DNSNames) > 0:
		return strings.Join(c.DNSNames[:min(len(c.DNSNames), 3)], ", ")
	case len(c.IPAddresses) > 0:
		return c.IPAddresses[0].String()
	case c.Subject.CommonName != "":
		return c.Subject.CommonName
	}
	return c.Subject.String()
}
