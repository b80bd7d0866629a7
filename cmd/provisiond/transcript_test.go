package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/cmd/built"
	"github.com/provisiond/provisiond/server"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/store/seal"
	"github.com/provisiond/provisiond/store/storetest"
)

var updateTranscript = flag.Bool("update-transcript", false,
	"write what is printed now into testdata/cert.txt and renew.txt; read the difference before committing it")

// mostCommands is what a person may have to type from an empty server to proof.
const mostCommands = 12

// TestCertTranscript plays testdata/cert.txt and renew.txt against the daemon as it is shipped,
// with the real provctl: from an empty server, over a vendor (the line that
// begins with "vendor"), to a simulated device that accepts. On both engines
// the same words are printed.
func TestCertTranscript(t *testing.T) {
	t.Parallel()
	provctl, err := built.Program("provctl")
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range []struct {
		file string
		most int // commands; 0: any number
	}{{"testdata/cert.txt", mostCommands}, {"testdata/renew.txt", 0}} {
		want, err := os.ReadFile(script.file)
		if err != nil {
			t.Fatal(err)
		}
		for _, engine := range []string{"sqlite", "postgres"} {
			t.Run(strings.TrimSuffix(filepath.Base(script.file), ".txt")+"/"+engine, func(t *testing.T) {
				t.Parallel()
				got, commands := playCert(t, provctl, engine, string(want))
				if script.most > 0 && commands >= script.most {
					t.Errorf("%d commands; it has to be under %d", commands, script.most)
				}
				if *updateTranscript && engine == "sqlite" {
					if err := os.WriteFile(script.file, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
					return
				}
				if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
					t.Errorf("(-transcript +now)\n%s", d)
				}
			})
		}
	}
}

// emptyServer is the daemon without any certificate.
func emptyServer(t *testing.T, engine string) *server.Server {
	t.Helper()
	keys, err := seal.New([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	o := server.Options{
		Version: "test", Node: "n1", DataDir: t.TempDir(), Keys: keys, HelloListen: "127.0.0.1:0", APIListen: "127.0.0.1:0",
		Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Admission: admit.Open, Workers: 4, Drain: 5 * time.Second,
		CheckCertificate: checkCertificate, Registry: prometheus.NewRegistry(), Log: zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)),
	}
	if engine == "postgres" {
		o.DatabaseURL = storetest.URL(t)
	} else {
		storetest.File(t, o.DataDir)
	}
	s, err := server.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

var (
	transcriptIDs    = regexp.MustCompile(`\b[0-9a-f]{16}\b`)
	transcriptSums   = regexp.MustCompile(`\b[0-9a-f]{40,64}\b`)
	transcriptFile   = regexp.MustCompile(`-[0-9a-f]{8}\.p12`)
	transcriptTimes  = regexp.MustCompile(`\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d)?`)
	transcriptDevice = regexp.MustCompile(`127\.111\.\d+\.\d+`)
	transcriptPhrase = regexp.MustCompile(`\b([A-Z2-9]{5}-){4}[A-Z2-9]{5}\b`)
)

func playCert(t *testing.T, provctl, engine, script string) (said string, commands int) {
	t.Helper()
	s := emptyServer(t, engine)
	vendor := certtest.NewLab(time.Now()).Vendor()
	dir := t.TempDir()
	ids := map[string]string{}
	phrase := ""
	var out strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimSuffix(line, "\n")
		command, typed := strings.CutPrefix(line, "$ ")
		if strings.HasPrefix(line, "#") || line == "" && strings.HasSuffix(out.String(), "#\n") {
			out.WriteString(line + "\n")
		}
		if !typed {
			continue
		}
		out.WriteString(line + "\n")
		args := strings.Fields(command)
		if args[0] == "vendor" {
			answer(t, vendor, dir, args[1])
			continue
		}
		commands++
		for i, a := range args {
			if id, ok := ids[a]; ok {
				args[i] = id
			}
		}
		cmd := exec.CommandContext(t.Context(), provctl, args[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PROVISIOND_ADDRESS=http://"+s.APIAddr().String(), "PROVISIOND_TOKEN_FILE="+s.TokenFile(),
			"PROVISIOND_BACKUP_PASSPHRASE="+phrase)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		text := stdout.String()
		if p := transcriptPhrase.FindString(text); p != "" {
			phrase = p
		}
		for l := range strings.Lines(stderr.String()) {
			text += "! " + l
		}
		if err != nil {
			text += fmt.Sprintf("? %d\n", cmd.ProcessState.ExitCode())
		}
		for _, id := range transcriptIDs.FindAllString(text, -1) {
			known := false
			for _, have := range ids {
				known = known || have == id
			}
			if !known {
				ids[[]string{"REQUEST", "ID", "ID2", "ID3"}[min(len(ids), 3)]] = id
			}
		}
		for word, id := range ids {
			text = strings.ReplaceAll(text, id, word)
		}
		text = transcriptFile.ReplaceAllString(text, "-FILE.p12")
		text = transcriptSums.ReplaceAllString(text, "SUM")
		text = transcriptTimes.ReplaceAllString(text, "DATE")
		text = transcriptDevice.ReplaceAllString(text, "DEVICE")
		text = transcriptPhrase.ReplaceAllString(text, "PASSPHRASE")
		out.WriteString(text)
	}
	return out.String(), commands
}

// answer writes what the vendor sends back for a request.
func answer(t *testing.T, v *certtest.Vendor, dir, request string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, request))
	if err != nil {
		t.Fatal(err)
	}
	certificate, bundle := v.Answer(text)
	for name, data := range map[string][]byte{"certificate.pem": certificate, "bundle.pem": bundle} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCheckCertificate: the answer of each generation to the same certificate,
