package api

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
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// Other consoles come through the mutual TLS of our devices with a client
// certificate of the device CA. Their keys are made where they are used: this
// server sees a request. What such a certificate opens is TLS and nothing more;
// the device still wants a password.

// MostConsoleDays bounds a console certificate. Firmware hears of no revocation
// from here, so that its end is what ends it.
const MostConsoleDays = 397

// DeviceCA is the authority that devices hold as a root for mutual TLS, and that
// signs what they show.
type DeviceCA struct {
	Name     string    `json:"name"`
	SHA256   string    `json:"sha256" doc:"fingerprint of the certificate, hexadecimal"`
	NotAfter time.Time `json:"not_after"`
	PEM      string    `json:"pem"`
	Zones    []string  `json:"zones,omitempty" doc:"the name constraint it carries; none: it may sign for any name"`
	Server   string    `json:"server" doc:"the name under which this server itself logs in at devices"`
}

// ConsoleCertificate is a client certificate that another console got.
type ConsoleCertificate struct {
	ID        int64      `json:"id"`
	Name      string     `json:"name"`
	Serial    string     `json:"serial" doc:"hexadecimal"`
	SHA256    string     `json:"sha256"`
	IssuedTo  string     `json:"issued_to" doc:"who has it, in the words of who asked for it"`
	CreatedBy string     `json:"created_by"`
	CreatedAt *time.Time `json:"created_at"`
	NotAfter  *time.Time `json:"not_after"`
	RevokedAt *time.Time `json:"revoked_at"`
	RevokedBy string     `json:"revoked_by"`
	Why       string     `json:"why" doc:"of the revocation"`
}

// ConsoleCertificateList is those issued, newest first.
type ConsoleCertificateList struct {
	Certificates []ConsoleCertificate `json:"certificates"`
}

// NewConsoleCertificate asks for one.
type NewConsoleCertificate struct {
	Name     string `json:"name" maxLength:"63" doc:"the DNS name of the console, which a device compares with its trusted names"`
	CSR      string `json:"csr" maxLength:"20000" doc:"a PKCS#10 request, PEM, of whoever has the key; its key is taken and nothing else"`
	Days     int    `json:"days,omitempty" minimum:"0" maximum:"397" doc:"how long it is good for; 0 means 90"`
	IssuedTo string `json:"issued_to,omitempty" maxLength:"200" doc:"who has it"`
}

// ConsoleCertificateIssued is the certificate and what it opens.
type ConsoleCertificateIssued struct {
	ConsoleCertificate
	PEM   string       `json:"pem" doc:"the certificate and the device CA behind it: a device wants both"`
	Opens ConsoleReach `json:"opens"`
	Said  string       `json:"said"`
}

// ConsoleCertificateRevoked is the certificate and what it still opens.
type ConsoleCertificateRevoked struct {
	ConsoleCertificate
	Opens ConsoleReach `json:"opens"`
	Said  string       `json:"said"`
}

// ConsoleReach is where a name comes through.
type ConsoleReach struct {
	Profiles []string `json:"profiles" doc:"profiles with mutual TLS that let the name in"`
	Devices  int      `json:"devices" doc:"devices under management with these"`
}

type consoleQuery struct {
	All bool `query:"all" doc:"those that have ended too"`
}

// RevokeConsoleInput names a certificate and says why.
type RevokeConsoleInput struct {
	ID   int64 `path:"id" minimum:"1"`
	Body RevokeConsole
}

// RevokeConsole says why.
type RevokeConsole struct {
	Why string `json:"why,omitempty" maxLength:"200"`
}

