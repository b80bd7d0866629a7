package sim

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
)

// recorded are the 23 requests a third party's client sends in one activation.
func recorded(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("testdata/meshcentral-1.1.55.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Split(string(b), "=====\n")[1:]
	if len(all) != 23 {
		t.Fatalf("%d requests in the recording, want 23", len(all))
	}
	return all
}

var (
	certBlob   = regexp.MustCompile(`(<r:CertificateBlob>)[^<]+`)
	lengthLine = regexp.MustCompile(`Content-Length: \d+`)
)

// replay sends the recording over one connection. Only the certificate is made
// anew, as a live client would: it has to fit the key this device generated.
func replay(t *testing.T, d *Device) []string {
	t.Helper()
	l := sharedLab()
	c, err := tls.Dial("tcp", d.Addr().String(), &tls.Config{MinVersion: tls.VersionTLS10, CipherSuites: everySuite,
		InsecureSkipVerify:   true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return l.tls(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	in := bufio.NewReader(c)
	var answers []string
	for i, r := range recorded(t) {
		head, body, _ := strings.Cut(strings.TrimRight(r, "\n"), "\n\n")
		if i == 19 {
			der, err := base64.StdEncoding.DecodeString(field1(answers[18], "DERKey"))
			if err != nil {
				t.Fatal(err)
			}
			pub, err := x509.ParsePKCS1PublicKey(der)
			if err != nil {
				t.Fatal(err)
			}
			leaf := &x509.Certificate{SerialNumber: big.NewInt(9), Subject: pkix.Name{CommonName: "IntelAMT-2473cdff5efe"},
				NotAfter: time.Now().Add(time.Hour)}
			if der, err = x509.CreateCertificate(rand.Reader, leaf, l.issuer, pub, l.sign); err != nil {
				t.Fatal(err)
			}
			body = certBlob.ReplaceAllString(body, "${1}"+base64.StdEncoding.EncodeToString(der))
			head = lengthLine.ReplaceAllString(head, fmt.Sprintf("Content-Length: %d", len(body)))
		}
		if _, err := io.WriteString(c, strings.ReplaceAll(head, "\n", "\r\n")+"\r\n\r\n"+body); err != nil {
			t.Fatalf("request %d: %v", i+1, err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("request %d: %v", i+1, err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("request %d: %s %v\n%s", i+1, resp.Status, err, b)
		}
		answers = append(answers, string(b))
	}
	return answers
}

func TestAThirdPartysClientIsUnderstood(t *testing.T) {
	t.Parallel()
	d := startDevice(t, Config{Personality: "12", LenientDigest: true, HostName: "pc1"})
	for i, a := range replay(t, d) {
		if got := field1(a, "RelatesTo"); got != fmt.Sprint(i+1) {
			t.Errorf("answer %d relates to %q", i+1, got)
		}
		if rv := field1(a, "ReturnValue"); rv != "" && rv != "0" {
			t.Errorf("request %d: ReturnValue %s", i+1, rv)
		}
	}
	awaitState(t, d, amt.StatePost)
	s := d.Snapshot()
	if s.AdminHA1 != "cf32326797a149164fef9b550a7fad95" || !d.AcceptsMEBx("Mebx#Pass1") || !s.TLSEnabled || s.Commits != 1 ||
		s.Handshakes != 1 {
		t.Errorf("after the recording: %+v", s)
	}
}

// Without lenience the same client fails in the two ways it fails in the field,
// and does not notice, since it never reads ReturnValue.
func TestAThirdPartysClientAgainstStrictFirmware(t *testing.T) {
	t.Parallel()
	d := startDevice(t, Config{Personality: "12"})
	answers := replay(t, d)
	if got := field1(answers[5], "ReturnValue"); got != "2054" {
		t.Errorf("a hexadecimal DigestPassword: ReturnValue %s, want 2054", got)
	}
	if got := field1(answers[22], "ReturnValue"); got != "2057" {
		t.Errorf("CommitChanges without a host name: ReturnValue %s, want 2057", got)
	}
	if s := d.Snapshot(); s.State != amt.StateIn || !s.AdminDefault {
		t.Errorf("state %s, admin default %t; want setup, true", s.State, s.AdminDefault)
	}
}
