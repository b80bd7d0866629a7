package store_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/seal"
)

var passphrase = amt.NewSecret("correct horse battery")

// furnish puts something into most tables.
func furnish(t *testing.T, db *store.DB) {
	t.Helper()
	for n := range 5 {
		hello(t, db, n)
		r := run(t, db, n)
		stage(t, db, n, "Admin!canary-"+string(rune('a'+n)), "Mebx!canary")
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.AddEvent(ctx, store.Event{UUID: uuid(n), RunID: r.ID, Name: "run.started", Data: map[string]any{"n": n, "b": "x"}})
			return errors.Join(err,
				tx.PutSteps(ctx, r.ID, []store.StepRecord{{Seq: 1, Name: "set_clock", State: "done", Attempt: 1, StartedAt: tx.Now(),
					Detail: "line\nbreak <&> \u2028"}}),
				tx.Audit(ctx, store.AuditRecord{Actor: "test", Action: "device.approve", Subject: uuid(n).String(),
					Detail: map[string]any{"n": n}}))
		})
	}
	write(t, db, func(ctx context.Context, tx *store.Tx) error {
		return errors.Join(tx.PutSealedSetting(ctx, "device_ca", amt.NewSecret("CA-KEY-CANARY")), tx.PutSetting(ctx, "plain", "ü"))
	})
}

func backup(t *testing.T, db *store.DB) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := db.Backup(t.Context(), &b, passphrase, "test"); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func dump(t *testing.T, db *store.DB) map[string][]string {
	t.Helper()
	d, err := db.Dump(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// other is an empty place whose master key is another one.
func other(t *testing.T, engine string) store.Options {
	t.Helper()
	o := empty(t, engine)
	keys, err := seal.New([]byte("another key, 32 bytes long, yes!"))
	if err != nil {
		t.Fatal(err)
	}
	o.Keys = keys
	return o
}

func TestBackupFromEitherEngineToEither(t *testing.T) {
	t.Parallel()
	for _, from := range []string{store.SQLite, store.Postgres} {
		for _, to := range []string{store.SQLite, store.Postgres} {
			t.Run(from+" to "+to, func(t *testing.T) {
				t.Parallel()
				source := open(t, place(t, from))
				furnish(t, source)
				file := backup(t, source)
				for _, canary := range []string{"canary", "CANARY", uuid(1).String(), "gzip"} {
					if bytes.Contains(file, []byte(canary)) {
						t.Errorf("the file shows %s", canary)
					}
				}
				o := other(t, to)
				r, err := store.RestoreBackup(t.Context(), bytes.NewReader(file), passphrase,
					func() (store.Options, error) { return o, nil })
				if err != nil {
					t.Fatal(err)
				}
				if r.Opened != 12 || r.Audit != 5 || r.Rows["devices"] != 5 || r.Engine != from {
					t.Errorf("report %+v", r)
				}
				o.Keys, _ = seal.New([]byte("another key, 32 bytes long, yes!"))
				target := open(t, o)
				if d := cmp.Diff(dump(t, source), dump(t, target)); d != "" {
					t.Errorf("restored (-source +target):\n%s", d)
				}
				if got := credentials(t, target, 2, store.KindAdmin)[0].Password.Reveal(); got != "Admin!canary-c" {
					t.Errorf("password %q", got)
				}
				// It goes on: numbers given out by the database follow on.
				hello(t, target, 77)
				run(t, target, 77)
				stage(t, target, 77, "Admin!new-one", "Mebx!new")
				write(t, target, func(ctx context.Context, tx *store.Tx) error {
					return tx.Audit(ctx, store.AuditRecord{Actor: "test", Action: "x", Subject: "y"})
				})
				if n, err := target.CheckAudit(t.Context()); n != 6 || err != nil {
					t.Errorf("audit after the restore: %d, %v", n, err)
				}
				if err := target.Close(); err != nil {
					t.Fatal(err)
				}
				_, err = store.RestoreBackup(t.Context(), bytes.NewReader(file), passphrase,
					func() (store.Options, error) { return o, nil })
				if err == nil || !strings.Contains(err.Error(), "is in use") {
					t.Errorf("restored into a database that is in use: %v", err)
				}
			})
		}
	}
}

func TestABadBackupIsRefusedInOneSentence(t *testing.T) {
	t.Parallel()
	db := open(t, place(t, store.SQLite))
	furnish(t, db)
	file := backup(t, db)
	header := func(change func(map[string]any)) []byte { return rewritten(t, file, change) }
	old, err := os.ReadFile("testdata/format-1.backup")
	if err != nil {
		t.Fatal(err)
	}
	line, body, _ := bytes.Cut(old, []byte("\n"))
	oldHeader := func(change func(map[string]any)) []byte {
		return slices.Concat(changed(t, line, change), body)
	}
	flip := func(at int) []byte {
		b := bytes.Clone(file)
		b[at] ^= 1
		return b
	}
	cases := map[string]struct {
		file []byte
		pass string
		want string
	}{
		"wrong passphrase":     {file, "correct horse batterx", "passphrase is not the one"},
		"no passphrase":        {file, "-", "passphrase is not the one"},
		"no backup":            {[]byte("PK\x03\x04 something else\n"), "", "no backup of provisiond"},
		"another age file":     {aged(t, []byte("a letter\n")), "", "no backup of provisiond"},
		"empty":                {nil, "", "no backup of provisiond"},
		"cut in the intro":     {file[:10], "", "cut"},
		"cut in header":        {file[:40], "", "cut"},
		"cut in the body":      {file[:len(file)-1000], "", "cut"},
		"last byte gone":       {file[:len(file)-1], "", "cut"},
		"grown":                {append(bytes.Clone(file), 0), "", "cut"},
		"changed byte":         {flip(len(file) - 30), "", "was changed"},
		"newer format":         {header(func(h map[string]any) { h["version"] = 9 }), "", "newer provisiond"},
		"newer schema":         {header(func(h map[string]any) { h["schema"] = 99 }), "", "newer provisiond"},
		"absurd cost":          {bytes.Replace(file, []byte(" 4\n"), []byte(" 30\n"), 1), "", "changed"},
		"old wrong passphrase": {old, "correct horse batterx", "passphrase is not the one"},
		"old cut in header":    {old[:40], "", "cut"},
		"old cut after header": {old[:len(line)+1], "", "cut"},
		"old cut in the body":  {old[:len(old)-1000], "", "cut"},
		"old last byte gone":   {old[:len(old)-1], "", "cut"},
		"old grown":            {append(bytes.Clone(old), 0), "", "cut"},
		"old newer format":     {oldHeader(func(h map[string]any) { h["version"] = 9 }), "", "newer provisiond"},
		"old newer schema":     {oldHeader(func(h map[string]any) { h["schema"] = 99 }), "", "newer provisiond"},
		"old changed header":   {oldHeader(func(h map[string]any) { h["engine"] = "postgres" }), "", "cut"},
		"old without a key":    {oldHeader(func(h map[string]any) { delete(h, "key") }), "", "changed"},
		"old absurd cost":      {oldHeader(func(h map[string]any) { h["key"].(map[string]any)["memory_kib"] = 1 << 30 }), "", "changed"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pass := passphrase
			if c.pass != "" {
				pass = amt.NewSecret(strings.TrimPrefix(c.pass, "-"))
			}
			dir := filepath.Join(t.TempDir(), "target")
			_, err := store.RestoreBackup(t.Context(), bytes.NewReader(c.file), pass, func() (store.Options, error) {
				t.Error("the target was asked for")
				return store.Options{Dir: dir}, nil
			})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want a sentence with %q", err, c.want)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("the target was touched")
			}
		})
	}
}

