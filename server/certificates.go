package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"syscall"
	"time"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/desk"
)

const (
	// pollCertificates is how soon a change made on one node is in use on all.
	pollCertificates = 2 * time.Second
	// tickCertificates is how often reminders and the trash are looked at.
	tickCertificates = time.Minute
)

// startDesk puts the certificates of the configuration and those of the store
// into use. With none at all the daemon works as well: hellos are kept, and
// devices wait in pending_certificate.
func (s *Server) startDesk(ctx context.Context) error {
	for _, p := range s.o.Certificates {
		if s.o.Force[p.ID] {
			p.Forced = true
		}
	}
	s.Desk = desk.New(desk.Config{
		DB: s.DB, Backups: filepath.Join(s.o.DataDir, "backups"), Node: s.o.Node, Files: s.o.Certificates, InUse: s.Trust.Replace,
		Reconsider: func(ctx context.Context) (int, error) { return s.Admit.Reconsider(ctx) },
		Fetch:      certs.FetchOver(outsideOnly()), Check: s.o.CheckCertificate, Now: s.o.Now, Log: s.log.Named("desk"),
	})
	if err := s.Desk.Reload(ctx); err != nil {
		return fmt.Errorf("load the provisioning certificates: %w", err)
	}
	s.onStop("the certificate desk", func(context.Context) error { s.Desk.Close(); return nil })
	return nil
}

// outsideOnly is for addresses that a certificate names: they are not to reach
// what listens on this machine only, nor a cloud's metadata service.
func outsideOnly() *http.Client {
	d := net.Dialer{Timeout: 5 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if a := to.Addr().Unmap(); a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
			return fmt.Errorf("%s is not asked for certificates", a)
		}
		return nil
	}}
	return &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DialContext: d.DialContext, TLSHandshakeTimeout: 5 * time.Second, DisableKeepAlives: true}}
}
