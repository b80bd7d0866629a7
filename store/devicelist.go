package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
)

// The store reads a list in one of two ways, so that a page of a million
// devices costs about as much as a page of a thousand. If an index finds a few
// devices among which all results are, the store reads these and sorts them.
// Otherwise it walks along an index that has the list's order and skips what
// the filter refuses. SQLite keeps no statistics, so it cannot choose the way
// itself.

// At most so many devices are worth sorting instead of walking, and more if the
// page is long. UUIDs are unrelated to what a filter asks for; names and hellos
// are not, so that a walk along these can be much longer than it should.
const (
	fewest     = 5000
	fewInOrder = 20_000
)

// Devices lists a page. The last row's Cursor asks for the next page, so that
// rows that come and go in between shift nothing.
func (tx *Tx) Devices(ctx context.Context, f DeviceFilter) ([]Device, error) {
	out, err := tx.devices(ctx, f)
	return out, about(err, "list devices")
}

func (tx *Tx) devices(ctx context.Context, f DeviceFilter) ([]Device, error) {
	l, err := tx.listing(f)
	if err != nil {
		return nil, err
	}
	rows, found, err := tx.candidates(ctx, f)
	if err != nil {
		return nil, err
	}
	alongHours := f.Order == ByLastSeen && !found
	conditions := f
	if alongHours {
		conditions.Lifecycle = nil // ofEach reads each lifecycle by itself
	}
	c, err := tx.deviceClause(conditions)
	if err != nil {
		return nil, err
	}
	if found {
		if len(rows) == 0 {
			return nil, nil
		}
		c.args = append(c.args, tx.rows(rows))
		c.and = append(c.and, tx.among(tx.row(), len(c.args)))
	}
	if alongHours {
		return tx.heard(ctx, l, c, f)
	}
	if l.after != "" {
		c.add(l.after, l.args...)
	}
	where := c.where()
	c.args = append(c.args, page(f.Limit))
	return list(ctx, tx, tx.scanDevice, "SELECT "+deviceColumns+" FROM devices"+where+" ORDER BY "+l.order+
		fmt.Sprintf(" LIMIT $%d", len(c.args)), c.args...)
}

// A listing is an order, and the place in it where a page begins.
type listing struct {
	order string
	seen  string // the SQL by which last_seen sorts
	after string // a condition, "" for the first page
	args  []any
}

func (tx *Tx) listing(f DeviceFilter) (l listing, err error) {
	bad := fmt.Errorf("%q is not a cursor of this list", f.After)
	switch f.Order {
	case ByUUID:
		l.order = "uuid"
		if f.After != "" {
			u, err := amt.ParseUUID(f.After)
			if err != nil {
				return l, bad
			}
			l.after, l.args = "uuid > ?", []any{u}
		}
	case ByName:
		l.order = "fqdn, uuid"
		if f.After != "" {
			i := strings.LastIndexByte(f.After, ',')
			u, err := amt.ParseUUID(f.After[i+1:])
			if i < 0 || err != nil {
				return l, bad
			}
			l.after, l.args = "(fqdn, uuid) > (?, ?)", []any{f.After[:i], u}
		}
	case ByLastSeen:
		// A device that was never heard sorts last, as the year 1970.
		l.seen = "coalesce(last_seen, " + tx.epoch() + ")"
		l.order = "seen_hour DESC, " + l.seen + " DESC, uuid DESC"
		if f.After != "" {
			ms, id, ok := strings.Cut(f.After, ",")
			var at int64
			u, err := amt.ParseUUID(id)
			if _, scan := fmt.Sscanf(ms, "%d", &at); !ok || err != nil || scan != nil {
				return l, bad
			}
			l.after, l.args = "seen_hour <= ? AND ("+l.seen+", uuid) < (?, ?)", []any{hourOf(time.UnixMilli(at)), time.UnixMilli(at), u}
		}
	default:
		return l, fmt.Errorf("unknown order %q", f.Order)
	}
	return l, nil
}

// hourOf is the value of the column seen_hour for a last_seen.
func hourOf(t time.Time) int64 { return unixMilli(t) / 3_600_000 }

// heard lists a page by last_seen. The index holds each lifecycle's devices by
// the hour of their last hello. SQLite has to sort within an hour, and the hour
// of devices that were never heard can hold very many. So hourOfThe first finds
// how far back a number of devices go, and heard tries the filter c on these
// alone; if too few pass, on eight times as many.
func (tx *Tx) heard(ctx context.Context, l listing, c *clause, f DeviceFilter) ([]Device, error) {
	among := page(f.Limit)
	if len(c.and) > 0 {
		among = max(2000, 20*among)
	}
	for ; ; among *= 8 {
		first, all, err := tx.hourOfThe(ctx, among, l, f)
		if err != nil {
			return nil, err
		}
		found, err := tx.heardSince(ctx, first, l, &clause{and: slices.Clip(c.and), args: slices.Clip(c.args)}, f)
		if err != nil || all || int64(len(found)) == page(f.Limit) {
			return found, err
		}
	}
}

