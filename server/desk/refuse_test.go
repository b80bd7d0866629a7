package desk_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/desk"
	"github.com/provisiond/provisiond/store"
)

func zipped(files map[string][]byte) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, data := range files {
		f, err := w.Create(name)
		if err == nil {
			_, err = f.Write(data)
		}
		if err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func flip(data []byte, at int) []byte {
	out := bytes.Clone(data)
	out[at] ^= 0xff
	return out
}

// TestRefused: every bad input has its code and its sentence, and the store, the
// list in use and the folder of backups are as before.
func TestRefused(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		_, good := l.leaf("Good Vendor", "prov.corp.example.com")
		l.imports(good)
		pending, err := l.desk.Request(t.Context(), "token:test", certs.RequestOptions{CommonName: "prov.branch.example.net"})
		if err != nil {
			t.Fatal(err)
		}
		ca := l.vendor.Root(certtest.Options{Name: "Some Root"})
		other := l.vendor.Plain("Other Vendor", "prov.other.example.org")
		second := l.vendor.Plain("Second Vendor", "prov.second.example.org")
		fine := other.PFX(certtest.Modern, "secret")
		plain := func(c ...*x509.Certificate) []byte { return certtest.PEM(c...) }
		file := func(data []byte) []certs.File { return []certs.File{{Name: "order", Data: data}} }
		expect := []struct {
			name      string
			files     []certs.File
			passwords []string
			code      reason.Code
			says      string
		}{
			{"the key is nowhere", file(plain(other.Chain()...)), nil, reason.CertPrivateKeyMissing, pending.ID + " for prov.branch.example.net"},
			{"somebody else's key beside it", file(append(plain(other.Chain()...), certtest.KeyPEM(second.Key)...)), nil, reason.CertKeyMismatch, "belongs to none"},
			{"two leaves with keys", []certs.File{{Name: "a.pfx", Data: fine}, {Name: "b.pfx", Data: second.PFX(certtest.Modern, "secret")}}, []string{"secret"}, reason.CertAmbiguous, "import one at a time"},
			{"a file of 60 MB", file(make([]byte, 60<<20)), nil, reason.CertInputInvalid, "too large"},
			{"a zip bomb", file(zipped(map[string][]byte{"bomb.pem": make([]byte, 48<<20)})), nil, reason.CertInputInvalid, ""},
			{"an empty zip", file(zipped(nil)), nil, reason.CertInputInvalid, ""},
			{"text", file([]byte("Dear customer, your order is ready.")), nil, reason.CertInputInvalid, "not PEM, DER, PKCS#7, PFX or zip"},
			{"an empty file", file(nil), nil, reason.CertInputInvalid, "empty"},
			{"only CA certificates", file(plain(ca.Cert)), nil, reason.CertInputInvalid, "the certificate itself is missing"},
			{"a wrong password", file(fine), []string{"wrong"}, reason.PFXPasswordWrong, "password"},
			{"no password", file(fine), nil, reason.PFXPasswordWrong, "password"},
			{"a damaged PFX", file(fine[:len(fine)*2/3]), []string{"secret"}, "", "PFX"},
			{"an elliptic-curve key", file(ca.Leaf(certtest.Options{Name: "prov.ec.example.org", Names: []string{"prov.ec.example.org"}, ECC: true}).PFX(certtest.Modern, "secret")), []string{"secret"}, reason.KeyTypeUnsupported, "RSA"},
			{"a leaf that signed itself", file(l.vendor.SelfSigned(certtest.Options{Name: "prov.self.example.org", Names: []string{"prov.self.example.org"}}).PFX(certtest.Modern, "secret")), []string{"secret"}, reason.CertSelfSigned, "signed itself"},
			{"an intermediate is missing", file(certtest.PFX(certtest.Modern, "secret", other.Key, other.Cert, other.Issuers[1])), []string{"secret"}, reason.ChainIncomplete, "Other Vendor Issuing CA"},
			{"plain SSL", file(ca.Leaf(certtest.Options{Name: "prov.ssl.example.org", Names: []string{"prov.ssl.example.org"}, NoOID: true}).PFX(certtest.Modern, "secret")), []string{"secret"}, reason.CertMissingAMTUsage, "2.16.840.1.113741.1.2.3"},
			{"the request itself", file([]byte(pending.CSR)), nil, reason.CertInputInvalid, "not yet a certificate"},
		}
		before := l.state()
		for _, e := range expect {
			var passwords []amt.Secret
			for _, p := range e.passwords {
				passwords = append(passwords, amt.NewSecret(p))
			}
			_, err := l.desk.Import(t.Context(), desk.ImportOptions{Files: e.files, Passwords: passwords, Actor: "token:test"})
			var r *reason.Error
			if !errors.As(err, &r) {
				t.Errorf("%s: %v, which has no code", e.name, err)
				continue
			}
			if e.code != "" && r.Code != e.code || !strings.Contains(r.Error(), e.says) {
				t.Errorf("%s: %s: %v; want %s and %q", e.name, r.Code, err, e.code, e.says)
			}
			if d := cmp.Diff(before, l.state()); d != "" {
				t.Fatalf("%s changed what is stored:\n%s", e.name, d)
			}
		}
	})
}

