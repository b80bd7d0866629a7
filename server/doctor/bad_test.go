package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/pgtest"
)

// TestBadInput: each thing that may be wrong is found, explained and survived.
func TestBadInput(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		make   func(t *testing.T, s *site) string
		check  string // of the report of doctor; the network's rows ask within a netLab
		status Status
		detail []string
		hint   []string
	}{
		{"all is well", func(t *testing.T, s *site) string {
			f := s.sqlite()
			return f
		}, "master_key", Pass, []string{"opens 1 data key"}, nil},
		{"a master key that changed", func(t *testing.T, s *site) string {
			f := s.sqlite()
			if err := os.WriteFile(filepath.Join(s.data, "master.key"), bytes.Repeat([]byte("ab"), 32), 0o600); err != nil {
				t.Fatal(err)
			}
			return f
		}, "master_key", Fail, []string{"not the one this database was sealed with"},
			[]string{"give the right key", "Was the file replaced"}},
		{"a master key that is gone", func(t *testing.T, s *site) string {
			f := s.sqlite()
			if err := os.Remove(filepath.Join(s.data, "master.key")); err != nil {
				t.Fatal(err)
			}
			return f
		}, "master_key", Fail, []string{"no such file"}, []string{"give the right key"}},
		{"a master key that others may read", func(t *testing.T, s *site) string {
			f := s.sqlite()
			if err := os.Chmod(filepath.Join(s.data, "master.key"), 0o644); err != nil {
				t.Fatal(err)
			}
			return f
		}, "master_key", Fail, []string{"others may read it"}, nil},
		{"a schema from the future", func(t *testing.T, s *site) string {
			f := s.sqlite()
			s.sql("INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)")
			s.sql("UPDATE settings SET value = '9999' WHERE key = 'schema_readable_from'")
			return f
		}, "schema", Fail, []string{"schema 9999 is from the future"}, []string{"start the newer provisiond"}},
		{"a newer schema that this program can use", func(t *testing.T, s *site) string {
			f := s.sqlite()
			s.sql("INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)")
			s.sql("UPDATE settings SET value = '1' WHERE key = 'schema_readable_from'")
			return f
		}, "schema", Warn, []string{"says that this program can use it"}, nil},
		{"a file that is no database", func(t *testing.T, s *site) string {
			f := s.config()
			if err := os.MkdirAll(s.data, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(s.data, store.DatabaseFile), bytes.Repeat([]byte("nonsense"), 1000), 0o600); err != nil {
				t.Fatal(err)
			}
			return f
		}, "database", Fail, []string{"not a database"}, []string{"restore the newest backup"}},
		{"a read-only data folder", func(t *testing.T, s *site) string {
			s.mount()
			f := s.sqlite()
			if err := syscall.Mount("doctor-test", s.data, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
			return f
		}, "rights", Fail, []string{"the file system is read-only"}, []string{"mount it writable"}},
		{"a full disk", func(t *testing.T, s *site) string {
			s.mount()
			f := s.sqlite()
			_ = os.WriteFile(filepath.Join(s.data, "fill"), make([]byte, 64<<20), 0o600) // until there is no more room
			return f
		}, "rights", Fail, []string{"the disk is full"}, []string{"make room"}},
		{"a disk with little left", func(t *testing.T, s *site) string {
			s.mount()
			f := s.sqlite()
			return f
		}, "disk", Fail, []string{"free for"}, []string{"retention.hellos"}},
		{"an audit that somebody changed", func(t *testing.T, s *site) string {
			f := s.sqlite()
			s.sql("INSERT INTO audit (seq, at, actor, action, subject, detail, prev_hash, hash) VALUES (1, 0, 'x', 'y', '', '{}', x'', " +
				"x'00')")
			return f
		}, "audit", Fail, []string{"the chain is broken"}, []string{"newest backup"}},
		{"no backup", func(t *testing.T, s *site) string {
			f := s.sqlite()
			return f
		}, "backup", Warn, []string{"there is no backup"}, []string{"provisiond backup create"}},
		{"an old backup", func(t *testing.T, s *site) string {
			f := s.sqlite()
			s.sql("INSERT INTO settings (key, value, updated_at) VALUES ('backup.last', ?, 0)",
				`{"at":"`+time.Now().Add(-30*24*time.Hour).Format(time.RFC3339)+`"}`)
			return f
		}, "backup", Fail, []string{"30 days ago"}, []string{"every night"}},
		{"a backup that is cut", func(t *testing.T, s *site) string {
			f := s.sqlite()
			file := filepath.Join(s.dir, "amt.backup")
			if err := os.WriteFile(file, []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
			s.sql("INSERT INTO settings (key, value, updated_at) VALUES ('backup.last', ?, 0)",
				fmt.Sprintf(`{"at":%q,"file":%q,"size":1000}`, time.Now().Format(time.RFC3339), file))
			return f
		}, "backup", Fail, []string{"has 4 bytes and should have 1000"}, []string{"provisiond backup verify"}},
		{"a backup with another passphrase", func(t *testing.T, s *site) string {
			s.sqlite()
			s.backup("kept in the safe")
			return s.config("doctor: {backup_passphrase_file: " + s.file("phrase", "left by a cron job\n") + "}")
		}, "backup", Fail, []string{"amt.backup does not open: the passphrase of doctor.backup_passphrase_file is not the one it was " +
			"made with"}, []string{"a backup that nobody can open is none"}},
		{"a backup with its passphrase", func(t *testing.T, s *site) string {
			s.sqlite()
			s.backup("kept in the safe")
			return s.config("doctor: {backup_passphrase_file: " + s.file("phrase", "kept in the safe\n") + "}")
		}, "backup", Pass, []string{"it opens, to its end"}, nil},
		{"a backup whose passphrase nobody named", func(t *testing.T, s *site) string {
			f := s.sqlite()
			s.backup("kept in the safe")
			return f
		}, "backup", Pass, []string{"whether its passphrase opens it is not known without doctor.backup_passphrase_file"}, nil},
		{"a backup with a byte changed", func(t *testing.T, s *site) string {
			s.sqlite()
			file := s.backup("kept in the safe")
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return s.config("doctor: {backup_passphrase_file: " + s.file("phrase", "kept in the safe") + "}")
		}, "backup", Fail, []string{"amt.backup does not open: the file "}, []string{"provisiond backup verify"}},
		{"a backup that was carried away", func(t *testing.T, s *site) string {
			s.sqlite()
			if err := os.Remove(s.backup("kept in the safe")); err != nil {
				t.Fatal(err)
			}
			return s.config("doctor: {backup_passphrase_file: " + s.file("phrase", "kept in the safe") + "}")
		}, "backup", Pass, []string{"its file is not here any more"}, nil},
		{"a record of a backup that is nonsense", func(t *testing.T, s *site) string {
			f := s.sqlite()
			s.sql("INSERT INTO settings (key, value, updated_at) VALUES ('backup.last', '{', 0)")
			return f
		}, "backup", Warn, []string{"cannot be read"}, nil},
		{"a clock off by a day", func(t *testing.T, s *site) string {
			return s.config("doctor: {ntp: \"" + ntpServer(t, 24*time.Hour) + "\"}")
		}, "clock", Fail, []string{"the clock is 24h0m0s slow"}, []string{"chronyd"}},
		{"a clock that went back", func(t *testing.T, s *site) string {
			f := s.sqlite()
			s.sql("INSERT INTO events (at, name) VALUES (?, 'x')", time.Now().Add(time.Hour).UnixMilli())
			return f
		}, "clock", Fail, []string{"lies in the future: this clock went back"}, nil},
		{"work that nobody does", func(t *testing.T, s *site) string {
			f := s.sqlite()
			s.sql("INSERT INTO devices (uuid) VALUES ('7f0c1d2e-3344-4556-8778-99aabbccddee')")
			s.sql("INSERT INTO runs (uuid, kind, triggered_by, state, created_at, not_before) VALUES "+
				"('7f0c1d2e-3344-4556-8778-99aabbccddee', 'provision', 'hello', 'queued', ?, ?)",
				time.Now().UnixMilli(), time.Now().Add(-time.Hour).UnixMilli())
			return f
		}, "queue", Fail, []string{"1 run could be worked on, the oldest for 1h0m"}, []string{"is a daemon running?"}},
		{"devices that report a suffix nobody serves", func(t *testing.T, s *site) string {
			s.sqlite()
			f := s.config("zones: [corp.example.com]")
			s.sql("INSERT INTO devices (uuid, suffix, amt_version, amt_major) VALUES ('7f0c1d2e-3344-4556-8778-99aabbccddee', " +
				"'plant.local', '11.8.65', 11)")
			return f
		}, "suffixes", Warn, []string{"1 of 2 suffixes is served by no certificate", "plant.local       1 device, AMT 11.8  none"},
			[]string{"provctl cert request --cn provisionserver.plant.local"}},
		{"a network that is silent", func(t *testing.T, s *site) string {
			s.sqlite()
			s.sql(heard, "10.20.1.7", key("10.20.1.7"), "failed", time.Now().Add(-3*24*time.Hour).UnixMilli())
			s.sql(heard, "10.20.1.8", key("10.20.1.8"), "provisioned", time.Now().Add(-3*24*time.Hour).UnixMilli())
			s.sql(heard, "10.20.2.7", key("10.20.2.7"), "queued", time.Now().Add(-time.Hour).UnixMilli())
			s.sql(heard, "fd00::7", key("fd00::7"), "provisioned", time.Now().Add(-time.Hour).UnixMilli())
			return s.config("zones: [corp.example.com]", "provisioning: {networks: [10.20.0.0/16, 10.30.0.0/16, \"fd00::/48\"]}")
		}, "networks", Warn, []string{"from some of provisioning.networks no hello ever came; 1 subnet is silent for more than a day",
			"10.20.0.0/16  3        2           60 minutes ago", "10.30.0.0/16  0        0           never a hello",
			"fd00::/48     1        0           60 minutes ago",
			"10.20.1.0/24: 1 device not set up, 3 days ago"},
			[]string{"getent ahosts provisionserver.corp.example.com", "http://provisionserver.corp.example.com:9971/probe"}},
		{"networks that are heard", func(t *testing.T, s *site) string {
			f := s.sqlite()
			s.sql(heard, "127.0.0.7", key("127.0.0.7"), "queued", time.Now().UnixMilli())
			return f
		}, "networks", Pass, []string{"hellos come from every network of provisioning.networks",
			"127.0.0.0/8  1        1           0 minutes ago"}, nil},
		{"a name that two devices have", func(t *testing.T, s *site) string {
			f := s.sqlite()
			for _, u := range []string{"11223344-5566-7788-99aa-bbccddeeff01", "11223344-5566-7788-99aa-bbccddeeff02"} {
				s.sql("INSERT INTO devices (uuid, lifecycle, host, fqdn, first_seen, provisioned_at) VALUES (?, 'provisioned', 'pc-7', "+
					"'pc-7.corp.example.com', 1, 1)", u)
			}
			return f
		}, "names", Warn, []string{"pc-7.corp.example.com: 11223344-5566-7788-99aa-bbccddeeff01, 11223344-5566-7788-99aa-bbccddeeff02"},
			[]string{"provctl device name UUID FQDN"}},
		{"a certificate file that is gone", func(t *testing.T, s *site) string {
			if err := os.Remove(filepath.Join(s.dir, "amt.pfx")); err != nil {
				t.Fatal(err)
			}
			return s.config()
		}, "configuration", Fail, []string{"there is no file"}, nil},
		{"a certificate with a wrong password", func(t *testing.T, s *site) string {
			if err := os.WriteFile(filepath.Join(s.dir, "amt.password"), []byte("wrong"), 0o600); err != nil {
				t.Fatal(err)
			}
			return s.config()
		}, "certificates", Fail, []string{"pfx_password_wrong"}, nil},
		{"a configuration that is no YAML", func(t *testing.T, s *site) string {
			f := s.config()
			if err := os.WriteFile(f, []byte("{[}"), 0o600); err != nil {
				t.Fatal(err)
			}
			return f
		}, "configuration", Fail, nil, []string{"config keys"}},
		{"an interface that is not there", func(t *testing.T, s *site) string {
			return s.config("doctor: {dhcp_interface: nope0}")
		}, "dhcp:nope0", Fail, []string{"there is no interface nope0"}, nil},
		{"a device that is off", func(t *testing.T, s *site) string {
			return s.config("doctor: {sample_device: 127.0.0.77}")
		}, "device:127.0.0.77", Fail, []string{"it stops at TCP"}, []string{"16993"}},
		{"a device outside of the networks", func(t *testing.T, s *site) string {
			return s.config("doctor: {sample_device: 10.99.0.1}")
		}, "device:10.99.0.1", Warn, []string{"not tried"}, []string{"provisioning.networks: [10.99.0.1]"}},
		{"a Postgres that is not there", func(t *testing.T, s *site) string {
			return s.config("database: {url: \"postgres://nobody:hunter2@127.0.0.1:1/none\"}")
		}, "database", Fail, []string{"postgres://nobody@127.0.0.1:1/none does not answer"}, []string{"is Postgres running"}},
		{"a Postgres that is a standby", func(t *testing.T, s *site) string {
			pg := pgtest.Start(t)
			f := s.config(fmt.Sprintf("database: {url: %q}", pg.URL()))
			s.migrate(f)
			standby(t, pg)
			return f
		}, "database", Fail, []string{"is a standby: it takes no writes"}, []string{"target_session_attrs=primary"}},
		{"a Postgres that takes no writes", func(t *testing.T, s *site) string {
			u := pgtest.URL(t)
			f := s.config(fmt.Sprintf("database: {url: %q}", u))
			s.migrate(f)
			return s.config(fmt.Sprintf("database: {url: %q}", with(t, u, "default_transaction_read_only", "on")))
		}, "database", Fail, []string{"default_transaction_read_only is on"}, []string{"ALTER ROLE"}},
		{"what may be written to a Postgres that takes no writes", func(t *testing.T, s *site) string {
			u := pgtest.URL(t)
			f := s.config(fmt.Sprintf("database: {url: %q}", u))
			s.migrate(f)
			return s.config(fmt.Sprintf("database: {url: %q}", with(t, u, "default_transaction_read_only", "on")))
		}, "rights", Pass, []string{"the database's user has its rights, and the data folder"}, nil},
		{"a Postgres that is well", func(t *testing.T, s *site) string {
			f := s.config(fmt.Sprintf("database: {url: %q}", pgtest.URL(t)))
			s.migrate(f)
			return f
		}, "rights", Pass, []string{"can be written"}, nil},
		{"a zone that does not answer", func(t *testing.T, s *site) string {
			l := s.network()
			l.resolver(nsRecord(), "--host-record=ns."+labZone+","+labOwnDNS)
			return l.configure("")
		}, "dns:" + labZone, Fail, []string{"no server of corp.example.com answers"}, []string{"UDP and TCP 53"}},
		{"a DHCP server that offers nothing", func(t *testing.T, s *site) string {
			l := s.network()
			l.zoneServer(ourRecord)
			l.resolver("--dhcp-range=10.77.0.100,10.77.0.150,1h", "--dhcp-option=15") // it answers, without a word of use
			return l.configure("")
		}, "dhcp:eth0", Fail, []string{"option 15 is missing", "option 15 (domain):        not sent"}, []string{"set option 15"}},
		{"no right to open the port", func(t *testing.T, s *site) string {
			s.network().as = []string{"setpriv", "--bounding-set=-net_bind_service"}
			return s.lab.configure("hello: {listen: \"0.0.0.0:971\"}")
		}, "listener", Fail, []string{"no right to open 0.0.0.0:971"}, []string{"CAP_NET_BIND_SERVICE"}},
		{"no right to ask DHCP", func(t *testing.T, s *site) string {
			s.network().as = []string{"setpriv", "--bounding-set=-net_bind_service"}
			return s.lab.configure("")
		}, "dhcp:eth0", Warn, []string{"no right to use port 68"}, []string{"run the doctor as root"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			config := c.make(t, s)
			ask := s.doctor
			if s.lab != nil {
				ask = s.lab.doctor
			}
			r, exit := ask(config)
			want(t, checkOf(t, r, c.check), c.status, c.detail, c.hint)
			if exit != r.Worst().Level() {
				t.Errorf("exit status %d with %s as the worst", exit, r.Worst())
			}
			for _, k := range r.Checks {
				if strings.Contains(k.Detail+k.Hint, "hunter2") {
					t.Errorf("%s shows a password", k.Name)
				}
				if strings.Contains(k.Detail, "check itself failed") {
					t.Errorf("%s: %s", k.Name, k.Hint)
				}
			}
		})
	}
}

// TestASilentWorldEndsInTime: nothing answers, everything is said, nothing hangs.
func TestASilentWorldEndsInTime(t *testing.T) {
	t.Parallel()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = udp.Close(), tcp.Close() })
	silent := netip.MustParseAddrPort(udp.LocalAddr().String())
	port := netip.MustParseAddrPort(tcp.Addr().String()).Port()
	var zones []string
	for i := range 40 {
		zones = append(zones, fmt.Sprintf("z%d.example.com", i))
	}
	d := New(Config{
		HelloListen: tcp.Addr().String(), Zones: zones, Resolvers: []netip.AddrPort{silent, silent}, NTP: silent.String(),
		DataDir: t.TempDir(),
		Sample:  netip.MustParseAddr("127.0.0.1"), Port: port, Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Own: func() []netip.Addr { return nil },
		Look: func(ctx context.Context) (store.Survey, error) {
			return store.Look(ctx, store.Options{URL: fmt.Sprintf("postgres://a@127.0.0.1:%d/b?sslmode=disable", port)}), nil
		},
		Running: func(ctx context.Context) Daemon { <-ctx.Done(); return Daemon{Unknown: "silence"} },
	})
	start := time.Now()
	r, _ := d.Run(t.Context())
	if took := time.Since(start); took > 60*time.Second {
		t.Errorf("it took %v", took)
	}
	for _, name := range []string{"dns:z0.example.com", "dns:z39.example.com", "database", "device:127.0.0.1"} {
		if c := checkOf(t, r, name); c.Status != Fail {
			t.Errorf("%+v", c)
		}
	}
}

