package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/provisiond/provisiond/certs/certtest"
)

// TestOnlyOurDaemonIsBelieved: health, the support bundle and the doctor talk to
// a server that shows the certificate of api.tls, whatever names stand in it, and
// say nothing to any other: no token, not even a request.
func TestOnlyOurDaemonIsBelieved(t *testing.T) {
	t.Parallel()
	var asked, tokens atomic.Int64
	ours := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("Authorization") == "Bearer the-token" {
			tokens.Add(1)
		}
		fmt.Fprintln(w, `{"status":"ok"}`)
	}))
	t.Cleanup(ours.Close)
	key, err := x509.MarshalPKCS8PrivateKey(ours.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	other := certtest.NewLab(time.Now()).Plain("Other", "provisiond.example.com")
	inPEM := func(kind string, list ...[]byte) (out []byte) {
		for _, der := range list {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
		}
		return out
	}
	mine := ours.Certificate().Raw
	for _, c := range []struct {
		name string
		cert []byte
		good bool
	}{
		{"ours", inPEM("CERTIFICATE", mine), true},
		{"ours and its issuers", inPEM("CERTIFICATE", mine, other.Cert.Raw), true},
		{"another", inPEM("CERTIFICATE", other.Cert.Raw), false},
		{"another, with ours behind it", inPEM("CERTIFICATE", other.Cert.Raw, mine), false},
	} {
		dir := t.TempDir()
		file := func(name string, b []byte) string {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
			return filepath.Join(dir, name)
		}
		file("admin.token", []byte("the-token\n"))
		cfg := Defaults()
		cfg.DataDir, cfg.API.Listen = dir, Listen(ours.Listener.Addr().String())
		cfg.API.TLS = APITLS{Cert: File(file("cert.pem", c.cert)), Key: File(file("key.pem", inPEM("PRIVATE KEY", key)))}
		yaml := file("c.yaml", fmt.Appendf(nil, "data_dir: %s\napi: {listen: %q, tls: {cert: %s, key: %s}}\n", dir, cfg.API.Listen,
			cfg.API.TLS.Cert, cfg.API.TLS.Key))

		asked.Store(0)
		tokens.Store(0)
		var text bytes.Buffer
		err := copyMetrics(t.Context(), &text, cfg)
		if (err == nil) != c.good || (tokens.Load() == 1) != c.good {
			t.Errorf("%s: the support bundle: %v, %d tokens", c.name, err, tokens.Load())
		}
		if !c.good && (asked.Load() != 0 || !strings.Contains(err.Error(), "does not have the certificate of api.tls")) {
			t.Errorf("%s: %d requests, %v", c.name, asked.Load(), err)
		}
		if running, _ := askDaemon(t.Context(), cfg); running.Up != c.good {
			t.Errorf("%s: the doctor believes %+v", c.name, running)
		}
		if !strings.HasPrefix(c.name, "ours") {
			continue // a file with a key of another certificate is refused before anybody is asked
		}
		var out, errs bytes.Buffer
		if status := run([]string{"health", "--config", yaml}, &out, &errs); status != 0 {
			t.Errorf("%s: health: %d %s%s", c.name, status, out.String(), errs.String())
		}
	}

	// A daemon whose certificate was replaced in the files, key and all, or half:
	// it is known by the one it says it shows, and by no other.
	otherKey, err := x509.MarshalPKCS8PrivateKey(other.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		key   []byte
		shown []byte
		good  bool
	}{
		{"replaced, and the daemon says what it shows", otherKey, mine, true},
		{"half replaced", key, mine, true},
		{"replaced, and nobody says so", otherKey, nil, false},
		{"replaced, and the daemon shows a third", otherKey, other.Issuers[0].Raw, false},
	} {
		dir := t.TempDir()
		for name, b := range map[string][]byte{"cert.pem": inPEM("CERTIFICATE", other.Cert.Raw), "key.pem": inPEM("PRIVATE KEY", c.key),
			shownFile: inPEM("CERTIFICATE", c.shown)} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		asked.Store(0)
		var out, errs bytes.Buffer
		yaml := write(t, "c.yaml", fmt.Sprintf("data_dir: %[1]s\napi: {listen: %[2]q, tls: {cert: %[1]s/cert.pem, key: %[1]s/key.pem}}\n",
			dir, ours.Listener.Addr()))
		status := run([]string{"health", "--config", yaml}, &out, &errs)
		switch {
		case c.good && (status != 0 || asked.Load() != 1):
			t.Errorf("%s: health: %d, %d requests, %s%s", c.name, status, asked.Load(), out.String(), errs.String())
		case !c.good && (status != 1 || asked.Load() != 0 || !strings.Contains(errs.String(), "it is another server")):
			t.Errorf("%s: health: %d, %d requests, %s%s", c.name, status, asked.Load(), out.String(), errs.String())
		}
	}
}