func (s *Server) consoleRoutes(api huma.API) {
	tags := []string{"certificates"}
	add(s, api, huma.Operation{OperationID: "get-device-ca", Method: http.MethodGet, Path: "/api/v1/device-ca", Summary: "The authority of the devices' certificates, for other tools", Tags: tags}, s.getDeviceCA)
	add(s, api, huma.Operation{OperationID: "list-console-certificates", Method: http.MethodGet, Path: "/api/v1/console-certificates", Summary: "Client certificates that other consoles got", Tags: tags}, s.listConsoles)
	add(s, api, huma.Operation{OperationID: "issue-console-certificate", Method: http.MethodPost, Path: "/api/v1/console-certificates", DefaultStatus: http.StatusCreated, Summary: "Issue a client certificate for another console",
		Description: "It opens the mutual TLS of devices that let its name in; to do anything there, the console needs a password as well.", Tags: tags}, s.issueConsole)
	add(s, api, huma.Operation{OperationID: "revoke-console-certificate", Method: http.MethodPost, Path: "/api/v1/console-certificates/{id}/revoke", Summary: "Note that a console's certificate is not to be used any more",
		Description: "Devices hear nothing of it: firmware gets no list of revoked certificates from this server. The answer says which still take it, and what shuts it out.", Tags: tags}, s.revokeConsole)
}

func (s *Server) authority() (*certs.Authority, error) {
	if s.Authority == nil {
		return nil, problem(http.StatusServiceUnavailable, CodeUnavailable, "this server has no device CA")
	}
	return s.Authority, nil
}

func (s *Server) getDeviceCA(context.Context, *none) (DeviceCA, error) {
	a, err := s.authority()
	if err != nil {
		return DeviceCA{}, err
	}
	c := a.Certificate()
	return DeviceCA{Name: c.Subject.CommonName, SHA256: fingerprint(c.Raw), NotAfter: c.NotAfter.UTC(), PEM: certificatePEM(c.Raw), Zones: c.PermittedDNSDomains, Server: a.ConsoleName()}, nil
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

func certificatePEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func toConsole(c store.ConsoleCertificate) ConsoleCertificate {
	return ConsoleCertificate{
		ID: c.ID, Name: clean(c.Name), Serial: c.Serial, SHA256: hex.EncodeToString(c.Fingerprint), IssuedTo: clean(c.IssuedTo),
		CreatedBy: clean(c.CreatedBy), CreatedAt: timeOrNull(c.CreatedAt), NotAfter: timeOrNull(c.NotAfter), RevokedAt: timeOrNull(c.RevokedAt), RevokedBy: clean(c.RevokedBy), Why: clean(c.Why),
	}
}

func (s *Server) listConsoles(ctx context.Context, in *consoleQuery) (ConsoleCertificateList, error) {
	out := ConsoleCertificateList{Certificates: []ConsoleCertificate{}}
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

func (s *Server) issueConsole(ctx context.Context, in *bodyInput[NewConsoleCertificate]) (out ConsoleCertificateIssued, err error) {
	a, err := s.authority()
	if err != nil {
		return out, err
	}
	b := in.Body
	name := strings.ToLower(strings.TrimSuffix(b.Name, "."))
	switch {
	case !consoleDNS.MatchString(name):
		return out, invalid("body.name", "%q is not the whole DNS name of a console, such as console.corp.example.com", clip(b.Name, 64))
	case profile.Admits([]string{certs.ConsoleZone}, name):
		return out, invalid("body.name", "names in %s are of servers like this one; choose one of your own", certs.ConsoleZone)
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
	row := store.ConsoleCertificate{Serial: leaf.SerialNumber.Text(16), Name: name, Fingerprint: sum[:], IssuedTo: b.IssuedTo, CreatedBy: actor(ctx), NotAfter: leaf.NotAfter}
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
			Detail: map[string]any{"id": kept.ID, "serial": kept.Serial, "issued_to": kept.IssuedTo, "days": days, "sha256": hex.EncodeToString(sum[:])}})
	})
	if err != nil {
		return ConsoleCertificateIssued{}, err
	}
	out.PEM = certificatePEM(der) + certificatePEM(a.Certificate().Raw)
	out.Said = fmt.Sprintf("good until %s; %s", leaf.NotAfter.UTC().Format(time.DateOnly), out.Opens.said(name))
	return out, nil
}

