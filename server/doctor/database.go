package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/provisiond/provisiond/store"
)

const (
	slowDatabase  = 50 * time.Millisecond
	stuckDatabase = 500 * time.Millisecond
	queueSlow     = 2 * time.Minute
	queueStuck    = 10 * time.Minute
	backupOld     = 26 * time.Hour
	backupTooOld  = 8 * 24 * time.Hour
)

// database: is it there, does it take writes, how fast does it answer?
func (v *visit) database(context.Context) []Check {
	const name = "database"
	s, _ := v.survey()
	where := s.Where
	if s.Holder != "" {
		where += ", in use by process " + s.Holder + " and read beside it,"
	}
	switch {
	case errors.Is(s.Problem, store.ErrUnavailable):
		return one(name, Fail, "is Postgres running, is TCP to it open, and are name and password in database.url right?",
			"%s does not answer: %v", where, s.Problem)
	case s.Problem != nil:
		return one(name, Fail, problemHint(s), "%s: %v", where, s.Problem)
	case s.Standby:
		return one(name, Fail, "point database.url at the primary; several hosts and target_session_attrs=primary in it find the primary "+
			"by themselves", "%s is a standby: it takes no writes, so nothing can be provisioned", where)
	case s.ReadOnly:
		return one(name, Fail, "ALTER ROLE ... SET default_transaction_read_only = off, or the same for the database",
			"%s takes no writes: default_transaction_read_only is on", where)
	case s.Empty:
		return one(name, Warn, "provisiond serve makes it, provisiond migrate too", "%s: nothing is there yet", where)
	}
	said := fmt.Sprintf("%s answers in %s, %s", where, s.Latency.Round(10*time.Microsecond), size(s.Bytes))
	for i, t := range s.Tables {
		if i < 3 {
			said += fmt.Sprintf("\n  %s %s", t.Name, size(t.Bytes))
		}
	}
	switch {
	case s.Latency > stuckDatabase:
		return one(name, Fail, "each step of a run is a few of these: put the database nearer, or find out what loads it", "%s", said)
	case s.Latency > slowDatabase:
		return one(name, Warn, "each step of a run is a few of these: is the database far away, or busy?", "%s", said)
	}
	return one(name, Pass, "", "%s", said)
}

func problemHint(s store.Survey) string {
	switch {
	case errors.Is(s.Problem, fs.ErrPermission):
		return "run the doctor as root or as the user of the service"
	case s.Engine == store.SQLite:
		return "if the file is damaged, restore the newest backup: provisiond backup restore FILE"
	}
	return ""
}

// known is false, with the answer, when the database could not be asked.
func (v *visit) known(name string) (store.Survey, []Check, bool) {
	s, _ := v.survey()
	if s.Problem != nil && s.Schema == 0 {
		return s, one(name, Warn, "see the check database", "not known, since the database could not be asked"), false
	}
	if s.Empty {
		return s, one(name, Skip, "", "nothing to look at yet: the database is empty"), false
	}
	return s, nil, true
}

// schema compares the schema with what this program knows.
func (v *visit) schema(context.Context) []Check {
	const name = "schema"
	s, answer, ok := v.known(name)
	if !ok {
		return answer
	}
	switch {
	case s.Schema > s.Needs && s.UsableFrom > 0 && s.UsableFrom <= s.Needs:
		return one(name, Warn, "upgrade this node too",
			"schema %d is newer than this program, which knows %d; it says that this program can use it", s.Schema, s.Needs)
	case s.Schema > s.Needs:
		return one(name, Fail, "start the newer provisiond that was used before, or restore the backup from before the upgrade",
			"schema %d is from the future: this program knows %d and leaves it alone", s.Schema, s.Needs)
	case s.Schema < s.Needs:
		return one(name, Warn, "provisiond migrate --config FILE, or just start the daemon",
			"schema %d is older than this program, which needs %d", s.Schema, s.Needs)
	}
	return one(name, Pass, "", "schema %d, which is what this program needs", s.Schema)
}

// rights: may the database's user do its work, and may we write the folder?
func (v *visit) rights(context.Context) []Check {
	const name = "rights"
	s, _ := v.survey()
	if s.Engine == store.Postgres {
		_, answer, ok := v.known(name)
		if !ok {
			return answer
		}
		if len(s.Lacking) > 0 {
			return one(name, Fail, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO the user of database.url",
				"the database's user lacks rights: %s", strings.Join(s.Lacking, "; "))
		}
	}
	if err := tryWrite(v.c.DataDir); errors.Is(err, fs.ErrNotExist) {
		return one(name, Warn, folderHint(v.c.DataDir, err), "the data folder %s: %v", v.c.DataDir, plainError(err))
	} else if err != nil {
		return one(name, Fail, folderHint(v.c.DataDir, err), "the data folder %s: %v", v.c.DataDir, plainError(err))
	}
	if s.Standby || s.ReadOnly { // which the check of the database says
		return one(name, Pass, "", "the database's user has its rights, and the data folder %s can be written", v.c.DataDir)
	}
	return one(name, Pass, "", "the database and the data folder %s can be written", v.c.DataDir)
}

