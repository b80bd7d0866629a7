package rest

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// Other consoles come through the mutual TLS of our devices with a client
// certificate of the device CA. Their keys are made where they are used: this
// server sees a request. What such a certificate opens is TLS and nothing more;
// the device still wants a password.

// RevokeConsoleInput names a certificate and says why.
type RevokeConsoleInput struct {
	ID   int64 `path:"id" minimum:"1"`
	Body api.RevokeConsole
}

func (s *Server) consoleRoutes(to huma.API) {
	tags := []string{"certificates"}
	add(s, to, huma.Operation{OperationID: "get-device-ca", Method: http.MethodGet, Path: "/api/v1/device-ca",
		Summary: "The authority of the devices' certificates, for other tools", Tags: tags}, s.getDeviceCA)
	add(s, to, huma.Operation{OperationID: "list-console-certificates", Method: http.MethodGet, Path: "/api/v1/console-certificates",
		Summary: "Client certificates that other consoles got", Tags: tags}, s.listConsoles)
	add(s, to, huma.Operation{OperationID: "issue-console-certificate", Method: http.MethodPost, Path: "/api/v1/console-certificates",
		DefaultStatus: http.StatusCreated, Summary: "Issue a client certificate for another console",
		Description: "It opens the mutual TLS of devices that let its name in; to do anything there, the console needs a password as well.",
		Tags:        tags}, s.issueConsole)
	add(s, to, huma.Operation{OperationID: "revoke-console-certificate", Method: http.MethodPost,
		Path: "/api/v1/console-certificates/{id}/revoke", Summary: "Note that a console's certificate is not to be used any more",
		Description: "Devices hear nothing of it: firmware gets no list of revoked certificates from this server. The answer says which " +
			"still take it, and what shuts it out.", Tags: tags}, s.revokeConsole)
}

func (s *Server) authority() (*certs.Authority, error) {
	if s.Authority == nil {
		return nil, api.NewProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "this server has no device CA")
	}
	return s.Authority, nil
}

func (s *Server) getDeviceCA(context.Context, *none) (api.DeviceCA, error) {
	a, err := s.authority()
	if err != nil {
		return api.DeviceCA{}, err
	}
	c := a.Certificate()
	return api.DeviceCA{Name: c.Subject.CommonName, SHA256: fingerprint(c.Raw), NotAfter: c.NotAfter.UTC(), PEM: certificatePEM(c.Raw),
		Zones: c.PermittedDNSDomains, Server: a.ConsoleName()}, nil
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

func certificatePEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func toConsole(c store.ConsoleCertificate) api.ConsoleCertificate {
	return api.ConsoleCertificate{
		ID: c.ID, Name: api.Clean(c.Name), Serial: c.Serial, SHA256: hex.EncodeToString(c.Fingerprint), IssuedTo: api.Clean(c.IssuedTo),
		CreatedBy: api.Clean(c.CreatedBy), CreatedAt: timeOrNull(c.CreatedAt), NotAfter: timeOrNull(c.NotAfter),
		RevokedAt: timeOrNull(c.RevokedAt), RevokedBy: api.Clean(c.RevokedBy), Why: api.Clean(c.Why),
	}
}

func (s *Server) listConsoles(ctx context.Context, in *api.ConsoleQuery) (api.ConsoleCertificateList, error) {
	out := api.ConsoleCertificateList{Certificates: []api.ConsoleCertificate{}}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		all, err := tx.ConsoleCertificates(ctx, in.All)
		for _, c := range all {
			out.Certificates = append(out.Certificates, toConsole(c))
		}
		return err
	})
	return out, err
}

