package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/desk"
)

const (
	// pollCertificates is how soon all nodes use a change made on one.
	pollCertificates = 2 * time.Second
	// tickCertificates is how often a node looks after reminders and the trash.
	tickCertificates = time.Minute
)

// startDesk puts the certificates of the configuration and of the store into
// use. Without any the daemon works too: it keeps hellos, and devices wait in
// pending_certificate.
func (s *Server) startDesk(ctx context.Context) error {
	for _, p := range s.o.Certificates {
		if s.o.Force[p.ID] {
			p.Forced = true
		}
	}
	s.Desk = desk.New(desk.Config{
		DB: s.DB, Backups: filepath.Join(s.o.DataDir, "backups"), Node: s.o.Node, Zones: s.o.Zones, Files: s.o.Certificates,
		InUse:      s.Trust.Replace,
		Reconsider: func(ctx context.Context) (int, error) { return s.Admit.Reconsider(ctx) },
		Fetch:      fetcher(s.o.IssuerNetworks), Check: s.o.CheckCertificate, Now: s.o.Now, Log: s.log.Named("desk"),
	})
	if err := s.Desk.Reload(ctx); err != nil {
		return fmt.Errorf("load the provisioning certificates: %w", err)
	}
	s.onStop("the certificate desk", func(context.Context) error { s.Desk.Close(); return nil })
	return nil
}

// fetcher reads the address that a certificate names for its issuer's, in the
// networks that the configuration opens for it; nil if it opens none. The
// address comes from a stranger's certificate, so the guard for devices'
// addresses judges it.
func fetcher(allowed []netip.Prefix) certs.Fetch {
	if len(allowed) == 0 {
		return nil
	}
	d := net.Dialer{Timeout: 5 * time.Second, Control: session.EgressGuard(allowed, ownAddresses)}
	return certs.FetchOver(&http.Transport{DialContext: d.DialContext, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10})
}
