package doctor

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/store"
)

// loaded are the certificates in use.
func (v *visit) loaded() []*certs.Provisioning {
	list, _ := v.certs()
	return list
}

// withStored adds the active certificates of the database that are not among
// those loaded: their names and dates, since their keys are not asked for.
func withStored(list []*certs.Provisioning, stored []store.Certificate) []*certs.Provisioning {
	out := slices.Clone(list)
	for _, c := range stored {
		block, _ := pem.Decode(c.Chain)
		if c.State != "active" || block == nil || slices.ContainsFunc(list, func(p *certs.Provisioning) bool { return p.ID == c.ID }) {
			continue
		}
		if leaf, err := x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, &certs.Provisioning{ID: c.ID, Name: c.Name, Names: c.Names, Leaf: leaf})
		}
	}
	return out
}

const (
	expiresSoon  = 45 * 24 * time.Hour
	expiresToday = 3 * 24 * time.Hour
)

// certificates says of each provisioning certificate what is wrong or odd, and
// how long it lasts.
func (v *visit) certificates(context.Context) []Check {
	const name = "certificates"
	status := Pass
	var lines, hints []string
	loaded, unusable := v.certs()
	for _, err := range unusable {
		status = Fail
		lines = append(lines, err.Error())
	}
	usable := 0
	for _, p := range loaded {
		s, line, hint := v.certificate(p)
		status = worse(status, s)
		lines = append(lines, line...)
		if hint != "" {
			hints = append(hints, hint)
		}
		if s != Fail {
			usable++
		}
	}
	if len(loaded) == 0 && len(unusable) == 0 {
		return one(name, Warn, "provctl cert request --cn provisionserver."+v.wantedSuffix()+
			" makes a request; provctl cert import FILE takes what the vendor sends",
			"no provisioning certificate is loaded: devices wait in pending_certificate")
	}
	head := plural(usable, "certificate") + " can be used"
	if usable == 0 {
		status = Fail
	}
	return one(name, status, strings.Join(hints, "\n"), "%s\n%s", head, strings.Join(lines, "\n"))
}

func (v *visit) certificate(p *certs.Provisioning) (Status, []string, string) {
	left := p.Leaf.NotAfter.Sub(v.now)
	days := int(left / (24 * time.Hour))
	head := fmt.Sprintf("%s (%s): %d days left, until %s", certificateNames(p), p.ID, days, p.Leaf.NotAfter.UTC().Format(time.DateOnly))
	status, hint := Pass, ""
	switch {
	case p.Validity(v.now) != nil:
		status = Fail
		if p.Forced || v.c.Force[p.ID] {
			status = Warn
		}
		head = p.Validity(v.now).Error()
		hint = "renew it: provctl cert request --cn " + p.Name
		if v.now.Before(p.Leaf.NotBefore) {
			hint = "nothing but to wait until " + p.Leaf.NotBefore.UTC().Format(time.RFC3339) +
				", if this server's clock is right (timedatectl); devices that wait are set up then"
		}
	case left < expiresToday:
		status, hint = Fail, "renew it now: provctl cert request --cn "+p.Name
	case left < expiresSoon:
		status, hint = Warn, "renew it: provctl cert request --cn "+p.Name
	}
	lines := []string{head}
	for _, f := range p.FindingsAt(v.now) {
		if f.Code == reason.CertExpired && f.Severity == certs.SeverityWarn || f.Code == reason.CertNotYetValid ||
			f.Code == reason.CertExpiring {
			continue // the first line says it
		}
		switch f.Severity {
		case certs.SeverityError:
			status = Fail
		case certs.SeverityWarn:
			status = worse(status, Warn)
		}
		lines = append(lines, fmt.Sprintf("  %s %s: %s", f.Severity, f.Code, f.Detail))
		if e := reason.Of(f.Code); f.Severity == certs.SeverityError && hint == "" && len(e.Fix) > 0 {
			hint = e.Fix[0]
		}
	}
	return status, lines, hint
}
