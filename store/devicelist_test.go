package store_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// crowd writes more devices than a list looks for one by one: most of them
// managed, some of each other kind, with and without name, tag and last hello.
func crowd(t *testing.T, o store.Options, began time.Time) {
	t.Helper()
	hex, at, series := "printf('%012x', i * 7919)", fmt.Sprintf("%d + (i * 7919 %% 900) * 60000", began.UnixMilli()),
		"(WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 6500) SELECT i FROM c) AS s"
	id, text := "'11223344-5566-7788-8000-' || "+hex, "text"
	if o.URL != "" {
		hex = "lpad(to_hex(i * 7919), 12, '0')"
		at = fmt.Sprintf("to_timestamp((%d + (i * 7919 %% 900) * 60000) / 1000.0)", began.UnixMilli())
		id, text, series = "CAST('11223344-5566-7788-8000-' || "+hex+" AS uuid)", "jsonb", "generate_series(1, 6500) AS s (i)"
	}
	execute(t, o, `INSERT INTO devices (uuid, lifecycle, reason, amt_version, amt_major, fqdn, suffix, tags, last_seen)
		SELECT `+id+`, CASE WHEN i % 100 < 94 THEN 'provisioned' WHEN i % 100 < 97 THEN 'failed' WHEN i % 100 = 97 THEN 'queued' ELSE 'retired' END,
			CASE WHEN i % 100 IN (94, 95) THEN 'auth_failed' WHEN i % 100 = 96 THEN 'wsman_timeout' ELSE '' END,
			CASE WHEN i % 3 = 0 THEN '16.1.25.2124' ELSE '11.8.50.3425' END, CASE WHEN i % 3 = 0 THEN 16 ELSE 11 END,
			CASE WHEN i % 5 = 0 THEN '' ELSE 'pc' || CAST(i % 1000 AS text) || '.example' END, CASE WHEN i % 7 = 0 THEN 'site.example' ELSE 'example' END,
			CAST(CASE WHEN i % 50 = 1 THEN '["lab"]' WHEN i % 1000 = 7 THEN '["lab","rare"]' ELSE '[]' END AS `+text+`), CASE WHEN i % 11 = 0 THEN NULL ELSE `+at+` END
		FROM `+series)
}

// TestListsAreWholeAndInOrder: whichever way a list is read, its pages together
// are the devices that fit, each once, in its order.
func TestListsAreWholeAndInOrder(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			o := place(t, engine)
			db := open(t, o)
			began := time.Now().Add(-20 * time.Hour).Truncate(time.Hour)
			crowd(t, o, began)
			pages := func(f store.DeviceFilter, most int) (all []store.Device) {
				t.Helper()
				for len(all) < most {
					var rows []store.Device
					read(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
						rows, err = tx.Devices(ctx, f)
						return err
					})
					if all = append(all, rows...); len(rows) < f.Limit {
						return all
					}
					f.After = rows[len(rows)-1].Cursor(f.Order)
				}
				return all
			}
			everyone := pages(store.DeviceFilter{Limit: 1000}, 10_000)
			if len(everyone) != 6500 {
				t.Fatalf("%d devices", len(everyone))
			}
			middle := began.Add(7*time.Hour + 30*time.Minute)
			orders := map[store.Order]func(a, b store.Device) int{
				store.ByUUID: func(a, b store.Device) int { return bytes.Compare(a.UUID[:], b.UUID[:]) },
				store.ByName: func(a, b store.Device) int {
					return cmp.Or(strings.Compare(a.FQDN, b.FQDN), bytes.Compare(a.UUID[:], b.UUID[:]))
				},
				store.ByLastSeen: func(a, b store.Device) int {
					return cmp.Or(b.LastSeen.Compare(a.LastSeen), bytes.Compare(b.UUID[:], a.UUID[:]))
				},
			}
			inOrder := map[store.Order][]store.Device{}
			for order, compare := range orders {
				inOrder[order] = slices.SortedFunc(slices.Values(everyone), compare)
			}
			for _, c := range []struct {
				name string
				f    store.DeviceFilter
				fits func(d store.Device) bool
			}{
				{"all", store.DeviceFilter{}, func(store.Device) bool { return true }},
				{"a lifecycle of many", store.DeviceFilter{Lifecycle: []store.Lifecycle{store.Provisioned}}, func(d store.Device) bool { return d.Lifecycle == store.Provisioned }},
				{"a lifecycle of few", store.DeviceFilter{Lifecycle: []store.Lifecycle{store.Failed}}, func(d store.Device) bool { return d.Lifecycle == store.Failed }},
				{"two lifecycles", store.DeviceFilter{Lifecycle: []store.Lifecycle{store.Failed, store.Retired}}, func(d store.Device) bool {
					return d.Lifecycle == store.Failed || d.Lifecycle == store.Retired
				}},
				{"a lifecycle of none", store.DeviceFilter{Lifecycle: []store.Lifecycle{store.Dormant}}, func(store.Device) bool { return false }},
				{"a reason", store.DeviceFilter{Reason: reason.AuthFailed}, func(d store.Device) bool { return d.Reason == reason.AuthFailed }},
				{"a reason and a lifecycle that do not go together", store.DeviceFilter{Reason: reason.AuthFailed, Lifecycle: []store.Lifecycle{store.Queued}}, func(store.Device) bool { return false }},
				{"a tag", store.DeviceFilter{Tag: "lab"}, func(d store.Device) bool { return slices.Contains(d.Tags, "lab") }},
				{"a rare tag of a lifecycle", store.DeviceFilter{Tag: "rare", Lifecycle: []store.Lifecycle{store.Provisioned}}, func(d store.Device) bool {
					return slices.Contains(d.Tags, "rare") && d.Lifecycle == store.Provisioned
				}},
				{"a version", store.DeviceFilter{Version: "16.1"}, func(d store.Device) bool { return d.Version.Major == 16 }},
				{"generations", store.DeviceFilter{From: 12}, func(d store.Device) bool { return d.Version.Major == 16 }},
				{"generations of nobody", store.DeviceFilter{From: 12, To: 15}, func(d store.Device) bool { return false }},
				{"a suffix", store.DeviceFilter{Suffix: "site.example"}, func(d store.Device) bool { return d.Suffix == "site.example" }},
				{"a part of a name", store.DeviceFilter{Query: "pC77"}, func(d store.Device) bool { return strings.Contains(d.FQDN, "pc77") }},
				{"all of a name", store.DeviceFilter{Query: "pc77.example"}, func(d store.Device) bool { return d.FQDN == "pc77.example" }},
				{"seen", store.DeviceFilter{Seen: middle}, func(d store.Device) bool { return !d.LastSeen.Before(middle) }},
				{"silent", store.DeviceFilter{Silent: middle}, func(d store.Device) bool { return d.LastSeen.Before(middle) }},
				{"seen and failed", store.DeviceFilter{Seen: middle, Lifecycle: []store.Lifecycle{store.Failed}}, func(d store.Device) bool {
					return !d.LastSeen.Before(middle) && d.Lifecycle == store.Failed
				}},
			} {
				for order, all := range inOrder {
					want := []amt.UUID{}
					for _, d := range all {
						if c.fits(d) {
							want = append(want, d.UUID)
						}
					}
					most := 10_000
					if len(want) > 2000 && c.name != "all" && c.name != "a lifecycle of many" {
						most, want = 2000, want[:2000] // the way through it is the same for each page
					}
					for _, limit := range []int{97, 1000} {
						if limit == 97 && len(want) > 300 {
							continue // nothing new, and many pages
						}
						f := c.f
						f.Order, f.Limit = order, limit
						got := []amt.UUID{}
						for _, d := range pages(f, most) {
							got = append(got, d.UUID)
						}
						if !slices.Equal(want, got) { // asked first: a diff of thousands takes its time
							t.Errorf("%s, order %q, pages of %d: %d of %d devices\n%.600s", c.name, order, limit, len(got), len(want),
								gocmp.Diff(want, got))
						}
					}
				}
			}
		})
	}
}