// ofEach joins the rows of each lifecycle that the filter asks for.
func (f DeviceFilter) ofEach(c *clause, columns, order string, most int64) string {
	states := f.Lifecycle
	if len(states) == 0 {
		states = Lifecycles()
	}
	rest := ""
	if len(c.and) > 0 {
		rest = " AND " + strings.Join(c.and, " AND ")
	}
	arms := make([]string, len(states))
	for i, s := range states {
		c.args = append(c.args, s)
		arms[i] = fmt.Sprintf("SELECT * FROM (SELECT %s FROM devices WHERE lifecycle = $%d%s ORDER BY %s LIMIT %d) AS of_%d", columns,
			len(c.args), rest, order, most, i)
	}
	return "(" + strings.Join(arms, " UNION ALL ") + ") AS newest"
}

// hourOfThe finds the hour of the n-th device of a list, whatever the rest of
// the filter says; all reports that there are fewer than n. It reads only the
// index.
func (tx *Tx) hourOfThe(ctx context.Context, n int64, l listing, f DeviceFilter) (hour int64, all bool, err error) {
	c := &clause{}
	if l.after != "" {
		c.add("seen_hour <= ?", l.args[0])
	}
	if !f.Seen.IsZero() {
		c.add("seen_hour >= ?", hourOf(f.Seen))
	}
	if !f.Silent.IsZero() {
		c.add("seen_hour <= ?", hourOf(f.Silent))
	}
	var count int64
	q := fmt.Sprintf("SELECT count(*), coalesce(min(seen_hour), 0) FROM (SELECT seen_hour FROM %s ORDER BY seen_hour DESC LIMIT %d) AS "+
		"hours", f.ofEach(c, "seen_hour", "seen_hour DESC", n), n)
	err = tx.one(ctx, q, c.args, &count, &hour)
	return hour, count < n, err
}

func (tx *Tx) heardSince(ctx context.Context, hour int64, l listing, c *clause, f DeviceFilter) ([]Device, error) {
	if l.after != "" {
		c.add(l.after, l.args...)
	}
	c.add("seen_hour >= ?", hour)
	most := page(f.Limit)
	newest := f.ofEach(c, "uuid, seen_hour, "+l.seen+" AS seen", l.order, most)
	return list(ctx, tx, tx.scanDevice, "SELECT "+deviceColumns+" FROM devices WHERE uuid IN (SELECT uuid FROM "+newest+
		fmt.Sprintf(" ORDER BY seen_hour DESC, seen DESC, uuid DESC LIMIT %d) ORDER BY %s", most, l.order), c.args...)
}

// candidates returns a superset of the devices the filter selects, when some index
// yields at most so many of them as are quicker to sort than to walk past.
func (tx *Tx) candidates(ctx context.Context, f DeviceFilter) (rows []string, found bool, err error) {
	most := max(fewest, 20*page(f.Limit))
	if f.Order != ByUUID {
		most = max(fewInOrder, most)
	}
	if text := strings.TrimSpace(f.Query); text != "" && wholeText(text) == nil {
		if rows, err := tx.called(ctx, text, false, most); err != nil || len(rows) > 0 {
			return rows, err == nil, err
		}
	}
	parts, err := tx.narrow(ctx, f)
	if err != nil {
		return nil, false, err
	}
	for _, c := range parts {
		c.args = append(c.args, most+1)
		rows, err := list(ctx, tx, scanText, "SELECT CAST("+tx.row()+" AS text) FROM devices"+c.where()+
			fmt.Sprintf(" LIMIT $%d", len(c.args)),
			c.args...)
		if err != nil || int64(len(rows)) <= most {
			return rows, err == nil, err
		}
	}
	return nil, false, nil
}

func scanText(s scanner) (text string, err error) {
	err = s.Scan(&text)
	return text, err
}

// called finds the rows of devices whose whole name or serial number is this
// text; with labels also those whose name begins with the text as a label.
func (tx *Tx) called(ctx context.Context, text string, labels bool, most int64) ([]string, error) {
	c := &clause{}
	among(c, "fqdn", []string{text, strings.ToLower(text)})
	parts := []string{c.and[0]}
	if labels {
		c.add("fqdn >= ? AND fqdn < ?", strings.ToLower(text)+".", strings.ToLower(text)+"/") // '/' is the character after '.'
		parts = append(parts, c.and[1])
	}
	among(c, "serial", []string{text, strings.ToLower(text), strings.ToUpper(text)})
	parts = append(parts, "serial <> '' AND "+c.and[len(c.and)-1])
	for i, p := range parts {
		parts[i] = "SELECT CAST(" + tx.row() + " AS text) AS row FROM devices WHERE " + p
	}
	c.args = append(c.args, most)
	return list(ctx, tx, scanText, "SELECT row FROM ("+strings.Join(parts, " UNION ")+fmt.Sprintf(") AS found LIMIT $%d", len(c.args)),
		c.args...)
}