// over a real handshake.
func TestCheckCertificate(t *testing.T) {
	t.Parallel()
	s := emptyServer(t, "sqlite")
	token, err := os.ReadFile(s.TokenFile())
	if err != nil {
		t.Fatal(err)
	}
	shape := certtest.NewLab(time.Now()).GoDaddy("prov.corp.example.com", "prov.branch.example.net")
	imported := call(t, s, string(token), "certificates/import", map[string]any{
		"files": []map[string]any{{"name": "a.pfx", "data": certtest.PFX(certtest.Modern, "secret", shape.Leaf.Key, shape.Leaf.Cert,
			shape.Intermediate, shape.Cross, shape.OldRoot)}},
		"passwords": []string{"secret"},
	})
	id := imported["report"].(map[string]any)["id"].(string)
	for _, e := range []struct {
		amt, suffix string
		added       bool
		accepted    bool
		says        string
	}{
		{"11.8", "corp.example.com", true, true, "would ACCEPT"},
		{"11.8", "corp.example.com", false, false, "the device trusts Go Daddy Class 2 CA"}, // the same name, another key
		{"9.1", "branch.example.net", true, true, "would ACCEPT"},
		{"11.8", "elsewhere.example.org", true, false, "elsewhere.example.org"},
		{"16.1", "corp.example.com", true, false, "SHA-1"}, // the old root signed itself so
		{"3.2", "corp.example.com", true, true, "would ACCEPT"},
		{"2.6", "corp.example.com", true, false, "this server cannot set up a device with AMT 2.6"},
		{"3.0", "corp.example.com", true, false, "simulated in the place of one with AMT 3.0"},
		{"21.0", "corp.example.com", true, false, "simulated in the place of one with AMT 21.0"},
		{"22.0", "corp.example.com", true, false, "nobody has shown that this server can set one up"},
	} {
		v := call(t, s, string(token), "certificates/"+id+"/check", map[string]any{"amt": e.amt, "suffix": e.suffix, "root_added": e.added})
		if v["accepted"] != e.accepted || !strings.Contains(v["says"].(string), e.says) {
			t.Errorf("AMT %s in %s: %v, %v", e.amt, e.suffix, v["accepted"], v["says"])
		}
	}
}

func call(t *testing.T, s *server.Server, token, path string, in any) map[string]any {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.APIAddr().String()+"/api/v1/"+path,
		bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(token))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out := map[string]any{}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s: %s %v %v", path, resp.Status, out, err)
	}
	return out
}
