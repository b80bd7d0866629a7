package store

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
)

// One SQL text serves both engines; $1 works on both. The text names what
// differs by a word in braces:
//
//	{now}      the wall clock, in the column's own form
//	{lease}    the clock of the leases
//	{lease+$3} the same plus $3 milliseconds
//	{lock}     FOR UPDATE, if the engine can lock rows
//	{follow}   only rows that no open transaction can slip in front of
//
// On SQLite a clock is one more parameter, so that the text stays the same and
// its prepared statement can be used again (statements.go).
var words = regexp.MustCompile(`\{(now|lease|lock|follow)(\+\$\d+)?\}`)

// A text is a query in one engine's form.
type text struct {
	sql        string
	now, lease bool // SQLite: append the clock's value as a parameter, in this order
}

// maxTexts is far above the number of this program's queries; only a list's
// filters can be so many.
const maxTexts = 2000

func translate(engine, q string, nargs int) *text {
	t := &text{}
	if engine == Postgres {
		const clock = "date_trunc('milliseconds', clock_timestamp())"
		t.sql = words.ReplaceAllStringFunc(q, func(w string) string {
			switch {
			case w == "{lock}":
				return "FOR UPDATE"
			case w == "{follow}":
				// The second term bounds the delay by a transaction that somebody left open on
				// the server.
				return "(xact < pg_snapshot_xmin(pg_current_snapshot()) OR at < " + clock + " - interval '15 seconds')"
			case strings.Contains(w, "+"):
				n := w[strings.Index(w, "$") : len(w)-1]
				return "(" + clock + " + CAST(" + n + " AS bigint) * interval '1 millisecond')"
			}
			return clock
		})
		return t
	}
	t.now, t.lease = strings.Contains(q, "{now"), strings.Contains(q, "{lease")
	now := "$" + strconv.Itoa(nargs+1)
	lease := now
	if t.now {
		lease = "$" + strconv.Itoa(nargs+2)
	}
	t.sql = words.ReplaceAllStringFunc(q, func(w string) string {
		clock := now
		if strings.HasPrefix(w, "{lease") {
			clock = lease
		}
		switch {
		case w == "{lock}":
			return ""
		case w == "{follow}":
			return "true"
		case strings.Contains(w, "+"):
			return "(" + clock + " + " + w[strings.Index(w, "$"):len(w)-1] + ")"
		}
		return clock
	})
	return t
}

// textCache remembers translations.
type textCache struct {
	m sync.Map // textKey -> *text
	n atomic.Int32
}

type textKey struct {
	q     string
	nargs int
}

func (c *textCache) get(engine, q string, nargs int) *text {
	k := textKey{q, nargs}
	if t, ok := c.m.Load(k); ok {
		return t.(*text)
	}
	t := translate(engine, q, nargs)
	if c.n.Load() >= maxTexts {
		return t
	}
	v, there := c.m.LoadOrStore(k, t)
	if !there {
		c.n.Add(1)
	}
	return v.(*text)
}

// SQLite's extended result codes (sqlite.org/rescode.html).
const (
	liteUnique     = 2067
	litePrimaryKey = 1555
	liteForeignKey = 787
)

// kind turns an engine's word for a broken constraint into the store's error.
func kind(err error) error {
	var p *pgconn.PgError
	if errors.As(err, &p) {
		switch p.Code {
		case "23505":
			return fmt.Errorf("%w (%s)", ErrConflict, p.ConstraintName)
		case "23503":
			return fmt.Errorf("%w (%s)", ErrNotFound, p.ConstraintName)
		}
		return err
	}
	var l *sqlite.Error
	if errors.As(err, &l) {
		switch l.Code() {
		case liteUnique, litePrimaryKey:
			return fmt.Errorf("%w (%s)", ErrConflict, l.Error())
		case liteForeignKey:
			return fmt.Errorf("%w (a row it refers to)", ErrNotFound)
		}
	}
	return err
}