// TestAPanicIsAFinding: a check that breaks does not take the others with it.
func TestAPanicIsAFinding(t *testing.T) {
	t.Parallel()
	d := New(Config{HelloListen: "127.0.0.1:0", Own: func() []netip.Addr { return nil },
		Look: func(context.Context) (store.Survey, error) { panic("told to") }})
	r, _ := d.Run(t.Context())
	if c := checkOf(t, r, "database"); c.Status != Fail || !strings.Contains(c.Detail, "told to") {
		t.Errorf("%+v", c)
	}
	if c := checkOf(t, r, "disk"); c.Status == Fail {
		t.Errorf("%+v", c)
	}
}

// TestABackupIsTriedOnce: a daemon's doctor does not read the same long file at
// each round, and does when the file or the passphrase is another.
func TestABackupIsTriedOnce(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "amt.backup")
	if err := os.WriteFile(file, []byte("no backup"), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	var o openedBackup
	first := o.try(t.Context(), file, info, amt.NewSecret("a passphrase"))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if again := o.try(t.Context(), file, info, amt.NewSecret("a passphrase")); first == nil || !errors.Is(again, first) {
		t.Errorf("the file was read again: %v, then %v", first, again)
	}
	if other := o.try(t.Context(), file, info, amt.NewSecret("another one")); !errors.Is(other, os.ErrNotExist) {
		t.Errorf("with another passphrase it was not: %v", other)
	}
}
