package certs

import (
	"crypto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/typed"
)

// casesNow is a day on which the certificates of testdata/cases are good.
var casesNow = time.Date(2026, 12, 2, 12, 0, 0, 0, time.UTC)

// fieldCase is a file of testdata/cases/NAME, or several separated by blanks.
func fieldCase(t testing.TB, names string) (files []File) {
	t.Helper()
	for name := range strings.FieldsSeq(names) {
		name = strings.Replace(name, "P/", "00-pki/", 1)
		data, err := os.ReadFile(filepath.Join("testdata", "cases", name))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, File{filepath.Base(name), data})
	}
	return files
}

func casePassword(t testing.TB, name string) amt.Secret {
	t.Helper()
	s, err := typed.Password(fieldCase(t, name)[0].Data)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return secret(s)
}

func importCase(t testing.TB, files []File, passwords ...amt.Secret) (*Provisioning, *Report, error) {
	t.Helper()
	b, err := ParseBundle(t.Context(), files, passwords...)
	if err != nil {
		return nil, nil, err
	}
	return Join(t.Context(), b, JoinOptions{Now: casesNow})
}

// TestFilesFromTheField is what people bring: each is imported with its chain up
// to the vendor's root.
func TestFilesFromTheField(t *testing.T) {
	t.Parallel()
	const pass = "P/pfx.pass"
	for _, c := range []struct{ files, password, says string }{
		{"P/vendor.pfx", pass, ""},
		{"01-ber-pfx/bouncycastle.p12", pass, ""},
		{"P/leaf.key 02-pem-joined/leaf-int-joined.pem", "", ""},
		{"P/leaf.key 02-pem-joined/int-root-joined.pem", "", ""},
		{"P/leaf.key 02-pem-joined/all-joined.pem", "", ""},
		{"02-pem-joined/key-leaf-joined.pem", "", ""},
		{"03-trailing-bytes/crlf.pfx", pass, ""},
		{"03-trailing-bytes/ctrl-z.pfx", pass, ""},
		{"03-trailing-bytes/zeros.pfx", pass, ""},
		{"03-trailing-bytes/leaf-crlf.cer P/leaf.key P/int.pem P/root.pem", "", ""},
		{"03-trailing-bytes/chain-crlf.p7b P/leaf.key", "", ""},
		{"03-trailing-bytes/certutil-encode.txt", pass, ""},
		{"03-trailing-bytes/keyvault-base64.txt", pass, ""},
		{"04-encrypted-key/key-encrypted.pem P/chain.pem", pass, ""},
		{"04-encrypted-key/key-encrypted.p8 P/chain.pem", pass, ""},
		{"04-encrypted-key/all.pem", pass, ""},
		{"04-encrypted-key/key-legacy.pem P/chain.pem", pass, ""},
		{"05-half-pfx/certs-only.pfx P/leaf.key", pass, ""},
		{"05-half-pfx/key-only.pfx P/chain.pem", pass, ""},
		{"05-half-pfx/key-only.pfx 05-half-pfx/certs-only.pfx", pass, ""},
		{"05-half-pfx/no-chain.pfx P/int.pem P/root.pem", pass, ""},
		{"05-half-pfx/no-root.pfx P/root.pem", pass, ""},
		{"06-two-keys/store.p12", pass, "aside"},
		{"07-vendor-zip/vendor.zip", "", ""},
		{"P/vendor.pfx", "08-password-file/utf8-bom.pass", ""},
		{"P/vendor.pfx", "08-password-file/utf16le.pass", ""},
		{"P/vendor.pfx", "08-password-file/utf16be.pass", ""},
		{"P/vendor.pfx", "08-password-file/two-line-ends.pass", ""},
		{"08-password-file/umlaut-utf8.pfx", "08-password-file/umlaut-utf8.pass", ""},
		{"08-password-file/umlaut-latin1.pfx", "08-password-file/umlaut-latin1.pass", ""},
		{"08-password-file/umlaut-latin1.pfx", "08-password-file/umlaut-utf8.pass", ""},
		{"11-wrong-certificate/upper.pem P/leaf.key P/int.pem P/root.pem", "", ""},
		{"13-pfx-algorithms/aes-sha512.pfx", pass, ""},
		{"13-pfx-algorithms/certs-not-encrypted.pfx", pass, ""},
		{"13-pfx-algorithms/des-md5.pfx", pass, ""},
		{"13-pfx-algorithms/des3-sha1.pfx", pass, ""},
		{"13-pfx-algorithms/empty-password.pfx", pass, ""},
		{"13-pfx-algorithms/empty-password.pfx", "", ""},
		{"13-pfx-algorithms/key-not-encrypted.pfx", pass, ""},
		{"13-pfx-algorithms/mac-sha384.pfx", pass, ""},
		{"13-pfx-algorithms/no-mac.pfx", pass, "no check sum"},
		{"13-pfx-algorithms/one-round.pfx", pass, ""},
		{"13-pfx-algorithms/pbes2-3des.pfx", pass, ""},
		{"13-pfx-algorithms/rc2-40.pfx", pass, ""},
		{"13-pfx-algorithms/rc4.pfx", pass, ""},
		{"14-pkcs7-labels/adcs-certificate.p7b P/leaf.key", "", ""},
		{"14-pkcs7-labels/bare-base64.p7b P/leaf.key", "", ""},
		{"14-pkcs7-labels/certificate-chain.p7b P/leaf.key", "", ""},
		{"14-pkcs7-labels/signed-data.p7b P/leaf.key", "", ""},
		{"14-pkcs7-labels/trusted.pem P/leaf.key P/int.pem P/root.pem", "", ""},
		{"14-pkcs7-labels/x509.pem P/leaf.key P/int.pem P/root.pem", "", ""},
		{"15-root-reissued/two-roots.pfx", pass, ""},
		{"20-renewed-same-key/both.pfx", pass, "aside"},
		{"20-renewed-same-key/old-expired.pem 20-renewed-same-key/renewed.pem P/leaf.key P/int.pem P/root.pem", "", "aside"},
	} {
		t.Run(c.files+" "+c.password, func(t *testing.T) {
			t.Parallel()
			var passwords []amt.Secret
			if c.password != "" {
				passwords = append(passwords, casePassword(t, c.password))
			}
			p, r, err := importCase(t, fieldCase(t, c.files), passwords...)
			if err != nil {
				t.Fatal(err)
			}
			if !p.Usable() || len(p.Paths) == 0 ||
				!slices.ContainsFunc(p.Paths, func(path Path) bool { return nameOf(path.Root()) == "Case Vendor Root" }) ||
				p.Validity(casesNow) != nil || !strings.HasSuffix(strings.ToLower(p.Name), ".corp.example.com") {
				t.Errorf("%s with %d chains, findings %v", p.Name, len(p.Paths), p.Findings)
			}
			if want := map[bool]int{true: 2, false: 1}[strings.HasPrefix(c.files, "15-") ||
				strings.HasPrefix(c.files, "07-")]; len(p.Paths) != want {
				t.Errorf("%d chains", len(p.Paths))
			}
			said := ""
			for _, f := range p.Findings {
				said += f.Detail + "\n"
			}
			if len(r.LeftAside) > 0 {
				said += "aside: " + strings.Join(r.LeftAside, ", ")
			}
			if c.says != "" && !strings.Contains(said, c.says) || c.says != "aside" && len(r.LeftAside) > 0 {
				t.Errorf("want %q, said %s", c.says, said)
			}
		})
	}
}

