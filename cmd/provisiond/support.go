package main

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/doctor"
	"github.com/provisiond/provisiond/store"
)

const (
	bundleEvents  = 1000
	bundleDevices = 50
	bundleRuns    = 5
	bundleLog     = 4 << 20 // bytes of a log's end that are looked at
)

func newSupportBundle() *cobra.Command {
	cmd := &cobra.Command{Use: "support-bundle", Short: "Put what helps to find a fault into one zip file, without a secret in it",
		Args: cobra.NoArgs,
		Long: `Collects versions, the configuration, the doctor's findings, the schema, counts,
recent events, the runs of devices that failed, metrics and the end of a log file.
Passwords, keys, tokens and the database's password are never read or are taken out.
Names, addresses and UUIDs of devices are in it; --hash-uuids replaces the UUIDs.`}
	given := configFlags(cmd)
	out := cmd.Flags().StringP("out", "o", "", "write the bundle to `FILE`")
	logName := cmd.Flags().String("log", "", "take the end of this log `FILE` along")
	logLines := cmd.Flags().Int("log-lines", 5000, "so many lines of it")
	hash := cmd.Flags().Bool("hash-uuids", false, "replace each UUID by a word that means the same device within this bundle only")
	_ = cmd.MarkFlagRequired("out")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, flags := given()
		cfg, origins, problems := Load(cmd.Context(), path, os.Environ(), flags)
		f, err := os.OpenFile(*out, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return fmt.Errorf("--out: %w", err)
		}
		defer f.Close()
		b := &bundle{zip: zip.NewWriter(f), at: time.Now(), secrets: secretsOf(cfg)}
		if *hash {
			b.salt = make([]byte, 32)
			if _, err := rand.Read(b.salt); err != nil {
				return err
			}
		}
		b.collect(cmd.Context(), cfg, origins, path, problems)
		if *logName != "" {
			b.add("log.txt", func(w io.Writer) error { return tailOf(w, *logName, *logLines) })
		}
		if err := errors.Join(b.err, b.zip.Close(), f.Sync()); err != nil {
			return fmt.Errorf("write the bundle: %w", err)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", *out, strings.Join(b.names, ", "))
		for _, m := range b.missing {
			fmt.Fprintln(cmd.OutOrStdout(), "  not in it:", m)
		}
		return nil
	}
	return cmd
}

// A bundle is the zip file as it grows. What cannot be collected is named and
// left out: a bundle is wanted most when something is broken.
type bundle struct {
	zip     *zip.Writer
	at      time.Time
	salt    []byte // nil: UUIDs stay
	secrets []string
	names   []string
	missing []string
	err     error // of writing the file itself
}

func (b *bundle) add(name string, write func(io.Writer) error) {
	var text bytes.Buffer
	if err := write(&text); err != nil {
		b.missing = append(b.missing, name+": "+b.clean(err.Error()))
		return
	}
	w, err := b.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: b.at})
	if err == nil {
		_, err = io.WriteString(w, b.clean(text.String()))
	}
	b.err = errors.Join(b.err, err)
	b.names = append(b.names, name)
}

var (
	uuidText  = regexp.MustCompile(`(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`)
	tokenText = regexp.MustCompile(`(?i)(bearer\s+|password"?\s*[:=]\s*"?|token"?\s*[:=]\s*"?|secret"?\s*[:=]\s*"?)[^\s",}]+`)
)

// clean is the last guard, behind what is not collected in the first place: the
// secrets that this machine holds in clear, and what looks like one.
func (b *bundle) clean(text string) string {
	for _, s := range b.secrets {
		text = strings.ReplaceAll(text, s, "***")
	}
	text = tokenText.ReplaceAllString(text, "$1***")
	if b.salt == nil {
		return text
	}
	return uuidText.ReplaceAllStringFunc(text, func(u string) string {
		m := hmac.New(sha256.New, b.salt)
		m.Write([]byte(strings.ToLower(u)))
		return "device-" + hex.EncodeToString(m.Sum(nil)[:6])
	})
}

// secretsOf lists what lies in clear around the daemon, to be taken out.
func secretsOf(cfg Config) []string {
	var list []string
	add := func(s string) {
		if s = strings.TrimSpace(s); len(s) >= 4 {
			list = append(list, s)
		}
	}
	files := []string{filepath.Join(cfg.DataDir, "admin.token"), filepath.Join(cfg.DataDir, "master.key"), string(cfg.MasterKey.File)}
	if phrase, err := passwordIn(string(cfg.Doctor.BackupPassphraseFile)); err == nil {
		add(phrase)
	}
	for _, c := range cfg.Provisioning.Certificates {
		files = append(files, string(c.PasswordFile))
	}
	for _, f := range files {
		if f == "" {
			continue
		}
		if text, err := os.ReadFile(f); err == nil && len(text) < 64<<10 {
			add(string(text))
		}
	}
	if cfg.MasterKey.Env != "" {
		add(os.Getenv(cfg.MasterKey.Env))
	}
	for _, a := range cfg.MasterKey.Exec[min(1, len(cfg.MasterKey.Exec)):] {
		add(a) // a command may be given its own token
	}
	if u, err := url.Parse(string(cfg.Database.URL)); err == nil && u.User != nil {
		p, _ := u.User.Password()
		add(p)
		add(url.QueryEscape(p))
	}
	return list
}

