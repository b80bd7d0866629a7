package main

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/cmd/built"
	"github.com/provisiond/provisiond/store"
)

var importedID = regexp.MustCompile(`(?m)^certificate ([0-9a-f]{16})$`)

// TestCertWords: the password of a PFX comes over standard input; a certificate
// on standby that a waiting device needs is recommended with the command that
// helps; replacing says what it would do until --yes.
func TestCertWords(t *testing.T) {
	t.Parallel()
	provctl, err := built.Program("provctl")
	if err != nil {
		t.Fatal(err)
	}
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			s := emptyServer(t, engine)
			dir := t.TempDir()
			run := func(stdin string, args ...string) (string, error) {
				t.Helper()
				cmd := exec.CommandContext(t.Context(), provctl, args...)
				cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
				cmd.Env = append(os.Environ(), "PROVISIOND_ADDRESS=http://"+s.APIAddr().String(), "PROVISIOND_TOKEN_FILE="+s.TokenFile())
				out, err := cmd.CombinedOutput()
				return string(out), err
			}
			vendor := certtest.NewLab(time.Now())
			imports := func(name string) (certtest.Leaf, string) {
				t.Helper()
				f := vendor.Plain(name, "prov.corp.example.com")
				if err := os.WriteFile(filepath.Join(dir, "amt.pfx"), f.PFX(certtest.Modern, "over stdin"), 0o600); err != nil {
					t.Fatal(err)
				}
				out, err := run("over stdin\n", "cert", "import", "amt.pfx", "--password-file", "-")
				found := importedID.FindStringSubmatch(out)
				if err != nil || found == nil {
					t.Fatalf("import: %v\n%s", err, out)
				}
				return f, found[1]
			}
			_, first := imports("First Vendor")
			if out, err := run("wrong\n", "cert", "import", "amt.pfx", "--password-file", "-"); err == nil ||
				!strings.Contains(out, "pfx_password_wrong") {
				t.Errorf("a wrong password: %v\n%s", err, out)
			}
			leaf, second := imports("Second Vendor")
			waitsFor(t, s.DB, leaf)

			recommended := "recommended: 1 device that waits would be served by it and by none in use: provctl cert activate " + second
			if out, err := run("", "cert", "list"); err != nil || strings.Count(out, "recommended") != 1 ||
				!strings.Contains(out, recommended) {
				t.Errorf("want %q: %v\n%s", recommended, err, out)
			}
			before, err := run("", "cert", "list", "--json")
			if err != nil {
				t.Fatal(err)
			}
			if out, err := run("", "cert", "replace", first, second); err != nil || !strings.Contains(out, "nothing was changed") ||
				!strings.Contains(out, "do it: provctl cert replace "+first+" "+second+" --yes") {
				t.Errorf("replace without --yes: %v\n%s", err, out)
			}
			if after, err := run("", "cert", "list", "--json"); err != nil || after != before {
				t.Errorf("it changed something: %v\n%s", err, cmp.Diff(before, after))
			}
			if out, err := run("", "cert", "replace", first, second, "--yes"); err != nil || strings.Contains(out, "nothing was changed") {
				t.Errorf("replace --yes: %v\n%s", err, out)
			}
			if out, err := run("", "cert", "list"); err != nil || strings.Contains(out, "recommended") ||
				!strings.Contains(out, second+"  prov.corp.example.com, in use") {
				t.Errorf("afterwards: %v\n%s", err, out)
			}
		})
	}
}

// waitsFor records a device that trusts the root of f alone.
func waitsFor(t *testing.T, db *store.DB, f certtest.Leaf) {
	t.Helper()
	u, from, suffix := amt.UUID{0xd0, 66, 1}, netip.MustParseAddr("127.66.0.9"), "corp.example.com"
	v, err := amt.ParseVersion("11.8.50")
	if err != nil {
		t.Fatal(err)
	}
	err = db.Write(t.Context(), func(tx *store.Tx) error {
		ctx := context.Background()
		if _, _, err := tx.SeeHello(ctx, store.SeenHello{UUID: u, From: netip.AddrPortFrom(from, 1), Address: from, Via: "plain",
			Version: 3, Hashes: amt.HashesOf(f.Issuers[len(f.Issuers)-1].Raw)}); err != nil {
			return err
		}
		if err := tx.UpdateDevice(ctx, u, store.DeviceFacts{Version: &v, Suffix: &suffix}); err != nil {
			return err
		}
		return tx.Transition(ctx, store.Transition{UUID: u, To: store.PendingCertificate, Event: "test", Actor: "test"})
	})
	if err != nil {
		t.Fatal(err)
	}
}