// changed is a line of JSON that says something else.
func changed(t *testing.T, line []byte, change func(map[string]any)) []byte {
	t.Helper()
	var h map[string]any
	if err := json.Unmarshal(line, &h); err != nil {
		t.Fatal(err)
	}
	change(h)
	b, _ := json.Marshal(h)
	return append(b, '\n')
}

// rewritten is a backup with another first line, by somebody who has the passphrase.
func rewritten(t *testing.T, file []byte, change func(map[string]any)) []byte {
	t.Helper()
	line, body, _ := bytes.Cut(plain(t, file), []byte("\n"))
	return aged(t, slices.Concat(changed(t, line, change), body))
}

// plain is what age's own library and gunzip make of a backup.
func plain(t *testing.T, file []byte) []byte {
	t.Helper()
	id, err := age.NewScryptIdentity(passphrase.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(bytes.NewReader(file), id)
	if err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(zip)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// aged seals text as a backup is.
func aged(t *testing.T, text []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := seal.NewWriter(&out, passphrase, 4)
	if err != nil {
		t.Fatal(err)
	}
	zip := gzip.NewWriter(w)
	_, _ = zip.Write(text)
	if err := errors.Join(zip.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestAgeOpensABackup: on the day when no provisiond is at hand, age and gunzip
// show the master key and every row, as the manual's chapter about disasters says.
func TestAgeOpensABackup(t *testing.T) {
	t.Parallel()
	db := open(t, place(t, store.SQLite))
	furnish(t, db)
	file := backup(t, db)
	text := plain(t, file)
	if age, err := exec.LookPath("age"); err == nil { // it reads a passphrase from a terminal only, which script gives it
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "amt.backup"), file, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "script", "-qec", age+" -d -o amt.jsonl.gz amt.backup && gunzip amt.jsonl.gz", "/dev/null")
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(passphrase.Reveal()+"\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "amt.jsonl")); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%v: the program age shows something else than its library: %.200s", err, got)
		}
	}
	lines := strings.Split(string(text), "\n")
	if !strings.Contains(lines[0], `"version":2`) || !strings.HasPrefix(lines[1], `{"master":"`) ||
		!strings.Contains(string(text), uuid(3).String()) {
		t.Errorf("it begins\n%s\n%s", lines[0], lines[1])
	}
}

// TestABackupOfTheFirstFormatOpens: it was made by the release before age.
func TestABackupOfTheFirstFormatOpens(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("testdata/format-1.backup")
	if err != nil {
		t.Fatal(err)
	}
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			o := other(t, engine)
			r, err := store.RestoreBackup(t.Context(), bytes.NewReader(file), passphrase, func() (store.Options, error) { return o, nil })
			if err != nil || r.Version != 1 || r.Opened != 12 || r.Audit != 5 || r.Rows["devices"] != 5 {
				t.Fatalf("%+v, %v", r, err)
			}
			o.Keys, _ = seal.New([]byte("another key, 32 bytes long, yes!"))
			if got := credentials(t, open(t, o), 2, store.KindAdmin)[0].Password.Reveal(); got != "Admin!canary-c" {
				t.Errorf("password %q", got)
			}
		})
	}
}