func (r ConsoleReach) said(name string) string {
	if len(r.Profiles) == 0 {
		return "no profile with mutual TLS lets " + name + " in: devices without mutual TLS ask for no certificate, and one with it wants the name, or an end of it, in its profile's trusted_cn"
	}
	return fmt.Sprintf("the profile %s lets it in, on %d devices under management; there it wants a password as well", strings.Join(r.Profiles, ", "), r.Devices)
}

// consoleReach finds the profiles whose devices let a name in.
func (s *Server) consoleReach(ctx context.Context, tx *store.Tx, name string) (ConsoleReach, error) {
	out := ConsoleReach{Profiles: []string{}}
	kept, err := tx.Profiles(ctx)
	if err != nil {
		return out, err
	}
	var all []profile.Profile
	for _, k := range kept {
		v, err := profileView(k)
		if err != nil {
			return out, err
		}
		all = append(all, v.Profile)
	}
	if own := s.configured(); !slices.ContainsFunc(all, func(p profile.Profile) bool { return p.Name == own.Name }) {
		all = append(all, own.Profile)
	}
	for _, p := range all {
		if p.TLS != profile.TLSMutual || !profile.Admits(p.TrustedCN, name) {
			continue
		}
		n, err := tx.CountMatching(ctx, store.DeviceFilter{Profile: p.Name, Lifecycle: Eligible("maintain")})
		if err != nil {
			return out, err
		}
		out.Profiles, out.Devices = append(out.Profiles, p.Name), out.Devices+n
	}
	return out, nil
}

func (s *Server) revokeConsole(ctx context.Context, in *RevokeConsoleInput) (out ConsoleCertificateRevoked, err error) {
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		c, err := tx.RevokeConsoleCertificate(ctx, in.ID, actor(ctx), in.Body.Why)
		if errors.Is(err, store.ErrNotFound) {
			return notFound("there is no console certificate %d; provctl console-certificate list --all shows them", in.ID)
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
			out.Said = fmt.Sprintf("devices hear nothing of it, since firmware gets no list of revoked certificates from this server: until %s whoever has its key comes through the TLS of %d devices (profile %s), and needs a password there. To shut it out sooner, take its name out of trusted_cn of these profiles, or name the other consoles there, and apply them",
				c.NotAfter.UTC().Format(time.DateOnly), out.Opens.Devices, strings.Join(out.Opens.Profiles, ", "))
		}
		return tx.Audit(ctx, store.AuditRecord{Actor: actor(ctx), Action: "console-certificate.revoke", Subject: c.Name, Detail: map[string]any{"id": c.ID, "serial": c.Serial, "why": in.Body.Why}})
	})
	return out, err
}

// DeviceCA reads the authority of the devices' certificates.
func (c *Client) DeviceCA(ctx context.Context) (DeviceCA, error) {
	return call[DeviceCA](ctx, c, http.MethodGet, "/api/v1/device-ca", nil, nil)
}

// ConsoleCertificates lists client certificates of other consoles.
func (c *Client) ConsoleCertificates(ctx context.Context, all bool) (ConsoleCertificateList, error) {
	return call[ConsoleCertificateList](ctx, c, http.MethodGet, "/api/v1/console-certificates", values(consoleQuery{all}), nil)
}

// IssueConsoleCertificate issues one.
func (c *Client) IssueConsoleCertificate(ctx context.Context, n NewConsoleCertificate) (ConsoleCertificateIssued, error) {
	return call[ConsoleCertificateIssued](ctx, c, http.MethodPost, "/api/v1/console-certificates", nil, n)
}

// RevokeConsoleCertificate notes that one is not to be used any more.
func (c *Client) RevokeConsoleCertificate(ctx context.Context, id int64, why string) (ConsoleCertificateRevoked, error) {
	return call[ConsoleCertificateRevoked](ctx, c, http.MethodPost, fmt.Sprintf("/api/v1/console-certificates/%d/revoke", id), nil, RevokeConsole{Why: why})
}