// DevicesCalled finds devices by their whole name, its first label, or their
// whole serial number; those heard last come first.
func (tx *Tx) DevicesCalled(ctx context.Context, text string, limit int) ([]Device, error) {
	if text = strings.TrimSpace(text); text == "" {
		return nil, nil
	}
	rows, err := tx.called(ctx, text, true, page(limit))
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return list(ctx, tx, tx.scanDevice, "SELECT "+deviceColumns+" FROM devices WHERE "+tx.among(tx.row(), 1)+
		" ORDER BY seen_hour DESC, last_seen DESC, uuid", tx.rows(rows))
}

// row is the column that identifies a device's row. On SQLite every index holds
// the rowid, so that finding too many rows costs only a look into the index.
func (tx *Tx) row() string {
	if tx.pg != nil {
		return "uuid"
	}
	return "rowid"
}

// rows is the argument for tx.among.
func (tx *Tx) rows(found []string) any {
	if tx.pg != nil {
		return found
	}
	return "[" + strings.Join(found, ",") + "]"
}

// narrow returns the parts of a filter that an index answers by itself. Last
// comes a part of a text, for which SQLite looks at every device, in the order
// of storage: several times faster than in a list's order.
func (tx *Tx) narrow(ctx context.Context, f DeviceFilter) (all []*clause, err error) {
	part := func() *clause {
		c := &clause{}
		all = append(all, c)
		return c
	}
	text := strings.TrimSpace(f.Query)
	whole := wholeText(text)
	if whole != nil {
		whole(part(), func(column string) string { return column })
	}
	if f.Network.IsValid() {
		inNetwork(part(), "address_key", f.Network)
	}
	if f.Reason != "" {
		part().add("reason <> '' AND reason = ?", f.Reason)
	}
	if f.Tag != "" {
		c := part()
		c.add("tags <> '[]'")
		if err := tagged(c, f.Tag); err != nil {
			return nil, err
		}
	}
	if f.Profile != "" {
		part().add("profile <> '' AND profile = ?", f.Profile)
	}
	if f.Health != "" {
		part().add("health <> '' AND health = ?", f.Health)
	}
	if f.Version != "" || f.From > 0 || f.To > 0 {
		if err := tx.words(ctx, part(), "amt_version", f.versionFits); err != nil {
			return nil, err
		}
	}
	if f.Suffix != "" {
		if err := tx.words(ctx, part(), "suffix", f.suffixFits); err != nil {
			return nil, err
		}
	}
	if f.Order != ByLastSeen { // the index of ByLastSeen begins with the lifecycle and has the hour
		states := f.Lifecycle
		if len(states) == 0 {
			states = Lifecycles()
		}
		switch {
		case !f.Seen.IsZero():
			c := part()
			among(c, "lifecycle", states)
			c.add("seen_hour >= ?", hourOf(f.Seen))
		case !f.Silent.IsZero():
			c := part()
			among(c, "lifecycle", states)
			c.add("seen_hour <= ?", hourOf(f.Silent))
		case len(f.Lifecycle) > 0:
			among(part(), "lifecycle", states)
		}
	}
	if text != "" && whole == nil {
		partText(part(), text)
	}
	return all, nil
}

func (f DeviceFilter) versionFits(text string) bool {
	v, err := amt.ParseVersion(text)
	return err == nil && (f.Version == "" || text == f.Version || strings.HasPrefix(text, f.Version+".")) &&
		v.Major >= f.From && (f.To == 0 || v.Major > 0 && v.Major <= f.To)
}

func (f DeviceFilter) suffixFits(s string) bool {
	want, s := strings.ToLower(strings.Trim(f.Suffix, ".")), strings.ToLower(s)
	return s == want || strings.HasSuffix(s, "."+want)
}

// mostWords is how many different words of a column the store looks at.
const mostWords = 1000

// words adds the condition that an indexed column holds a word that fits. It
// asks the index for one word after the other, since there are few. If there
// are more than mostWords, the condition lets every device pass.
func (tx *Tx) words(ctx context.Context, c *clause, column string, fits func(string) bool) error {
	next := "SELECT " + column + " FROM devices WHERE " + column + " <> ''%s ORDER BY " + column + " LIMIT 1"
	all, err := list(ctx, tx, scanText, "WITH RECURSIVE words (w) AS (SELECT * FROM ("+fmt.Sprintf(next, "")+
		") AS first UNION ALL SELECT ("+
		fmt.Sprintf(next, " AND "+column+" > words.w")+
		") FROM words WHERE words.w IS NOT NULL) SELECT w FROM words WHERE w IS NOT NULL LIMIT "+
		"$1", int64(mostWords+1))
	if err != nil {
		return err
	}
	if len(all) > mostWords {
		c.add("1 = 1")
		return nil
	}
	if all = slices.DeleteFunc(all, func(w string) bool { return !fits(w) }); len(all) == 0 {
		c.add("1 = 0")
		return nil
	}
	c.add(column + " <> ''")
	among(c, column, all)
	return nil
}