func (b *bundle) collect(ctx context.Context, cfg Config, origins Origins, path string, problems []Problem) {
	b.add("version.txt", func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "provisiond %s (%s)\n%s %s/%s, %d CPUs\nbundle of %s\n", buildVersion(), revision(), runtime.Version(),
			runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), b.at.UTC().Format(time.RFC3339))
		return err
	})
	b.add("config.json", func(w io.Writer) error {
		var lines []string
		for _, p := range problems {
			lines = append(lines, p.String())
		}
		settings := Settings(cfg, origins)
		for i, s := range settings {
			if s.Key == "master_key.exec" { // a command may be given its own token
				settings[i].Value = strings.Join(cfg.MasterKey.Exec[:min(1, len(cfg.MasterKey.Exec))], "")
			}
			if u, err := url.Parse(s.Value); strings.HasSuffix(s.Key, "webhook") && err == nil { // as may a URL
				settings[i].Value = u.Scheme + "://" + u.Host
			}
		}
		return printJSON(w, map[string]any{"file": path, "problems": lines, "settings": settings})
	})
	b.add("doctor.json", func(w io.Writer) error {
		d := doctorConfig(cfg, map[string]bool{})
		list, errs := certificateFiles(ctx, cfg, d.Force)
		d.Certificates = func() ([]*certs.Provisioning, []error) { return list, errs }
		d.Running = func(ctx context.Context) doctor.Daemon {
			running, _ := askDaemon(ctx, cfg)
			return running
		}
		report, _ := doctor.New(d).Run(ctx)
		return printJSON(w, report)
	})
	b.add("metrics.txt", func(w io.Writer) error { return copyMetrics(ctx, w, cfg) })
	db, err := openBeside(ctx, cfg)
	if err != nil {
		b.missing = append(b.missing, "events.jsonl, failed.json, counts.json: "+b.clean(err.Error()))
		return
	}
	defer db.Close()
	b.add("counts.json", func(w io.Writer) error {
		f, err := db.Facts(ctx)
		if err != nil {
			return err
		}
		return printJSON(w, map[string]any{"engine": db.Engine(), "schema": db.SchemaVersion(), "facts": f})
	})
	b.add("events.jsonl", func(w io.Writer) error {
		return db.Read(ctx, func(tx *store.Tx) error {
			list, err := tx.Events(ctx, store.EventFilter{Newest: true, Limit: bundleEvents})
			for _, e := range list {
				if err := json.NewEncoder(w).Encode(e); err != nil {
					return err
				}
			}
			return err
		})
	})
	b.add("failed.json", func(w io.Writer) error {
		type run struct {
			store.Run
			Steps []store.StepRecord
		}
		type device struct {
			store.Device
			Runs []run
		}
		out := []device{}
		err := db.Read(ctx, func(tx *store.Tx) error {
			list, err := tx.Devices(ctx, store.DeviceFilter{Order: store.ByLastSeen, Limit: bundleDevices,
				Lifecycle: []store.Lifecycle{store.Failed, store.Quarantined, store.CredentialsUnknown, store.PendingCertificate,
					store.PendingIdentity, store.Dormant}})
			if err != nil {
				return err
			}
			for _, d := range list {
				one := device{Device: d}
				runs, err := tx.Runs(ctx, d.UUID, bundleRuns)
				if err != nil {
					return err
				}
				for _, r := range runs {
					steps, err := tx.Steps(ctx, r.ID)
					if err != nil {
						return err
					}
					one.Runs = append(one.Runs, run{r, steps})
				}
				out = append(out, one)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return printJSON(w, out)
	})
}

// copyMetrics asks the daemon on this machine, which may be stopped.
func copyMetrics(ctx context.Context, w io.Writer, cfg Config) error {
	base, c, err := ownDaemon(ctx, cfg, 10*time.Second)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/metrics", nil)
	if err != nil {
		return err
	}
	if token, err := os.ReadFile(filepath.Join(cfg.DataDir, "admin.token")); err == nil {
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	_, err = io.Copy(w, io.LimitReader(res.Body, 16<<20))
	return err
}

// tailOf copies the last lines of a file.
func tailOf(w io.Writer, name string, lines int) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > bundleLog {
		if _, err := f.Seek(-bundleLog, io.SeekEnd); err != nil {
			return err
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, bundleLog))
	if err != nil {
		return err
	}
	all := bytes.SplitAfter(text, []byte("\n"))
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	_, err = w.Write(bytes.Join(all, nil))
	return err
}
