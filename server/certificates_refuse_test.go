package server

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// noCerts is a PKCS#7 in DER that holds none: openssl crl2pkcs7 -nocrl over nothing.
const noCerts = "MCcGCSqGSIb3DQEHAqAaMBgCAQExADALBgkqhkiG9w0BBwGgAKEAMQA="

// stored is everything that an import may change: rows, the desk's version, the
// number of events and audit records, the files of backups.
func (l *lab) stored() string {
	l.t.Helper()
	var out strings.Builder
	ctx := context.Background()
	err := l.s.DB.Read(ctx, func(tx *store.Tx) error {
		rows, err := tx.Certificates(ctx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			note, _ := tx.Setting(ctx, "certificate."+r.ID)
			fmt.Fprintf(&out, "certificate %s %s %x %v %s\n", r.ID, r.State, r.Chain, r.UpdatedAt, note)
		}
		requests, err := tx.CertificateRequests(ctx)
		if err != nil {
			return err
		}
		for _, r := range requests {
			fmt.Fprintf(&out, "request %d %s %s %v\n", r.ID, r.State, r.Certificate, r.UpdatedAt)
		}
		events, err := tx.Events(ctx, store.EventFilter{Limit: 1000})
		if err != nil {
			return err
		}
		for _, e := range events {
			if strings.HasPrefix(e.Name, "certificate") {
				fmt.Fprintf(&out, "event %d %s\n", e.ID, e.Name)
			}
		}
		records, err := tx.AuditRecords(ctx, 0, 1000)
		version, _ := tx.Setting(ctx, "certificates.version")
		fmt.Fprintf(&out, "%d audit records, version %s\n", len(records), version)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(l.o.DataDir, "backups", "*"))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			l.t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s %x\n", f, data)
	}
	for _, p := range l.s.Trust.All() {
		fmt.Fprintf(&out, "in use %s\n", p.ID)
	}
	return out.String()
}

