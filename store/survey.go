package store

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/migrations"
)

// A Survey is what the store can learn of a database without changing anything
// in it: no lock, no migration, no new key. It works beside a running daemon,
// on a standby, and on a schema from the future. Zero fields are unknown.
type Survey struct {
	Engine string
	Where  string // the file, or the URL without its password

	Problem error  // why opening or asking failed; what the survey learnt before stands
	Empty   bool   // nobody has made anything in it yet
	Holder  string // SQLite: the process that has the data directory, "": none

	Latency    time.Duration // the median of five questions
	Clock      time.Time     // Postgres: the server's
	Schema     int64         // newest applied migration
	Needs      int64         // newest migration this program knows
	UsableFrom int64         // the oldest program that a newer schema can work with; 0: none

	Standby  bool     // Postgres in recovery: no write is possible
	ReadOnly bool     // Postgres: default_transaction_read_only
	Lacking  []string // Postgres: "table: RIGHT" that the daemon needs and lacks

	DataKeys int
	Keys     error // the given master key does not open the data keys

	AuditRecords int   // records in the audit chain
	Audit        error // an *AuditError if the chain is broken, else why the survey could not read all of it

	Waiting       int       // runs that a worker could take now
	OldestWaiting time.Time // due since
	Newest        time.Time // time of the newest record
	LastHello     time.Time
	Backup        LastBackup // zero: none
	BackupProblem error      // why its record is unreadable
	Suffixes      []SuffixCount
	Subnets       []SubnetCount
	SharedNames   []SharedName  // at most mostShared
	Certificates  []Certificate // without their keys
	Bytes         int64
	Tables        []TableSize // the largest first
}

// mostShared bounds how many shared names a survey lists.
const mostShared = 20

// SuffixCount is how many devices of one generation report a DNS suffix.
type SuffixCount struct {
	Suffix  string
	Version string // of one of them
	Devices int
}

// SubnetCount counts what a /24, or a /64 of IPv6, sent.
type SubnetCount struct {
	Subnet    netip.Prefix
	Devices   int
	Waiting   int       // not set up, and nobody refused them
	LastHello time.Time // of any of them; zero: never
}

// TableSize is the size of a table with its indexes.
type TableSize struct {
	Name  string
	Bytes int64
}

// NewestSchema is the number of this program's newest migration.
func NewestSchema(engine string) int64 {
	files, err := migrations.For(engine)
	if err != nil {
		return 0
	}
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return 0
	}
	var newest int64
	for _, n := range names {
		number, _, _ := strings.Cut(n, "_")
		if v, err := strconv.ParseInt(number, 10, 64); err == nil {
			newest = max(newest, v)
		}
	}
	return newest
}

// Look surveys the database that Open would open. o.Keys, if given, must be a
// keyring of its own: Look tries the data keys on it.
func Look(ctx context.Context, o Options) Survey {
	db := &DB{metrics: NewMetrics(nil), keys: o.Keys, trust: newTrustCache(), clock: time.Now, opened: time.Now(), commitFor: commitTimeout,
		memory: newMemory(Options{Dir: o.Dir, Beside: true}, zap.NewNop())} // a daemon may use the file
	s := &Survey{}
	if o.URL != "" {
		s.lookPostgres(ctx, db, o)
	} else {
		s.lookSQLite(ctx, db, o)
	}
	if db.read != nil {
		_ = db.read.Close()
	}
	if db.pool != nil {
		db.pool.Close()
	}
	return *s
}

func (s *Survey) lookSQLite(ctx context.Context, db *DB, o Options) {
	s.Engine, db.engine = SQLite, SQLite
	s.Where, s.Needs = filepath.Join(o.Dir, DatabaseFile), NewestSchema(SQLite)
	s.Holder = holderOf(o.Dir)
	info, err := os.Stat(s.Where)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.Empty = true
		return
	case err != nil:
		s.Problem = err
		return
	}
	s.Bytes = info.Size()
	if log, err := os.Stat(s.Where + "-wal"); err == nil {
		s.Bytes += log.Size()
	}
	open := func(more string) error {
		v := url.Values{"mode": {"ro"}, "_pragma": {"query_only(1)", "busy_timeout(2000)"}}
		if more != "" {
			v.Set(more, "1")
		}
		var err error
		if db.read, err = sql.Open("sqlite", dsn(s.Where, v)); err != nil {
			return err
		}
		db.read.SetMaxOpenConns(1)
		var n int
		return db.read.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master").Scan(&n)
	}
	if err := open(""); err != nil {
		// On a read-only file system SQLite cannot make the log's index; then nobody
		// can be writing either.
		first := err
		_ = db.read.Close()
		if err := open("immutable"); err != nil {
			s.Problem = fmt.Errorf("open %s: %w", s.Where, first)
			return
		}
	}
	s.ask(ctx, db)
}