// TestFilesFromTheFieldRefused is what cannot be imported, and what is said.
func TestFilesFromTheFieldRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		files, password string
		code            reason.Code
		says            []string
	}{
		{"05-half-pfx/no-chain.pfx", "P/pfx.pass", reason.ChainIncomplete, []string{"Case Vendor Issuing CA", "missing"}},
		{"05-half-pfx/no-root.pfx", "P/pfx.pass", reason.ChainIncomplete, []string{"Case Vendor Root"}},
		{"05-half-pfx/ca-key-instead.pfx", "P/pfx.pass", reason.CertMissingServerAuth, []string{"serverAuth"}},
		{"05-half-pfx/certs-only.pfx", "P/pfx.pass", reason.CertPrivateKeyMissing, []string{"provisionserver.corp.example.com"}},
		{"05-half-pfx/key-only.pfx", "P/pfx.pass", reason.CertInputInvalid, []string{"key-only.pfx", "no certificate"}},
		{"06-two-keys/store.jks", "P/pfx.pass", reason.CertInputInvalid, []string{"store.jks", "keytool -importkeystore"}},
		{"P/vendor.pfx", "08-password-file/trailing-space.pass", reason.PFXPasswordWrong, []string{"vendor.pfx", "blank"}},
		{"P/vendor.pfx", "08-password-file/umlaut-utf8.pass", reason.PFXPasswordWrong, []string{"Windows-1252"}},
		{"04-encrypted-key/key-encrypted.pem P/chain.pem", "", reason.PFXPasswordWrong, []string{"key-encrypted.pem", "needs a password"}},
		{"04-encrypted-key/key-legacy.pem P/chain.pem", "08-password-file/umlaut-utf8.pass", reason.PFXPasswordWrong, []string{"key-legacy.pem", "does not open"}},
		{"11-wrong-certificate/plain.pem P/leaf.key P/int.pem P/root.pem", "", reason.CertMissingAMTUsage, []string{"2.16.840.1.113741.1.2.3"}},
		{"11-wrong-certificate/wild.pem P/leaf.key P/int.pem P/root.pem", "", reason.CertMissingAMTUsage, nil},
		{"11-wrong-certificate/anyeku.pem P/leaf.key P/int.pem P/root.pem", "", reason.CertMissingServerAuth, nil},
		{"07-vendor-zip/vendor.zip 13-pfx-algorithms/rc4.pfx", "", reason.PFXPasswordWrong, []string{"rc4.pfx"}},
	} {
		t.Run(c.files+" "+c.password, func(t *testing.T) {
			t.Parallel()
			var passwords []amt.Secret
			if c.password != "" {
				passwords = append(passwords, casePassword(t, c.password))
			}
			_, r, err := importCase(t, fieldCase(t, c.files), passwords...)
			if err == nil {
				err = r.Err()
			}
			if codeOf(err) != c.code {
				t.Fatalf("want %s, got %v", c.code, err)
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("want %q in %q", s, err)
				}
			}
		})
	}
}