// TestDevicesCalled: a device is found by what people call it.
func TestDevicesCalled(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		for n, d := range []struct{ fqdn, serial string }{{"pc1.example", "SN1"}, {"pc10.example", "SN10"}, {"pc1.other", ""}, {"", ""}} {
			hello(t, db, n)
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				return tx.UpdateDevice(ctx, uuid(n), store.DeviceFacts{FQDN: &d.fqdn, Serial: &d.serial})
			})
		}
		for text, want := range map[string][]int{"pc1.example": {0}, "PC1": {0, 2}, "sn1": {0}, "SN10": {1}, "pc": nil, "": nil,
			"example": nil} {
			read(t, db, func(ctx context.Context, tx *store.Tx) error {
				found, err := tx.DevicesCalled(ctx, text, 10)
				got := map[amt.UUID]bool{}
				for _, d := range found {
					got[d.UUID] = true
				}
				ok := len(found) == len(want)
				for _, n := range want {
					ok = ok && got[uuid(n)]
				}
				if !ok {
					t.Errorf("%q found %d devices, want %v", text, len(found), want)
				}
				return err
			})
		}
	})
}

// TestTheHourFollowsTheHello: a list by last_seen is in order whoever wrote the
// hello down, and after a device was imported, heard, and heard again later.
func TestTheHourFollowsTheHello(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		at := time.Now().Add(-50 * time.Hour).Truncate(time.Millisecond)
		say := func(n int, when time.Time) {
			t.Helper()
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				h := helloOf(n)
				h.At = when
				if n%2 == 0 {
					_, _, err := tx.SeeHello(ctx, h)
					return err
				}
				met, err := tx.ReadArrivals(ctx, []store.SeenHello{h})
				if err != nil {
					return err
				}
				return tx.WriteOutcomes(ctx, []store.Outcome{{Arrival: met[0]}})
			})
		}
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return tx.ImportDevice(ctx, uuid(9), "token:1", store.DeviceFacts{})
		})
		for n := range 4 {
			say(n, at.Add(time.Duration(n)*time.Hour))
		}
		for n := range 2 {
			say(n, at.Add(time.Duration(10+n)*time.Hour))
		}
		say(9, at.Add(-time.Hour))
		var got []amt.UUID
		f := store.DeviceFilter{Order: store.ByLastSeen, Limit: 1}
		for {
			var rows []store.Device
			read(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
				rows, err = tx.Devices(ctx, f)
				return err
			})
			if len(rows) == 0 {
				break
			}
			got, f.After = append(got, rows[0].UUID), rows[0].Cursor(store.ByLastSeen)
		}
		if diff := gocmp.Diff([]amt.UUID{uuid(1), uuid(0), uuid(3), uuid(2), uuid(9)}, got); diff != "" {
			t.Error(diff)
		}
	})
}
