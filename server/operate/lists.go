package operate

import (
	"context"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

var version = regexp.MustCompile(`^(>=|<=|>|<)?(\d{1,5})((?:\.\d+){0,3})$`)

// amtVersion puts what a query asks of the version into a filter: 11, 11.8, a
// whole version, or a bound of generations.
func amtVersion(text string, f *store.DeviceFilter) bool {
	m := version.FindStringSubmatch(text)
	if m == nil || m[1] != "" && m[3] != "" {
		return text == ""
	}
	major, _ := strconv.Atoi(m[2]) // five digits at most
	switch m[1] {
	case "":
		f.Version = text
	case ">=":
		f.From = major
	case ">":
		f.From = major + 1
	case "<=":
		f.To = max(major, 1)
	default:
		f.To = max(major-1, 1)
	}
	return true
}

// Filter reads what a query selects: its fields, and the terms inside of its text.
func Filter(q *api.DeviceQuery, now time.Time) (store.DeviceFilter, error) {
	in, unknown := q.Search()
	f := store.DeviceFilter{
		Query: in.Text, Reason: reason.Code(in.Reason), Health: in.Health, Suffix: in.Suffix, Profile: in.Profile, Tag: in.Tag,
		Order: orderOf(q.Order), After: q.After, Limit: q.Limit,
	}
	var bad []api.ProblemField
	if unknown != "" {
		bad = append(bad, api.ProblemField{Location: "query.q", Message: unknown})
	}
	for _, v := range in.Versions {
		if !amtVersion(v, &f) {
			bad = append(bad, api.ProblemField{Location: "query.q",
				Message: "amt: want 11, 11.8, a whole version, or generations such as >=16"})
		}
	}
	if _, err := netip.ParsePrefix(f.Query); err == nil && in.Network == "" {
		in.Network, f.Query = f.Query, ""
	} else if u, err := amt.ParseUUID(f.Query); err == nil {
		f.Query = u.String()
	} else if mac, ok := MACOf(f.Query); ok {
		f.Query = Colons(mac)
	}
	if !goodCursor(f.Order, f.After) {
		bad = append(bad, api.ProblemField{Location: "query.after", Message: "not the next of a page in this order"})
	}
	for _, st := range in.Lifecycles {
		if st == "" {
			continue
		}
		if !slices.Contains(store.Lifecycles(), store.Lifecycle(st)) {
			bad = append(bad, api.ProblemField{Location: "query.lifecycle", Message: "no such lifecycle; they are " + lifecycleWords()})
			continue
		}
		f.Lifecycle = append(f.Lifecycle, store.Lifecycle(st))
	}
	if f.Reason != "" && !reason.Known(f.Reason) {
		bad = append(bad, api.ProblemField{Location: "query.reason", Message: "no such reason; /api/v1/reasons lists them"})
	}
	if in.Network != "" {
		if p, err := netip.ParsePrefix(in.Network); err == nil {
			f.Network = p.Masked()
		} else if a, err := netip.ParseAddr(in.Network); err == nil {
			f.Network = netip.PrefixFrom(a, a.BitLen())
		} else {
			bad = append(bad, api.ProblemField{Location: "query.network", Message: "want a network such as 10.20.0.0/16"})
		}
	}
	for _, age := range []struct {
		name, text string
		into       *time.Time
	}{{"seen", in.Seen, &f.Seen}, {"silent", in.Silent, &f.Silent}} {
		if age.text == "" {
			continue
		}
		d, err := api.ParseAge(age.text)
		if err != nil {
			bad = append(bad, api.ProblemField{Location: "query.q", Message: age.name + ": want an age such as 24h or 7d"})
			continue
		}
		*age.into = now.Add(-d)
	}
	if len(bad) > 0 {
		said := bad[0].Message
		if bad[0].Location != "query.q" { // which is what was typed, and names its term
			said = bad[0].Location + ": " + said
		}
		return f, &Invalid{Why: said, More: bad}
	}
	return f, nil
}

func lifecycleWords() string {
	var words []string
	for _, l := range store.Lifecycles() {
		words = append(words, string(l))
	}
	return strings.Join(words, ", ")
}

func orderOf(s string) store.Order {
	if s == "uuid" {
		return store.ByUUID
	}
	return store.Order(s)
}

// goodCursor reports whether after can be the Cursor of a device in this order.
func goodCursor(o store.Order, after string) bool {
	if after == "" {
		return true
	}
	id := after
	if o != store.ByUUID {
		i := strings.LastIndexByte(after, ',')
		if i < 0 {
			return false
		}
		id = after[i+1:]
		if _, err := strconv.ParseInt(after[:i], 10, 64); o == store.ByLastSeen && err != nil {
			return false
		}
	}
	_, err := amt.ParseUUID(id)
	return err == nil
}

// Page finds one page of the devices that a query selects; next is where the next
// one begins, "" on the last.
func (r *Room) Page(ctx context.Context, tx *store.Tx, q *api.DeviceQuery) (found []store.Device, next string, err error) {
	f, err := Filter(q, r.now())
	if err != nil {
		return nil, "", err
	}
	limit := f.Limit
	if limit == 0 {
		limit = 100
	}
	f.Limit = min(limit+1, 1000) // one more tells whether there is a next page
	limit = min(limit, 999)
	found, err = tx.Devices(ctx, f)
	if len(found) > limit {
		found = found[:limit]
		next = found[limit-1].Cursor(f.Order)
	}
	return found, next, err
}