// TestAnAnswerWithoutKeyMeetsItsRequest: a CA's .p12 without key is joined with
// the key that waits here.
func TestAnAnswerWithoutKeyMeetsItsRequest(t *testing.T) {
	t.Parallel()
	key, ok := parseKey(pemBytes(t, "P/leaf.key"))
	if !ok {
		t.Fatal("the key of the cases cannot be read")
	}
	b, err := ParseBundle(t.Context(), fieldCase(t, "05-half-pfx/certs-only.pfx"), casePassword(t, "P/pfx.pass"))
	if err != nil {
		t.Fatal(err)
	}
	p, r, err := Join(t.Context(), b, JoinOptions{Now: casesNow, Pending: []Pending{{ID: "waiting", Key: crypto.Signer(key)}}})
	if err != nil || !p.Usable() || r.Request != "waiting" {
		t.Errorf("%v, %v", r, err)
	}
}

func pemBytes(t testing.TB, name string) []byte {
	t.Helper()
	_, lines := divide(strings.Split(string(fieldCase(t, name)[0].Data), "-----")[2])
	der, err := unarmour(lines, true)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestUnfitLeavesHaveTheirFinding: what firmware makes of a leaf that is a CA, and
// of one that may not sign.
func TestUnfitLeavesHaveTheirFinding(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		severity Severity
		says     string
	}{
		"isca.pem": {SeverityError, "itself a CA"}, "no-digital-signature.pem": {SeverityWarn, "digitalSignature"},
	} {
		p, _, err := importCase(t, fieldCase(t, "11-wrong-certificate/"+name+" P/leaf.key P/int.pem P/root.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(p.Findings, func(f Finding) bool {
			return f.Severity == c.severity &&
				strings.Contains(f.Detail, c.says)
		}) {
			t.Errorf("%s: %v", name, p.Findings)
		}
	}
}

// TestFindingsFollowTheClock: what was said of a date goes when the date has come.
func TestFindingsFollowTheClock(t *testing.T) {
	t.Parallel()
	p, _, err := importCase(t, fieldCase(t, "P/vendor.pfx"), casePassword(t, "P/pfx.pass"))
	if err != nil {
		t.Fatal(err)
	}
	early, late := p.Leaf.NotBefore.Add(-2*time.Hour), p.Leaf.NotAfter.AddDate(0, 0, 7)
	for _, c := range []struct {
		at      time.Time
		code    reason.Code
		serving bool
	}{{early, reason.CertNotYetValid, false}, {casesNow, "", true}, {late, reason.CertExpired, false}} {
		var dated []Finding
		for _, f := range p.FindingsAt(c.at) {
			if f.Severity == SeverityWarn {
				dated = append(dated, f)
			}
		}
		if (len(dated) > 0) != (c.code != "") || c.code != "" && dated[0].Code != c.code || p.Serving(c.at) != c.serving {
			t.Errorf("at %s: %v", c.at, dated)
		}
		if c.code == reason.CertNotYetValid && (!strings.Contains(dated[0].Detail, early.Format(time.RFC3339)) ||
			!strings.Contains(dated[0].Detail, p.Leaf.NotBefore.Format(time.RFC3339)) || !strings.Contains(dated[0].Detail, "clock")) {
			t.Errorf("want the clock and the hour: %s", dated[0].Detail)
		}
	}
}