var consoleDNS = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+$`)

func (s *Server) issueConsole(ctx context.Context, in *bodyInput[api.NewConsoleCertificate]) (out api.ConsoleCertificateIssued, err error) {
	a, err := s.authority()
	if err != nil {
		return out, err
	}
	b := in.Body
	name := strings.ToLower(strings.TrimSuffix(b.Name, "."))
	switch {
	case !consoleDNS.MatchString(name):
		return out, operate.WrongField("body.name", "%q is not the whole DNS name of a console, such as console.corp.example.com",
			api.Clip(b.Name, 64))
	case profile.Admits([]string{certs.ConsoleZone}, name):
		return out, operate.WrongField("body.name", "names in %s are of servers like this one; choose one of your own", certs.ConsoleZone)
	}
	csr, err := certs.ConsoleRequest(ctx, certs.File{Name: "csr", Data: []byte(b.CSR)})
	if err != nil {
		return out, err
	}
	days := b.Days
	if days == 0 {
		days = 90
	}
	now := s.now()
	der, err := a.IssueConsole(csr.PublicKey, name, now, time.Duration(days)*24*time.Hour)
	if err != nil {
		return out, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return out, err
	}
	sum := sha256.Sum256(der)
	row := store.ConsoleCertificate{Serial: leaf.SerialNumber.Text(16), Name: name, Fingerprint: sum[:], IssuedTo: b.IssuedTo,
		CreatedBy: actor(ctx), NotAfter: leaf.NotAfter}
	// It leaves only once it is in the list and in the audit.
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		kept, err := tx.AddConsoleCertificate(ctx, row)
		if err != nil {
			return err
		}
		out.ConsoleCertificate = toConsole(kept)
		if out.Opens, err = s.consoleReach(ctx, tx, name); err != nil {
			return err
		}
		return tx.Audit(ctx, store.AuditRecord{Actor: actor(ctx), Action: "console-certificate.issue", Subject: name,
			Detail: map[string]any{"id": kept.ID, "serial": kept.Serial, "issued_to": kept.IssuedTo, "days": days,
				"sha256": hex.EncodeToString(sum[:])}})
	})
	if err != nil {
		return api.ConsoleCertificateIssued{}, err
	}
	out.PEM = certificatePEM(der) + certificatePEM(a.Certificate().Raw)
	out.Said = fmt.Sprintf("good until %s; %s", leaf.NotAfter.UTC().Format(time.DateOnly), reachSaid(out.Opens, name))
	return out, nil
}

func reachSaid(r api.ConsoleReach, name string) string {
	if len(r.Profiles) == 0 {
		return "no profile with mutual TLS lets " + name +
			" in: devices without mutual TLS ask for no certificate, and one with it wants the name, or an end of it, in its profile's " +
			"trusted_cn"
	}
	return fmt.Sprintf("the profile %s lets it in, on %d devices under management; there it wants a password as well",
		strings.Join(r.Profiles, ", "), r.Devices)
}

// consoleReach finds the profiles whose devices let a name in.
func (s *Server) consoleReach(ctx context.Context, tx *store.Tx, name string) (api.ConsoleReach, error) {
	out := api.ConsoleReach{Profiles: []string{}}
	kept, err := tx.Profiles(ctx)
	if err != nil {
		return out, err
	}
	if own := s.configured(); !slices.ContainsFunc(kept, func(p store.Profile) bool { return p.Name == own.Name }) {
		kept = append(kept, own)
	}
	var all []profile.Profile
	for _, k := range kept {
		doc, err := documentOf(k)
		if err != nil {
			return out, err
		}
		all = append(all, doc)
	}
	for _, p := range all {
		if p.TLS != profile.TLSMutual || !profile.Admits(p.TrustedCN, name) {
			continue
		}
		n, err := tx.CountMatching(ctx, store.DeviceFilter{Profile: p.Name, Lifecycle: operate.Eligible(operate.Maintain)})
		if err != nil {
			return out, err
		}
		out.Profiles, out.Devices = append(out.Profiles, p.Name), out.Devices+n
	}
	return out, nil
}

func (s *Server) revokeConsole(ctx context.Context, in *RevokeConsoleInput) (out api.ConsoleCertificateRevoked, err error) {
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		c, err := tx.RevokeConsoleCertificate(ctx, in.ID, actor(ctx), in.Body.Why)
		if errors.Is(err, store.ErrNotFound) {
			return operate.NoSuch("there is no console certificate %d; provctl console-certificate list --all shows them", in.ID)
		}
		if err != nil {
			return err
		}
		out.ConsoleCertificate = toConsole(c)
		if out.Opens, err = s.consoleReach(ctx, tx, c.Name); err != nil {
			return err
		}
		switch {
		case !c.NotAfter.After(tx.Now()):
			out.Said = "it had ended already"
		case len(out.Opens.Profiles) == 0:
			out.Said = "no profile with mutual TLS lets its name in, so no device under management takes it"
		default:
			out.Said = fmt.Sprintf("devices hear nothing of it, since firmware gets no list of revoked certificates from this server: "+
				"until %s whoever has its key comes through the TLS of %d devices (profile %s), and needs a password there. To shut it "+
				"out sooner, take its name out of trusted_cn of these profiles, or name the other consoles there, and apply them",
				c.NotAfter.UTC().Format(time.DateOnly), out.Opens.Devices, strings.Join(out.Opens.Profiles, ", "))
		}
		return tx.Audit(ctx, store.AuditRecord{Actor: actor(ctx), Action: "console-certificate.revoke", Subject: c.Name,
			Detail: map[string]any{"id": c.ID, "serial": c.Serial, "why": in.Body.Why}})
	})
	return out, err
}
