package session

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/pem"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
)

// Handshakes with somebody else's TLS: OpenSSL as the device, in the settings
// old firmware is known for.
func TestHandshakesWithOpenSSL(t *testing.T) {
	t.Parallel()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal("these tests need the openssl command line tool: apt-get install openssl")
	}
	dir := t.TempDir()
	write := func(name string, o certtest.Options) string {
		dev := testLab().Root(certtest.Options{Name: "Device Root"}).Leaf(o)
		file := filepath.Join(dir, name)
		text := append(certtest.PEM(dev.Cert), certtest.KeyPEM(dev.Key)...)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	plain := write("plain.pem", certtest.Options{Name: "Intel(R) AMT device"})
	old := write("old.pem", certtest.Options{Name: "old", Bits: 1024, SHA1: true})
	ec := write("ec.pem", certtest.Options{Name: "ec", ECC: true})

	// What the device knows of roots: ours, or none of ours.
	roots := func(name string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	// OpenSSL asks for clientAuth, which firmware does not.
	middle := testLab().Root(certtest.Options{Name: "OpenSSL Lab Root"})
	leaf := middle.Leaf(certtest.Options{Name: "provisionserver.lab.test", ClientAuth: true})
	client := &tls.Certificate{PrivateKey: leaf.Key, Certificate: [][]byte{leaf.Cert.Raw, middle.Cert.Raw}}
	ours := roots("ours.pem", middle.Cert.Raw)
	strangers := roots("strangers.pem", testLab().Root(certtest.Options{Name: "Unrelated CA"}).Cert.Raw)

	mutual := []string{"-Verify", "5", "-verify_return_error"}
	for _, tc := range []struct {
		name    string
		cert    string
		roots   string
		flags   []string
		version uint16
		cipher  uint16
		code    reason.Code // "": it works
	}{
		{"1.0 RSA AES128", old, ours, []string{"-tls1", "-cipher", "AES128-SHA:@SECLEVEL=0"}, tls.VersionTLS10, tls.TLS_RSA_WITH_AES_128_CBC_SHA, ""},
		{"1.0 RSA AES256", plain, ours, []string{"-tls1", "-cipher", "AES256-SHA:@SECLEVEL=0"}, tls.VersionTLS10, tls.TLS_RSA_WITH_AES_256_CBC_SHA, ""},
		{"1.1 RSA AES128", plain, ours, []string{"-tls1_1", "-cipher", "AES128-SHA:@SECLEVEL=0"}, tls.VersionTLS11, tls.TLS_RSA_WITH_AES_128_CBC_SHA, ""},
		{"1.1 ECDHE", plain, ours, []string{"-tls1_1", "-cipher", "ECDHE-RSA-AES256-SHA:@SECLEVEL=0"}, tls.VersionTLS11, tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA, ""},
		{"1.2 RSA GCM", plain, ours, []string{"-tls1_2", "-cipher", "AES128-GCM-SHA256:@SECLEVEL=0"}, tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, ""},
		{"1.2 RSA AES256 GCM", plain, ours, []string{"-tls1_2", "-cipher", "AES256-GCM-SHA384:@SECLEVEL=0"}, tls.VersionTLS12, tls.TLS_RSA_WITH_AES_256_GCM_SHA384, ""},
		{"1.2 RSA CBC", plain, ours, []string{"-tls1_2", "-cipher", "AES256-SHA:@SECLEVEL=0"}, tls.VersionTLS12, tls.TLS_RSA_WITH_AES_256_CBC_SHA, ""},
		{"1.2 SHA-1 signatures only", plain, ours, []string{"-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA:@SECLEVEL=0", "-sigalgs", "RSA+SHA1", "-client_sigalgs", "RSA+SHA1"}, tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, ""},
		{"1.2 ECDSA", ec, ours, []string{"-tls1_2"}, tls.VersionTLS12, 0, ""},
		{"1.2 no tickets, old renegotiation", plain, ours, []string{"-tls1_2", "-no_ticket", "-legacy_renegotiation", "-cipher", "AES128-SHA:@SECLEVEL=0"}, tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_CBC_SHA, ""},
		{"1.3 alone", plain, ours, []string{"-tls1_3"}, tls.VersionTLS13, 0, ""},
		{"DHE alone", plain, ours, []string{"-tls1_2", "-cipher", "DHE-RSA-AES128-SHA:@SECLEVEL=0"}, 0, 0, reason.TLSVersionRefused},
		{"root unknown, 1.0", plain, strangers, []string{"-tls1", "-cipher", "AES128-SHA:@SECLEVEL=0"}, 0, 0, reason.TLSClientCertRefused},
		{"root unknown, 1.1", plain, strangers, []string{"-tls1_1", "-cipher", "AES128-SHA:@SECLEVEL=0"}, 0, 0, reason.TLSClientCertRefused},
		{"root unknown, 1.2", plain, strangers, []string{"-tls1_2"}, 0, 0, reason.TLSClientCertRefused},
		{"root unknown, 1.3", plain, strangers, []string{"-tls1_3"}, 0, 0, reason.TLSClientCertRefused},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"-cert", tc.cert, "-key", tc.cert, "-CAfile", tc.roots}, mutual...)
			addr := startOpenSSL(t, openssl, append(args, tc.flags...))
			d, _ := testDialer(t, Config{})
			s, err := d.Dial(t.Context(), Target{Addr: addr, Client: client})
			if tc.code != "" {
				if err == nil { // TLS 1.3 tells afterwards
					defer s.Close()
					_, err = s.State(t.Context())
				}
				wantReason(t, err, tc.code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			peer := s.Peer()
			if peer.TLSVersion != tc.version || tc.cipher != 0 && peer.Cipher != tc.cipher || !peer.ClientCertSent {
				t.Errorf("got %s %s", tls.VersionName(peer.TLSVersion), tls.CipherSuiteName(peer.Cipher))
			}
		})
	}
}