// TestBadInput: each of the inputs that people and vendors get wrong is refused
// over the API with its code and its sentence, and what is stored, on the disk
// and in use is as before.
func TestBadInput(t *testing.T) {
	t.Parallel()
	vendor := certtest.NewLab(time.Now()) // one for both engines: keys take longest
	forEachEngine(t, bare, func(t *testing.T, l *lab) {
		ctx := t.Context()
		l.imports(false, vendor.Plain("Good Vendor", "prov.corp.example.com").PFX(certtest.Modern, "secret"))
		pending, err := l.api.RequestCertificate(ctx, api.NewCertificateRequest{CommonName: "prov.branch.example.net"})
		if err != nil {
			t.Fatal(err)
		}
		ca := vendor.Root(certtest.Options{Name: "Some Root"})
		other := vendor.Plain("Other Vendor", "prov.other.example.org")
		second := vendor.Plain("Second Vendor", "prov.second.example.org")
		fine := other.PFX(certtest.Modern, "secret")
		named := func(name string, o certtest.Options) []byte {
			o.Name, o.Names = name, []string{name}
			return ca.Leaf(o).PFX(certtest.Modern, "secret")
		}
		empty, err := base64.StdEncoding.DecodeString(noCerts)
		if err != nil {
			t.Fatal(err)
		}
		var bomb bytes.Buffer
		w := zip.NewWriter(&bomb)
		f, err := w.Create("bomb.pem")
		if err == nil {
			_, err = f.Write(bytes.Repeat([]byte("-----BEGIN CERTIFICATE-----\n"), 2<<20))
		}
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		damaged := bytes.Clone(fine)
		damaged[len(damaged)/2] ^= 0xff
		ringA, ringB := vendor.Root(certtest.Options{Name: "Ring A"}), vendor.Root(certtest.Options{Name: "Ring B"})
		ring := ringA.Leaf(certtest.Options{Name: "prov.ring.example.org", Names: []string{"prov.ring.example.org"}})

		for _, c := range []struct {
			name     string
			files    [][]byte
			password string
			code     string
			says     string
		}{
			{"a certificate whose key is nowhere", [][]byte{certtest.PEM(other.Chain()...)}, "", "cert_private_key_missing", pending.ID + " for prov.branch.example.net"},
			{"somebody else's leaf beside a key", [][]byte{certtest.PEM(other.Chain()...), certtest.KeyPEM(second.Key)}, "", "cert_key_mismatch", "prov.other.example.org"},
			{"two leaves in one PFX", [][]byte{certtest.TwoKeys(other, second)}, "", "cert_ambiguous", "export one certificate a file"},
			{"a zip bomb", [][]byte{bomb.Bytes()}, "", "cert_input_invalid", "a zip bomb"},
			{"5 MB in one file", [][]byte{make([]byte, 5<<20)}, "", "cert_input_invalid", "too large: at most 4 MB a file"},
			{"17 MB together", [][]byte{make([]byte, 4<<20), make([]byte, 4<<20), make([]byte, 4<<20), make([]byte, 4<<20), make([]byte, 1<<20)}, "", "cert_input_invalid", "16 MB together"},
			{"PKCS#7 without certificates", [][]byte{empty}, "", "cert_input_invalid", "no certificate"},
			{"a PFX with a wrong password", [][]byte{fine}, "wrong", "pfx_password_wrong", "password"},
			{"a PFX with no password given", [][]byte{fine}, "", "pfx_password_wrong", "password"},
			{"a PFX cut short", [][]byte{fine[:len(fine)*2/3]}, "secret", "pfx_corrupt", "cut short"},
			{"a PFX with a byte changed", [][]byte{damaged}, "secret", "", "PFX"},
			{"an elliptic-curve key", [][]byte{named("prov.ec.example.org", certtest.Options{ECC: true})}, "secret", "key_type_unsupported", "order it again over an RSA key"},
			{"a leaf that signed itself", [][]byte{vendor.SelfSigned(certtest.Options{Name: "prov.self.example.org", Names: []string{"prov.self.example.org"}}).PFX(certtest.Modern, "secret")}, "secret", "cert_self_signed", "signed itself"},
			{"a cycle of cross-signatures without a root", [][]byte{certtest.PFX(certtest.Modern, "secret", ring.Key, ring.Cert, ringB.Cross(ringA, certtest.Options{}), ringA.Cross(ringB, certtest.Options{}))}, "secret", "chain_incomplete", "in a circle that no root ends"},
			{"a missing intermediate", [][]byte{certtest.PFX(certtest.Modern, "secret", other.Key, other.Cert, other.Issuers[1])}, "secret", "chain_incomplete", `"Other Vendor Issuing CA"`},
			{"plain TLS", [][]byte{named("prov.ssl.example.org", certtest.Options{NoOID: true})}, "secret", "cert_missing_amt_usage", "2.16.840.1.113741.1.2.3"},
			{"no serverAuth", [][]byte{named("prov.srv.example.org", certtest.Options{NoServerAuth: true})}, "secret", "cert_missing_server_auth", "serverAuth"},
			{"the order instead of the answer", [][]byte{[]byte(pending.CSR)}, "", "cert_input_invalid", "not yet a certificate"},
			{"a letter", [][]byte{[]byte("Dear customer, your order is ready.")}, "", "cert_input_invalid", "not PEM, DER, PKCS#7, PFX or zip"},
			{"only CA certificates", [][]byte{certtest.PEM(ca.Cert)}, "", "cert_input_invalid", "the certificate itself is missing"},
		} {
			before := l.stored()
			in := api.NewImport{}
			for _, data := range c.files {
				in.Files = append(in.Files, api.FileBytes{Name: "order", Data: data})
			}
			if c.password != "" {
				in.Passwords = []string{c.password}
			}
			_, err := l.api.ImportCertificate(ctx, in)
			var p *api.Problem
			if !errors.As(err, &p) {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			if c.code != "" && p.Code != c.code || !strings.Contains(p.Detail, c.says) || p.Status != 409 {
				t.Errorf("%s: %d %s: %s; want %s and %q", c.name, p.Status, p.Code, p.Detail, c.code, c.says)
			}
			if d := cmp.Diff(before, l.stored()); d != "" {
				t.Fatalf("%s changed what is stored:\n%s", c.name, d)
			}
		}

		// 60 MB do not even reach the desk.
		before := l.stored()
		_, err = l.api.ImportCertificate(ctx, api.NewImport{Files: []api.FileBytes{{Name: "big", Data: make([]byte, 60<<20)}}})
		var p *api.Problem
		if !errors.As(err, &p) || p.Status != 413 || p.Code != "cert_input_invalid" ||
			!strings.Contains(p.Detail, "at most 4 MB a file and 16 MB together") {
			t.Errorf("60 MB: %v", err)
		}
		if d := cmp.Diff(before, l.stored()); d != "" {
			t.Errorf("60 MB changed what is stored:\n%s", d)
		}
	})
}

// TestOddInput: what is odd and does no harm is imported, and is said.
func TestOddInput(t *testing.T) {
	t.Parallel()
	vendor := certtest.NewLab(time.Now())
	forEachEngine(t, bare, func(t *testing.T, l *lab) {
		root := vendor.Root(certtest.Options{Name: "Odd Root"})
		middle := root.Intermediate(certtest.Options{Name: "Odd CA"})
		leaf := func(name string, o certtest.Options) certtest.Leaf {
			o.Name, o.Names = name, []string{name}
			return middle.Leaf(o, root.Cert)
		}
		negative := leaf("prov.negative.example.com", certtest.Options{NegativeSerial: true})
		twice := leaf("prov.twice.example.com", certtest.Options{})
		a, b := vendor.Root(certtest.Options{Name: "Cycle A"}), vendor.Root(certtest.Options{Name: "Cycle B"})
		cycle := a.Leaf(certtest.Options{Name: "prov.cycle.example.com", Names: []string{"prov.cycle.example.com"}})
		var again []*x509.Certificate
		for range 3 {
			again = append(again, twice.Chain()...)
		}
		for _, c := range []struct {
			name  string
			pfx   []byte
			paths int
			says  string
		}{
			{"a negative serial number", negative.PFX(certtest.Modern, "secret"), 1, "warn cert_input_invalid prov.negative.example.com has a negative serial number"},
			{"duplicated intermediates", certtest.PFX(certtest.Modern, "secret", twice.Key, again...), 1, "ignored: certificates that were given before ("},
			{"a cycle of cross-signatures", certtest.PFX(certtest.Modern, "secret", cycle.Key, cycle.Cert, a.Cert, b.Cert, a.Cross(b, certtest.Options{}), b.Cross(a, certtest.Options{})), 2, "info cert_input_invalid some of the issuers of prov.cycle.example.com certify each other in a circle"},
		} {
			r := l.imports(false, c.pfx)
			said := ""
			for _, f := range r.Report.Findings {
				said += fmt.Sprintf("%s %s %s\n", f.Severity, f.Code, f.Detail)
			}
			for _, i := range r.Report.Ignored {
				said += "ignored: " + i + "\n"
			}
			if len(r.Report.Chains) != c.paths || !strings.Contains(said, c.says) {
				t.Errorf("%s: %d chains, and it is said:\n%s", c.name, len(r.Report.Chains), said)
			}
		}
	})
}

// TestABackupThatIsNotThere: what is asked of a certificate that nobody imported is
// answered, and nothing panics.
func TestABackupThatIsNotThere(t *testing.T) {
	t.Parallel()
	forEachEngine(t, bare, func(t *testing.T, l *lab) {
		var p *api.Problem
		if _, err := l.api.ConfirmBackup(t.Context(), "0123456789abcdef"); !errors.As(err, &p) || p.Code != api.CodeNotFound {
			t.Errorf("confirmed: %v", err)
		}
		if _, err := l.api.VerifyBackup(t.Context(), "0123456789abcdef",
			api.BackupProof{Data: []byte("x"), Passphrase: "AAAAA-AAAAA-AAAAA-AAAAA-AAAAA"}); !errors.As(err, &p) ||
			p.Code != api.CodeNotFound {
			t.Errorf("verified: %v", err)
		}
	})
}