func (s *Survey) lookPostgres(ctx context.Context, db *DB, o Options) {
	s.Engine, db.engine = Postgres, Postgres
	s.Needs = NewestSchema(Postgres)
	cfg, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		s.Problem = fmt.Errorf("database url: %w", err) // pgx leaves the password out
		return
	}
	c := cfg.ConnConfig
	s.Where = fmt.Sprintf("postgres://%s@%s:%d/%s", c.User, c.Host, c.Port, c.Database)
	cfg.MaxConns, cfg.MinConns = 1, 0
	c.ConnectTimeout = 4 * time.Second
	c.RuntimeParams["application_name"] = "provisiond doctor"
	c.RuntimeParams["timezone"] = "UTC"
	if db.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		s.Problem = err
		return
	}
	err = db.pool.QueryRow(ctx, "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on', "+
		"clock_timestamp()").Scan(&s.Standby, &s.ReadOnly, &s.Clock)
	if err != nil {
		s.Problem = fmt.Errorf("%w: %w", ErrUnavailable, err)
		return
	}
	s.ask(ctx, db)
}

// ask learns the rest in one read transaction per question, so that a table
// that is not there yet spoils only its own answer.
func (s *Survey) ask(ctx context.Context, db *DB) {
	took := make([]time.Duration, 5)
	for i := range took {
		start := time.Now()
		if err := db.Ping(ctx); err != nil {
			s.Problem = err
			return
		}
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	s.Latency = took[len(took)/2]

	there := "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('goose_db_version', 'settings')"
	if db.engine == Postgres {
		there = "SELECT count(*) FROM pg_class WHERE oid IN (to_regclass('goose_db_version'), to_regclass('settings'))"
	}
	read := func(what string, fn func(tx *Tx) error) {
		if s.Problem != nil {
			return
		}
		if err := db.Read(ctx, fn); err != nil && !errors.Is(err, ErrNotFound) {
			s.Problem = fmt.Errorf("%s: %w", what, err)
		}
	}
	read("look for the schema", func(tx *Tx) error {
		var n int
		if err := tx.one(ctx, there, nil, &n); err != nil {
			return err
		}
		if s.Empty = n < 2; s.Empty {
			return nil
		}
		return tx.one(ctx, "SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied", nil, &s.Schema)
	})
	if s.Empty || s.Problem != nil {
		return
	}
	if s.Schema > s.Needs {
		read("read who can use this schema", func(tx *Tx) error {
			v, err := tx.Setting(ctx, "schema_readable_from")
			if err == nil {
				s.UsableFrom, _ = strconv.ParseInt(v, 10, 64)
			}
			return err
		})
	}
	if db.engine == Postgres {
		read("ask for rights", func(tx *Tx) error { return s.rights(ctx, tx) })
		read("ask for sizes", func(tx *Tx) error { return s.sizes(ctx, tx) })
	}
	read("read the data keys", func(tx *Tx) error { return s.keys(ctx, tx) })
	read("read the queue", func(tx *Tx) error {
		return tx.one(ctx, "SELECT count(*), min(not_before) FROM runs WHERE "+liveRuns+" AND state = 'queued' AND not_before <= {now}",
			nil,
			&s.Waiting, timeOf{&s.OldestWaiting})
	})
	read("read the newest event", func(tx *Tx) error {
		return tx.one(ctx, "SELECT at FROM events ORDER BY id DESC LIMIT 1", nil, timeOf{&s.Newest})
	})
	read("read the newest hello", func(tx *Tx) error {
		return tx.one(ctx, "SELECT at FROM hellos ORDER BY id DESC LIMIT 1", nil, timeOf{&s.LastHello})
	})
	read("read when the last backup was", func(tx *Tx) (err error) {
		if s.Backup, err = tx.LastBackup(ctx); err != nil && !errors.Is(err, ErrNotFound) {
			s.BackupProblem = err
		}
		return nil
	})
	read("read the devices' suffixes", func(tx *Tx) (err error) {
		s.Suffixes, err = list(ctx, tx, func(r scanner) (SuffixCount, error) {
			var c SuffixCount
			err := r.Scan(&c.Suffix, &c.Version, &c.Devices)
			return c, err
		}, "SELECT suffix, max(amt_version), count(*) FROM devices WHERE suffix <> '' GROUP BY suffix, amt_major ORDER BY count(*) DESC, "+
			"suffix LIMIT 40")
		return err
	})
	read("read who was heard from where", func(tx *Tx) (err error) {
		s.Subnets, err = list(ctx, tx, func(r scanner) (SubnetCount, error) {
			var c SubnetCount
			var key string
			err := r.Scan(&key, &c.Devices, &c.Waiting, timeOf{&c.LastHello})
			if err == nil {
				c.Subnet, err = subnetOf(key)
			}
			return c, err
		}, `SELECT substr(address_key, 1, CASE WHEN address_key LIKE '00000000000000000000ffff%' THEN 30 ELSE 16 END), count(*),
			count(CASE WHEN lifecycle IN ('discovered', 'pending_approval', 'pending_identity', 'pending_certificate', 'queued', 'failed',
			'dormant') THEN 1 END), max(last_seen)
			FROM devices WHERE address_key <> '' GROUP BY 1 ORDER BY 1 LIMIT 50000`)
		return err
	})
	read("read the devices' names", func(tx *Tx) (err error) {
		s.SharedNames, err = tx.SharedNames(ctx, "", mostShared)
		return err
	})
	s.audit(ctx, db)
	read("read the certificates", func(tx *Tx) (err error) {
		s.Certificates, err = list(ctx, tx, func(r scanner) (Certificate, error) {
			var c certificateRow
			err := r.Scan(c.dest()...)
			return c.Certificate, err
		}, "SELECT "+certificateColumns+" FROM certificates ORDER BY created_at, id")
		return err
	})
}

// auditPatience bounds the time for reading the audit, which grows for ever.
const auditPatience = 4 * time.Second

func (s *Survey) audit(ctx context.Context, db *DB) {
	ctx, cancel := context.WithTimeout(ctx, auditPatience)
	defer cancel()
	s.Audit = db.Read(ctx, func(tx *Tx) error {
		n, err := tx.VerifyAudit(ctx)
		s.AuditRecords = int(n)
		return err
	})
	if ctx.Err() != nil {
		s.Audit = ctx.Err()
	}
}

func (s *Survey) keys(ctx context.Context, tx *Tx) error {
	keys := tx.db.keys
	return tx.each(ctx, func(r scanner) error {
		var id int64
		var wrapped []byte
		if err := r.Scan(&id, &wrapped); err != nil {
			return err
		}
		s.DataKeys++
		if keys != nil && s.Keys == nil {
			s.Keys = keys.Use(uint32(id), wrapped)
		}
		return nil
	}, "SELECT id, wrapped FROM data_keys ORDER BY id")
}

// appendOnly are the tables whose rows this program never changes or deletes.
var appendOnly = []string{"audit", "credentials"}

func (s *Survey) rights(ctx context.Context, tx *Tx) error {
	return tx.each(ctx, func(r scanner) error {
		var name string
		var get, add, change, remove bool
		if err := r.Scan(&name, &get, &add, &change, &remove); err != nil {
			return err
		}
		var lacks []string
		for right, has := range map[string]bool{"SELECT": get, "INSERT": add, "UPDATE": change || name == "audit", "DELETE": remove ||
			slices.Contains(appendOnly, name)} {
			if !has {
				lacks = append(lacks, right)
			}
		}
		if slices.Sort(lacks); len(lacks) > 0 {
			s.Lacking = append(s.Lacking, name+": "+strings.Join(lacks, ", "))
		}
		return nil
	}, `SELECT relname, has_table_privilege(oid, 'SELECT'), has_table_privilege(oid, 'INSERT'), has_table_privilege(oid, 'UPDATE'),
		has_table_privilege(oid, 'DELETE')
		FROM pg_class WHERE relkind = 'r' AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('settings'))
		ORDER BY relname`)
}

func (s *Survey) sizes(ctx context.Context, tx *Tx) error {
	if err := tx.one(ctx, "SELECT pg_database_size(current_database())", nil, &s.Bytes); err != nil {
		return err
	}
	var err error
	s.Tables, err = list(ctx, tx, func(r scanner) (TableSize, error) {
		var t TableSize
		err := r.Scan(&t.Name, &t.Bytes)
		return t, err
	}, `SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relkind = 'r'
		AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('settings')) ORDER BY 2 DESC LIMIT 5`)
	return err
}

// holderOf names the process that has a data directory. It reads the kernel's
// list of locks, since trying the lock would be in the way of a daemon that
// just starts.
func holderOf(dir string) string {
	name := filepath.Join(dir, "provisiond.lock")
	info, err := os.Stat(name)
	if err != nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return ""
	}
	inode := ":" + strconv.FormatUint(st.Ino, 10)
	for line := range strings.Lines(string(locks)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || f[3] != "WRITE" || !strings.HasSuffix(f[5], inode) {
			continue
		}
		if b, err := os.ReadFile(name); err == nil && len(b) > 0 && len(b) < 32 {
			return strings.TrimSpace(string(b))
		}
		return f[4]
	}
	return ""
}

// subnetOf is the network whose addresses have keys with this prefix.
func subnetOf(key string) (netip.Prefix, error) {
	b, err := hex.DecodeString(key + strings.Repeat("0", max(0, 32-len(key))))
	a, ok := netip.AddrFromSlice(b)
	if err != nil || !ok {
		return netip.Prefix{}, fmt.Errorf("address_key %q is none", key)
	}
	if a.Is4In6() {
		return netip.PrefixFrom(a.Unmap(), 4*len(key)-96), nil
	}
	return netip.PrefixFrom(a, 4*len(key)), nil
}