// A device that asks to renegotiate ends the run: what follows need not be the
// device that was verified (triple handshake).
func TestRenegotiationIsRefused(t *testing.T) {
	t.Parallel()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal("these tests need the openssl command line tool: apt-get install openssl")
	}
	dev := testLab().Root(certtest.Options{Name: "Device Root"}).Leaf(certtest.Options{Name: "device"})
	file := filepath.Join(t.TempDir(), "device.pem")
	if err := os.WriteFile(file, append(certtest.PEM(dev.Cert), certtest.KeyPEM(dev.Key)...), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := freePort(t)
	cmd := exec.Command(openssl, "s_server", "-accept", addr.String(), "-cert", file, "-key", file, "-tls1_2", "-naccept", "1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "POST /wsman") {
				_, _ = in.Write([]byte("r\n")) // its command for asking to renegotiate
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		_ = cmd.Wait()
	})
	d, _ := testDialer(t, Config{RefusedPatience: patience})
	s, err := d.Dial(t.Context(), Target{Addr: addr})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.State(t.Context())
	wantReason(t, err, reason.TLSRenegotiationRefused)
}

// freePort is a port that was free a moment ago.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// startOpenSSL runs s_server with these arguments and waits until it accepts.
func startOpenSSL(t *testing.T, openssl string, args []string) netip.AddrPort {
	t.Helper()
	addr := freePort(t)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, openssl, append([]string{"s_server", "-accept", addr.String(), "-www"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var trouble strings.Builder
	cmd.Stderr = &trouble
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan bool, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if lines.Text() == "ACCEPT" {
				select {
				case said <- true:
				default:
				}
			}
		}
		close(said)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = cmd.Wait()
	})
	select {
	case ok := <-said:
		if !ok {
			t.Fatalf("openssl s_server ended: %s", trouble.String())
		}
	case <-time.After(patience):
		t.Fatal("openssl s_server does not accept")
	}
	return addr
}