// tryWrite makes a file of some size and removes it.
func tryWrite(dir string) error {
	if dir == "" {
		return nil
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(make([]byte, 256<<10))
	if serr := f.Sync(); err == nil {
		err = serr
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func plainError(err error) string {
	switch {
	case errors.Is(err, syscall.EROFS):
		return "the file system is read-only"
	case errors.Is(err, syscall.ENOSPC):
		return "the disk is full"
	case errors.Is(err, syscall.EDQUOT):
		return "the quota is used up"
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("user %d may not write there", os.Geteuid())
	case errors.Is(err, fs.ErrNotExist):
		return "it is not there yet"
	}
	return err.Error()
}

func folderHint(dir string, err error) string {
	switch {
	case errors.Is(err, syscall.EROFS):
		return "mount it writable; under systemd, ReadWritePaths=" + dir
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "make room: no hello can be kept and no password can be stored until there is some"
	case errors.Is(err, fs.ErrNotExist):
		return "provisiond serve makes it; or install -d -m 0700 -o provisiond " + dir
	}
	return "chown -R provisiond " + dir + ", or run as the user it belongs to"
}

// masterKey is the canary: does the key open the data keys? Nothing else is
// needed to know whether any password can be read.
func (v *visit) masterKey(context.Context) []Check {
	const name = "master_key"
	s, keyErr := v.survey()
	const lost = "give the right key (master_key in the configuration); without it no password can be read, and the daemon does not start"
	switch {
	case keyErr != nil && errors.Is(keyErr, fs.ErrNotExist) && (s.Empty || s.DataKeys == 0 && s.Problem == nil):
		return one(name, Skip, "", "there is no master key yet; the first start makes one in the data folder")
	case keyErr != nil:
		return one(name, Fail, lost, "%v", keyErr)
	case s.Keys != nil:
		return one(name, Fail, lost+". Was the file replaced, or an older database restored?", "%v", s.Keys)
	}
	if _, answer, ok := v.known(name); !ok {
		return answer
	}
	if v.c.DataDir != "" && s.Engine == store.SQLite {
		if _, err := os.Stat(filepath.Join(v.c.DataDir, "master.key")); err == nil {
			return one(name, Pass, "for production keep it elsewhere: master_key: {credential: provisiond_kek}",
				"the master key opens %s; it lies in the data folder, so a copy of the folder opens everything",
				plural(s.DataKeys, "data key"))
		}
	}
	return one(name, Pass, "", "the master key opens %s", plural(s.DataKeys, "data key"))
}

// audit: is the chain of the audit whole?
func (v *visit) audit(context.Context) []Check {
	const name = "audit"
	s, answer, ok := v.known(name)
	if !ok {
		return answer
	}
	var broken *store.AuditError
	switch {
	case errors.As(s.Audit, &broken):
		return one(name, Fail, "somebody changed the audit in the database itself: keep a copy of it as it is, and compare it with the "+
			"newest backup", "the chain is broken: %v", broken)
	case errors.Is(s.Audit, context.DeadlineExceeded):
		return one(name, Skip, "provctl audit verify reads all of it", "the audit is too long to be read here")
	case s.Audit != nil:
		return one(name, Warn, "provctl audit verify reads it again and says where it fails; look at the database's own log",
			"the audit could not be read: %v", s.Audit)
	}
	return one(name, Pass, "", "the chain of %s is whole", plural(s.AuditRecords, "record"))
}

// queue: for how long has work that could be done waited?
func (v *visit) queue(context.Context) []Check {
	const name = "queue"
	s, answer, ok := v.known(name)
	if !ok {
		return answer
	}
	if s.Waiting == 0 || s.OldestWaiting.IsZero() {
		return one(name, Pass, "", "no work waits")
	}
	now := v.now
	if !s.Clock.IsZero() {
		now = s.Clock
	}
	age := now.Sub(s.OldestWaiting).Round(time.Second)
	said := fmt.Sprintf("%s could be worked on, the oldest for %s", plural(s.Waiting, "run"), age)
	switch {
	case age > queueStuck:
		return one(name, Fail, "is a daemon running? Else raise provisioning.workers, or look in its log for what every run waits on", "%s",
			said)
	case age > queueSlow:
		return one(name, Warn, "the workers do not keep up: raise provisioning.workers, or add a node", "%s", said)
	}
	return one(name, Pass, "", "%s", said)
}

func ageWords(d time.Duration) string {
	switch {
	case d < 2*time.Hour:
		return plural(int(d/time.Minute), "minute")
	case d < 48*time.Hour:
		return plural(int(d/time.Hour), "hour")
	}
	return plural(int(d/(24*time.Hour)), "day")
}

// size is a number of bytes for people.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d bytes", n)
	}
	f, i := float64(n)/unit, 0
	for f >= unit && i < 4 {
		f, i = f/unit, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTP"[i])
}