func TestEveryCutShows(t *testing.T) {
	t.Parallel()
	db := open(t, place(t, store.SQLite))
	furnish(t, db)
	file := backup(t, db)
	for n := range 24 {
		at := n * len(file) / 24
		if _, err := store.VerifyBackup(t.Context(), bytes.NewReader(file[:at]), passphrase); err == nil {
			t.Errorf("accepted with %d of %d bytes", at, len(file))
		}
	}
	if _, err := store.VerifyBackup(t.Context(), bytes.NewReader(file), passphrase); err != nil {
		t.Error(err)
	}
}

func TestABackupBesideARunningDaemon(t *testing.T) {
	t.Parallel()
	o := place(t, store.SQLite)
	daemon := open(t, o)
	furnish(t, daemon)
	beside := again(t, o)
	beside.Beside = true
	db := open(t, beside)
	file := backup(t, db)
	at := time.Now()
	write(t, db, func(ctx context.Context, tx *store.Tx) error {
		return tx.PutLastBackup(ctx, store.LastBackup{At: at, File: "x", Size: int64(len(file))})
	})
	hello(t, daemon, 50) // it goes on writing
	f, err := daemon.Facts(t.Context())
	if err != nil || !near(f.Backup, at) || f.Lifecycle[store.Discovered] != 6 || f.Bytes == 0 {
		t.Errorf("facts %+v, %v", f, err)
	}
	if _, err := store.Open(t.Context(), store.Options{Dir: t.TempDir(), Beside: true}); err == nil {
		t.Error("opened beside nothing")
	}
	wrong := beside
	wrong.Keys, _ = seal.New([]byte("another key, 32 bytes long, yes!"))
	if _, err := store.Open(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), "master key is not the one") {
		t.Errorf("with another master key: %v", err)
	}
}

// TestMigrationsAreReadRight holds the list of tables that a backup takes
// against both engines' own.
func TestMigrationsAreReadRight(t *testing.T) {
	t.Parallel()
	own, err := store.OwnColumns()
	if err != nil {
		t.Fatal(err)
	}
	words := map[string]map[string]string{
		store.Postgres: {"uuid": "uuid", "jsonb": "json", "int4": "int", "int8": "int", "bool": "bool", "bytea": "bytes",
			"timestamptz": "time", "text": "text"},
		store.SQLite: {"text": "text", "integer": "int", "bigint": "int", "boolean": "bool", "blob": "bytes"},
	}
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		have, err := db.Catalogue(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		mine := map[string]string{}
		for _, c := range own {
			name, kind, _ := strings.Cut(c, " ")
			if db.Engine() == store.SQLite {
				kind = map[string]string{"uuid": "text", "json": "text", "time": "int"}[kind]
				if kind == "" {
					_, kind, _ = strings.Cut(c, " ")
				}
			}
			mine[name] = kind
		}
		theirs := map[string]string{}
		for _, c := range have {
			name, kind, _ := strings.Cut(c, " ")
			theirs[name] = words[db.Engine()][kind]
		}
		if d := cmp.Diff(mine, theirs); d != "" {
			t.Errorf("columns (-migrations +%s):\n%s", db.Engine(), d)
		}
	})
}
