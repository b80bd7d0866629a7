package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/provisiond/provisiond/server/api"
)

// terminal is a place where a person types text.
func terminal(t *testing.T, text string) *os.File {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	if _, err := keyboard.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return tty
}

// TestAdoptAsksWhomToTrust: a password from elsewhere is sent to a certificate that
// nobody vouched for only when a person who sees its fingerprint says yes.
func TestAdoptAsksWhomToTrust(t *testing.T) {
	t.Parallel()
	const uuid, seen = "11223344-5566-7788-99aa-bbccddeeff01", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	const asked = "What answers at 10.20.0.11 shows the certificate\n  sha256:" + seen +
		"\nand nobody has vouched for it. Send the password to it? [y/N] "
	for _, c := range []struct {
		name  string
		typed string // at a terminal; "-": no terminal
		more  string
		late  bool // the device answers some time after
		known bool // it shows the key that we know
		trust bool
		says  string
	}{
		{"yes", "y\n", "", false, false, true, asked},
		{"the whole word", "YES\n", "", false, false, true, asked},
		{"the device answers later", "y\n", "", true, false, true, asked},
		{"no", "n\n", "", false, false, false, asked + "it is kept and sent to nobody\n"},
		{"another word", "yeah\n", "", false, false, false, asked + "it is kept and sent to nobody\n"},
		{"return alone", "\n", "", false, false, false, asked + "it is kept and sent to nobody\n"},
		{"the end of the input", "\x04", "", false, false, false, asked + "\nit is kept and sent to nobody\n"},
		{"nobody is there", "-", "", false, false, false, ""},
		{"vouched for already", "y\n", "--fingerprint " + seen, false, false, false, ""},
		{"for a program", "y\n", "--json", false, false, false, ""},
		{"its own key", "y\n", "", true, true, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var trusted atomic.Int32
			device := api.DeviceDetail{Device: api.Device{DeviceSummary: api.DeviceSummary{UUID: uuid, Address: "10.20.0.11"},
				PeerSeen: seen}}
			if c.late {
				device.PeerSeen = ""
			}
			looks := 0
			mux := http.NewServeMux()
			mux.HandleFunc("POST /api/v1/devices/{id}/adopt", func(w http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(w).Encode(api.ActionResult{Device: device.Device, RunID: 7, Said: "the password is tried"})
			})
			mux.HandleFunc("GET /api/v1/devices/{id}", func(w http.ResponseWriter, _ *http.Request) {
				d := device
				if looks++; looks > 1 && !c.known {
					d.PeerSeen = seen
				}
				d.Runs = []api.Run{{ID: 7}}
				if c.known {
					d.Runs = nil
				}
				_ = json.NewEncoder(w).Encode(d)
			})
			mux.HandleFunc("POST /api/v1/devices/{id}/trust", func(w http.ResponseWriter, r *http.Request) {
				var in api.Retry
				if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Fingerprint != seen || in.TrustFirst {
					t.Errorf("trusted with %+v, %v", in, err)
				}
				trusted.Add(1)
				_ = json.NewEncoder(w).Encode(api.ActionResult{Device: device.Device, Said: "it is called"})
			})
			srv := httptest.NewServer(mux)
			t.Cleanup(srv.Close)
			dir := t.TempDir()
			for _, name := range []string{"token", "password"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte("pvd_Case-1n-hand!"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			args := append([]string{"--address", srv.URL, "--token-file", filepath.Join(dir, "token"), "device", "adopt", uuid,
				"--password-file", filepath.Join(dir, "password")}, strings.Fields(c.more)...)
			var out, errs bytes.Buffer
			status := 0
			if c.typed == "-" {
				status = run(t.Context(), args, strings.NewReader("y\n"), &out, &errs)
			} else {
				status = run(t.Context(), args, terminal(t, c.typed), &out, &errs)
			}
			if status != 0 || errs.String() != c.says || (trusted.Load() == 1) != c.trust {
				t.Errorf("status %d, trusted %d times, standard error:\n%q\nwant\n%q\n%s", status, trusted.Load(), errs.String(), c.says,
					out.String())
			}
		})
	}
}