// TestForgiven: what is odd and does no harm is imported, and is said.
func TestForgiven(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	root := l.vendor.Root(certtest.Options{Name: "Odd Root"})
	middle := root.Intermediate(certtest.Options{Name: "Odd CA"})
	shape := l.vendor.GoDaddy("prov.cross.example.com")
	a, b := l.vendor.Root(certtest.Options{Name: "Cycle A"}), l.vendor.Root(certtest.Options{Name: "Cycle B"})
	cycle := a.Leaf(certtest.Options{Name: "prov.cycle.example.com", Names: []string{"prov.cycle.example.com"}})
	negative := middle.Leaf(certtest.Options{Name: "prov.negative.example.com", Names: []string{"prov.negative.example.com"},
		NegativeSerial: true}, root.Cert)
	dup := middle.Leaf(certtest.Options{Name: "prov.twice.example.com", Names: []string{"prov.twice.example.com"}}, root.Cert)
	for _, e := range []struct {
		name  string
		data  []byte
		paths int
	}{
		{"a negative serial number", negative.PFX(certtest.Modern, "secret"), 1},
		{"intermediates twice", certtest.PFX(certtest.Modern, "secret", dup.Key, dup.Cert, middle.Cert, root.Cert, middle.Cert, root.Cert), 1},
		{"a cycle of cross-signatures", certtest.PFX(certtest.Modern, "secret", cycle.Key, cycle.Cert, a.Cert, b.Cert, a.Cross(b, certtest.Options{}), b.Cross(a, certtest.Options{})), 2},
		{"a chain in the wrong order with strangers", certtest.PFX(certtest.Modern, "secret", shape.Leaf.Key, shape.OldRoot, shape.Cross, shape.NewRoot, shape.Intermediate, root.Cert, shape.Leaf.Cert), 2},
	} {
		got, err := l.desk.Import(t.Context(), func() desk.ImportOptions { o := pfx(e.data, "secret"); o.Actor = "token:test"; return o }())
		if err != nil {
			t.Errorf("%s: %v", e.name, err)
			continue
		}
		if len(got.Report.Chains) != e.paths {
			t.Errorf("%s: %d chains, want %d", e.name, len(got.Report.Chains), e.paths)
		}
	}
}

// state is everything that an import may change.
func (l *lab) state() string {
	l.tb.Helper()
	var out strings.Builder
	ctx := context.Background()
	err := l.db.Read(ctx, func(tx *store.Tx) error {
		rows, err := tx.Certificates(ctx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			fmt.Fprintf(&out, "certificate %s %s %x %v\n", r.ID, r.State, r.Chain, r.UpdatedAt)
		}
		requests, err := tx.CertificateRequests(ctx)
		if err != nil {
			return err
		}
		for _, r := range requests {
			fmt.Fprintf(&out, "request %d %s %s %v\n", r.ID, r.State, r.Certificate, r.UpdatedAt)
		}
		last, err := tx.LastEvent(ctx)
		if err != nil {
			return err
		}
		records, err := tx.AuditRecords(ctx, 0, 1000)
		version, _ := tx.Setting(ctx, "certificates.version")
		fmt.Fprintf(&out, "event %d, %d audit records, version %s\n", last, len(records), version)
		return err
	})
	if err != nil {
		l.tb.Fatal(err)
	}
	fmt.Fprintf(&out, "backups %v, in use %v\n", l.backups(), l.inUse)
	return out.String()
}
