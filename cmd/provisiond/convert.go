package main

import (
	"crypto/tls"
	"time"

	"github.com/provisiond/provisiond/amt/hello/receive"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/profile"
)

func (l Limits) limits() receive.Limits {
	return receive.Limits{PerSourcePerMinute: l.PerSourcePerMinute, PerNetworkPerMinute: l.PerNetworkPerMinute,
		TotalPerSecond: l.TotalPerSecond, Connections: l.Connections}
}

func (p Profile) profile() profile.Profile {
	return profile.Profile{
		Name: "default", Version: 1, TLS: profile.TLSMode(p.TLS), TrustedCN: p.TrustedCN, Unprotected: p.Unprotected,
		AdminUser: p.AdminUser, MEBx: p.MEBx,
		HostName: p.HostName, Domain: p.Domain, ExtendHours: p.ExtendHours, CertificateDays: p.CertificateDays,
		PasswordDays: p.PasswordDays,
	}
}

// schedule doubles from First to Max.
func (r Retry) schedule() []time.Duration {
	var out []time.Duration
	for d := r.First; ; d *= 2 {
		if d >= r.Max || len(out) > 40 {
			return append(out, r.Max)
		}
		out = append(out, d)
	}
}

func admission(c Config) admit.Mode { return admit.Mode(c.Provisioning.Admission) }

func reprovision(c Config) admit.Reprovision { return admit.Reprovision(c.Provisioning.Reprovision) }

func tlsVersion(s string) uint16 {
	switch s {
	case "1.1":
		return tls.VersionTLS11
	case "1.2":
		return tls.VersionTLS12
	}
	return tls.VersionTLS10
}
