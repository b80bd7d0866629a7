package doctor

import (
	"bytes"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/pgtest"
)

// A site is a configuration in a folder, without a network of its own unless network is called.
type site struct {
	t    *testing.T
	dir  string
	data string
	lab  *netLab // set by network: the doctor is then asked on its server
}

// network gives the site machines and cables of its own.
func (s *site) network() *netLab {
	s.lab = newNetLab(s.t)
	return s.lab
}

func newSite(t *testing.T) *site {
	dir := t.TempDir()
	s := &site{t: t, dir: dir, data: filepath.Join(dir, "data")}
	for name, b := range map[string][]byte{"amt.pfx": labCertificate().PFX(certtest.Modern, "secret"), "amt.password": []byte("secret")} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// config writes the configuration; keys that come again in more win.
func (s *site) config(more ...string) string {
	s.t.Helper()
	text := map[string]string{
		"data_dir": s.data, "hello": `{listen: "127.0.0.1:0"}`, "api": `{listen: "127.0.0.1:1"}`, "log": "{level: error}",
		"provisioning": fmt.Sprintf("{certificates: [{pfx: %[1]s/amt.pfx, password_file: %[1]s/amt.password}], networks: [127.0.0.0/8]}",
			s.dir),
	}
	for _, m := range more {
		k, v, _ := strings.Cut(m, ": ")
		text[k] = v
	}
	var b strings.Builder
	for k, v := range text {
		fmt.Fprintf(&b, "%s: %s\n", k, v)
	}
	file := filepath.Join(s.dir, "provisiond.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// migrate makes the database that the configuration names.
func (s *site) migrate(config string) {
	s.t.Helper()
	if out, err := exec.Command(program(s.t, "provisiond"), "migrate", "--config", config).CombinedOutput(); err != nil {
		s.t.Fatalf("migrate: %v: %s", err, out)
	}
}

const heard = "INSERT INTO devices (uuid, address, address_key, lifecycle, last_seen) VALUES (lower(hex(randomblob(16))), ?, ?, ?, ?)"

// key is how the store finds the devices of a network.
func key(address string) string {
	b := netip.MustParseAddr(address).As16()
	return hex.EncodeToString(b[:])
}

// file writes a file beside the configuration.
func (s *site) file(name, text string) string {
	s.t.Helper()
	file := filepath.Join(s.dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// backup makes one with the real command.
func (s *site) backup(phrase string) string {
	s.t.Helper()
	file := filepath.Join(s.dir, "amt.backup")
	if out, err := exec.Command(program(s.t, "provisiond"), "backup", "create", "--config", s.config(), "--out", file,
		"--passphrase-file", s.file("made-with", phrase)).CombinedOutput(); err != nil {
		s.t.Fatalf("backup create: %v: %s", err, out)
	}
	return file
}

// fresh is a SQLite database as migrate leaves it, made once and copied.
var fresh struct {
	sync.Once
	files map[string][]byte
}

func (s *site) sqlite() string {
	s.t.Helper()
	config := s.config()
	fresh.Do(func() {
		s.migrate(config)
		files := map[string][]byte{}
		for _, name := range []string{store.DatabaseFile, "master.key"} {
			b, err := os.ReadFile(filepath.Join(s.data, name))
			if err != nil {
				s.t.Fatal(err)
			}
			files[name] = b
		}
		fresh.files = files
	})
	if fresh.files == nil {
		s.t.Fatal("no database could be made")
	}
	if err := os.MkdirAll(s.data, 0o700); err != nil {
		s.t.Fatal(err)
	}
	for name, b := range fresh.files {
		if err := os.WriteFile(filepath.Join(s.data, name), b, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	return config
}

func (s *site) doctor(config string, args ...string) (Report, int) {
	s.t.Helper()
	c := exec.Command(program(s.t, "provisiond"), append([]string{"doctor", "--json", "--config", config}, args...)...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	start := time.Now()
	_ = c.Run()
	if took := time.Since(start); took > 60*time.Second {
		s.t.Errorf("the doctor took %v", took)
	}
	return decodeReport(s.t, &stdout, stderr.String()), c.ProcessState.ExitCode()
}

// sql changes the SQLite file behind everybody's back.
func (s *site) sql(text string, args ...any) {
	s.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.data, store.DatabaseFile))
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(text, args...); err != nil {
		s.t.Fatal(err)
	}
}

// mount gives the data folder a small file system of its own.
func (s *site) mount() {
	s.t.Helper()
	needs(s.t)
	if err := os.MkdirAll(s.data, 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := syscall.Mount("doctor-test", s.data, "tmpfs", 0, "size=24m"); err != nil {
		s.t.Fatalf("mount a small file system: %v", err)
	}
	s.t.Cleanup(func() {
		if err := syscall.Unmount(s.data, syscall.MNT_DETACH); err != nil {
			s.t.Errorf("unmount: %v", err)
		}
	})
}

// standby restarts a Postgres in recovery.
func standby(t *testing.T, pg *pgtest.Server) {
	t.Helper()
	u, err := url.Parse(pg.URL())
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(u.Query().Get("host"), "data")
	info, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "standby.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(filepath.Join(data, "standby.signal"), int(st.Uid), int(st.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	pg.Kill(t)
	pg.Restart(t)
}

func with(t *testing.T, text, key, value string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set(key, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// ntpServer tells a time that is off.
func ntpServer(t *testing.T, off time.Duration) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = c.Close(); <-done })
	go func() {
		defer close(done)
		b := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if n < 48 {
				continue
			}
			a := make([]byte, 48)
			a[0], a[1] = 4<<3|4, 2
			copy(a[24:32], b[40:48])
			now := time.Now().Add(off)
			for _, at := range []int{32, 40} {
				binary.BigEndian.PutUint32(a[at:], uint32(now.Unix()+2208988800))
				binary.BigEndian.PutUint32(a[at+4:], uint32(int64(now.Nanosecond())<<32/1e9))
			}
			_, _ = c.WriteTo(a, from)
		}
	}()
	return c.LocalAddr().String()
}
