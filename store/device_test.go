package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

func ptr[T any](v T) *T { return &v }

var equate = []cmp.Option{cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })}

func TestAFirstHelloMakesADevice(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		h := helloOf(1)
		h.Retry, h.AdminSet, h.Trailing, h.Raw = 4_000_000_000, true, []byte{1, 0}, []byte("raw")
		var d store.Device
		var before store.SeenBefore
		write(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
			d, before, err = tx.SeeHello(ctx, h)
			return err
		})
		if before.Known || d.Lifecycle != store.Discovered || d.HelloCount != 1 || !near(d.FirstSeen, time.Now()) {
			t.Errorf("device %+v, before %+v", d, before)
		}
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			stored, err := tx.Device(ctx, h.UUID)
			if diff := cmp.Diff(stored, d, equate...); diff != "" {
				t.Errorf("what SeeHello says and what is stored (-stored +said):\n%s", diff)
			}
			if stored.HelloRetry != h.Retry || !stored.AdminFlag || stored.Address.String() != "10.0.0.1" {
				t.Errorf("stored %+v", stored)
			}
			got, err2 := tx.TrustHashes(ctx, stored.TrustTable)
			if diff := cmp.Diff(h.Hashes, got); diff != "" {
				t.Errorf("hash list:\n%s", diff)
			}
			log, err3 := tx.Hellos(ctx, h.UUID, 10)
			if len(log) != 1 || string(log[0].Raw) != "raw" || log[0].From != "10.0.0.1:16994" || !near(log[0].At, time.Now()) ||
				log[0].Retry != h.Retry {
				t.Errorf("hellos %+v", log)
			}
			return errors.Join(err, err2, err3)
		})
	})
}

func TestALaterHelloSaysWhatChanged(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		first := hello(t, db, 1)
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return tx.Transition(ctx, store.Transition{UUID: uuid(1), To: store.Queued, Event: "certificate_matched", Actor: "system"})
		})
		for _, c := range []struct {
			name         string
			hello        func(*store.SeenHello)
			table, moved bool
		}{
			{"the same", func(*store.SeenHello) {}, false, false},
			{"another address", func(h *store.SeenHello) { h.From = netip.MustParseAddrPort("[fd00::7%eth0]:1") }, false, true},
			{"a claimed address", func(h *store.SeenHello) { h.Address = netip.MustParseAddr("::ffff:10.0.0.1") }, false, true},
			{"another list", func(h *store.SeenHello) { h.Hashes = hashes(4) }, true, false},
			{"no list", func(h *store.SeenHello) { h.Hashes = nil }, true, false},
		} {
			h := helloOf(1)
			h.At = time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.UTC)
			c.hello(&h)
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				d, before, err := tx.SeeHello(ctx, h)
				if err != nil {
					return err
				}
				stored, err := tx.Device(ctx, h.UUID)
				if diff := cmp.Diff(stored, d, equate...); diff != "" {
					t.Errorf("%s: what SeeHello says and what is stored (-stored +said):\n%s", c.name, diff)
				}
				if !before.Known || (d.TrustTable != before.Previous.TrustTable) != c.table || before.AddressChanged != c.moved ||
					before.Previous.HelloCount != d.HelloCount-1 {
					t.Errorf("%s: before %+v", c.name, before)
				}
				if d.Lifecycle != store.Queued || !d.FirstSeen.Equal(first.FirstSeen) || d.LastSeen.UnixMilli() != h.At.UnixMilli() {
					t.Errorf("%s: device %+v", c.name, d)
				}
				return err
			})
		}
	})
}

func TestOneHashListIsStoredOnce(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		tables := map[int64]bool{}
		for n := range 5 {
			tables[hello(t, db, n).TrustTable] = true
		}
		if len(tables) != 1 {
			t.Errorf("five devices with one list have %d", len(tables))
		}
	})
}

func TestARolledBackHashListIsNotRemembered(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		no := errors.New("no")
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			if _, _, err := tx.SeeHello(t.Context(), helloOf(1)); err != nil {
				return err
			}
			return no
		})
		if !errors.Is(err, no) {
			t.Fatal(err)
		}
		d := hello(t, db, 2)
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			got, err := tx.TrustHashes(ctx, d.TrustTable)
			if len(got) != 3 {
				t.Errorf("%d hashes", len(got))
			}
			if _, err := tx.Device(ctx, uuid(1)); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("device 1: %v", err)
			}
			return err
		})
	})
}

func TestFactsRoundTrip(t *testing.T) {
	t.Parallel()
	at := time.Date(2031, 5, 6, 7, 8, 9, 123_000_000, time.UTC)
	facts := store.DeviceFacts{
		DeviceMode: ptr("setup"), Health: ptr("ok"), Version: &amt.Version{Major: 11, Minor: 8, Hotfix: 50, Build: 3425},
		SKU: ptr("vPro"), Realm: ptr("Digest:1"), HostName: ptr("pc7"), Domain: ptr("corp.example"), FQDN: ptr("pc7.corp.example"),
		Suffix: ptr("corp.example"), MAC: ptr("00:11:22:33:44:55"), Serial: ptr("S-1"), SMBIOSUUID: ptr("x"), SecureDNS: ptr(true),
		Address: ptr(netip.MustParseAddr("fd00::1")), Profile: ptr("desk"), ProfileVersion: ptr(3), Certificate: ptr("0123"),
		TLSVersion: ptr("1.2"), PeerFingerprint: ptr([]byte{1, 2}), Tags: ptr([]string{"a", `b"c`}), Approved: ptr(true),
		ProvisionedAt: &at, LastContact: &at, WindowUntil: &at, NextRetry: &at, DeviceCertNotAfter: &at, PasswordChanged: &at,
		PeerVerified: ptr("odca"), Attempts: ptr(2), Generation: ptr(5), Record: ptr(json.RawMessage(`{"a": 1}`)),
	}
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		want := hello(t, db, 1)
		want.DeviceMode, want.Health, want.Version, want.SKU, want.Realm = "setup", "ok", *facts.Version, "vPro", "Digest:1"
		want.HostName, want.Domain, want.FQDN, want.Suffix = "pc7", "corp.example", "pc7.corp.example", "corp.example"
		want.MAC, want.Serial, want.SMBIOSUUID, want.SecureDNS = "00:11:22:33:44:55", "S-1", "x", true
		want.Address, want.Profile, want.ProfileVersion, want.Certificate = *facts.Address, "desk", 3, "0123"
		want.TLSVersion, want.PeerFingerprint, want.Tags, want.Approved = "1.2", []byte{1, 2}, *facts.Tags, true
		want.ProvisionedAt, want.LastContact, want.WindowUntil, want.NextRetry = at, at, at, at
		want.DeviceCertNotAfter, want.PasswordChangedAt, want.Attempts, want.Generation = at, at, 2, 5
		want.Record, want.PeerVerified = *facts.Record, "odca"
		write(t, db, func(ctx context.Context, tx *store.Tx) error { return tx.UpdateDevice(ctx, uuid(1), facts) })
		for range 2 { // the second time nothing is given, so nothing changes
			read(t, db, func(ctx context.Context, tx *store.Tx) error {
				got, err := tx.Device(ctx, uuid(1))
				if diff := cmp.Diff(want, got, equate...); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				return err
			})
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				return tx.UpdateDevice(ctx, uuid(1), store.DeviceFacts{})
			})
		}
		zero := time.Time{}
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return tx.UpdateDevice(ctx, uuid(1), store.DeviceFacts{NextRetry: &zero})
		})
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			got, err := tx.Device(ctx, uuid(1))
			if !got.NextRetry.IsZero() {
				t.Errorf("next retry %v after it was cleared", got.NextRetry)
			}
			return err
		})
		err := db.Write(t.Context(), func(tx *store.Tx) error { return tx.UpdateDevice(t.Context(), uuid(9), facts) })
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("an unknown device: %v", err)
		}
	})
}

func TestATransitionAndItsEventAreOne(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		hello(t, db, 1)
		move := store.Transition{UUID: uuid(1), To: store.Failed, Reason: reason.DeviceUnreachable, Detail: "no answer",
			Event: "attempt_failed",
			Actor: "node:a", Data: map[string]any{"n": 1.0}, NextRetry: time.Now().Add(time.Hour), RunID: 7}
		write(t, db, func(ctx context.Context, tx *store.Tx) error { return tx.Transition(ctx, move) })
		no := errors.New("no")
		_ = db.Write(t.Context(), func(tx *store.Tx) error {
			back := move
			back.To = store.Queued
			return errors.Join(tx.Transition(t.Context(), back), no)
		})
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			d, err := tx.Device(ctx, uuid(1))
			if d.Lifecycle != store.Failed || d.Reason != reason.DeviceUnreachable || d.Detail != "no answer" || d.NextRetry.IsZero() {
				t.Errorf("device %+v", d)
			}
			events, err2 := tx.Events(ctx, store.EventFilter{UUID: uuid(1)})
			if len(events) != 1 {
				t.Fatalf("events %+v", events)
			}
			e := events[0]
			want := map[string]any{"n": 1.0, "lifecycle": "failed"}
			if e.Name != "attempt_failed" || e.RunID != 7 || e.Actor != "node:a" || !cmp.Equal(e.Data, want) || !near(e.At, time.Now()) {
				t.Errorf("event %+v", e)
			}
			return errors.Join(err, err2)
		})
		for name, bad := range map[string]store.Transition{
			"unknown device": {UUID: uuid(9), To: store.Queued, Event: "x"},
			"no event":       {UUID: uuid(1), To: store.Queued},
			"unknown word":   {UUID: uuid(1), To: "limbo", Event: "x"},
		} {
			if err := db.Write(t.Context(), func(tx *store.Tx) error { return tx.Transition(t.Context(), bad) }); err == nil {
				t.Errorf("%s was accepted", name)
			}
		}
	})
}

func TestEventsAreReadInOrderAndFollowed(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		for n := range 5 {
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				_, err := tx.AddEvent(ctx, store.Event{Name: fmt.Sprint("e", n), UUID: uuid(n % 2)})
				return err
			})
		}
		names := func(f store.EventFilter) (out []string, last int64) {
			read(t, db, func(ctx context.Context, tx *store.Tx) error {
				events, err := tx.Events(ctx, f)
				for _, e := range events {
					out, last = append(out, e.Name), e.ID
				}
				return err
			})
			return out, last
		}
		var got []string
		var last int64
		for deadline := time.Now().Add(2 * time.Minute); len(got) < 5 && time.Now().Before(deadline); {
			some, to := names(store.EventFilter{After: last, Limit: 2, Follow: true})
			got, last = append(got, some...), max(last, to)
		}
		if !slices.Equal(got, []string{"e0", "e1", "e2", "e3", "e4"}) {
			t.Errorf("followed %v", got)
		}
		if got, _ := names(store.EventFilter{UUID: uuid(1), Newest: true}); !slices.Equal(got, []string{"e3", "e1"}) {
			t.Errorf("newest of one device %v", got)
		}
	})
}

// A follower on Postgres must not step over an event whose transaction began
// first and commits last.
func TestAFollowerWaitsForOpenTransactions(t *testing.T) {
	t.Parallel()
	db := open(t, place(t, store.Postgres))
	began, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.AddEvent(t.Context(), store.Event{Name: "slow"})
			close(began)
			<-goOn
			return err
		})
	}()
	<-began
	write(t, db, func(ctx context.Context, tx *store.Tx) error {
		_, err := tx.AddEvent(ctx, store.Event{Name: "fast"})
		return err
	})
	see := func() (names []string) {
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			events, err := tx.Events(ctx, store.EventFilter{Follow: true})
			for _, e := range events {
				names = append(names, e.Name)
			}
			return err
		})
		return names
	}
	if got := see(); len(got) != 0 {
		t.Errorf("seen too early: %v", got)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	var got []string
	for deadline := time.Now().Add(2 * time.Minute); len(got) < 2 && time.Now().Before(deadline); {
		got = see() // other tests' transactions on this server count as well
	}
	if !slices.Equal(got, []string{"slow", "fast"}) {
		t.Errorf("seen in the end: %v", got)
	}
}

func TestListsFilterAndPage(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		const all = 25
		for n := range all {
			hello(t, db, n)
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				f := store.DeviceFacts{FQDN: ptr(fmt.Sprintf("pc%02d.site%d.example", all-n, n%3)),
					Suffix:  ptr(fmt.Sprintf("site%d.example", n%3)),
					Version: &amt.Version{Major: 11 + n%2, Minor: 8, Hotfix: n}, Serial: ptr(fmt.Sprintf("100%%_%d", n)),
					Tags: ptr([]string{fmt.Sprint("t", n%5)})}
				if err := tx.UpdateDevice(ctx, uuid(n), f); err != nil {
					return err
				}
				if n%4 == 0 {
					return tx.Transition(ctx, store.Transition{UUID: uuid(n), To: store.Failed, Reason: reason.AuthFailed,
						Event: "attempt_failed"})
				}
				return nil
			})
		}
		for _, order := range []store.Order{store.ByUUID, store.ByName, store.ByLastSeen} {
			seen := map[amt.UUID]bool{}
			var previous store.Device
			f := store.DeviceFilter{Order: order, Limit: 7}
			for {
				var rows []store.Device
				read(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
					rows, err = tx.Devices(ctx, f)
					return err
				})
				for i, d := range rows {
					if seen[d.UUID] {
						t.Errorf("order %q: %s twice", order, d.UUID)
					}
					seen[d.UUID] = true
					if order == store.ByName && d.FQDN < previous.FQDN {
						t.Errorf("%s after %s", d.FQDN, previous.FQDN)
					}
					if order == store.ByLastSeen && i > 0 && d.LastSeen.After(previous.LastSeen) {
						t.Errorf("newest is not first")
					}
					previous = d
				}
				if len(rows) < f.Limit {
					break
				}
				f.After = rows[len(rows)-1].Cursor(order)
			}
			if len(seen) != all {
				t.Errorf("order %q: %d of %d seen", order, len(seen), all)
			}
		}
		for _, c := range []struct {
			name string
			f    store.DeviceFilter
			want int
		}{
			{"lifecycle", store.DeviceFilter{Lifecycle: []store.Lifecycle{store.Failed, store.Retired}}, 7},
			{"reason", store.DeviceFilter{Reason: reason.AuthFailed}, 7},
			{"major", store.DeviceFilter{Version: "11"}, 13},
			{"major is not a prefix of digits", store.DeviceFilter{Version: "1"}, 0},
			{"version", store.DeviceFilter{Version: "12.8.3"}, 1},
			{"suffix", store.DeviceFilter{Suffix: "Site1.Example."}, 8},
			{"parent suffix", store.DeviceFilter{Suffix: "example"}, all},
			{"suffix is whole labels", store.DeviceFilter{Suffix: "xample"}, 0},
			{"network", store.DeviceFilter{Network: netip.MustParsePrefix("10.0.0.0/29")}, 8},
			{"one address", store.DeviceFilter{Network: netip.MustParsePrefix("10.0.0.3/32")}, 1},
			{"IPv6 network", store.DeviceFilter{Network: netip.MustParsePrefix("fd00::/8")}, 0},
			{"tag", store.DeviceFilter{Tag: "t3"}, 5},
			{"part of a tag", store.DeviceFilter{Tag: "t"}, 0},
			{"query is text, not a pattern", store.DeviceFilter{Query: "%_1"}, 11},
			{"query by name, any case", store.DeviceFilter{Query: "PC07."}, 1},
			{"query by address", store.DeviceFilter{Query: "10.0.0.24"}, 1},
			{"query by uuid", store.DeviceFilter{Query: uuid(11).String()}, 1},
			{"seen", store.DeviceFilter{Seen: time.Now().Add(-time.Hour)}, all},
			{"silent", store.DeviceFilter{Silent: time.Now().Add(-time.Hour)}, 0},
			{"two together", store.DeviceFilter{Reason: reason.AuthFailed, Version: "12"}, 0},
		} {
			read(t, db, func(ctx context.Context, tx *store.Tx) error {
				rows, err := tx.Devices(ctx, c.f)
				n, err2 := tx.CountMatching(ctx, c.f)
				if len(rows) != c.want || n != c.want {
					t.Errorf("%s: %d rows, count %d, want %d", c.name, len(rows), n, c.want)
				}
				return errors.Join(err, err2)
			})
		}
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			if _, err := tx.Devices(ctx, store.DeviceFilter{After: "nonsense"}); err == nil {
				t.Error("a cursor that is none was accepted")
			}
			by, err := tx.CountDevices(ctx)
			if by[store.Failed] != 7 || by[store.Discovered] != all-7 || len(by) != 18 {
				t.Errorf("counts %v", by)
			}
			major, err2 := tx.CountBy(ctx, store.ColumnMajor)
			if major["11"] != 13 || major["12"] != 12 {
				t.Errorf("by major %v", major)
			}
			if _, err := tx.CountBy(ctx, "1; drop table devices"); err == nil {
				t.Error("an unknown column was accepted")
			}
			return errors.Join(err, err2)
		})
	})
}

func TestImport(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		imp := func() error {
			return db.Write(t.Context(), func(tx *store.Tx) error {
				return tx.ImportDevice(t.Context(), uuid(1), "token:1", store.DeviceFacts{FQDN: ptr("a.example")})
			})
		}
		if err := imp(); err != nil {
			t.Fatal(err)
		}
		if err := imp(); !errors.Is(err, store.ErrConflict) {
			t.Errorf("the second import: %v", err)
		}
		if d := hello(t, db, 1); d.FQDN != "a.example" || d.HelloCount != 1 {
			t.Errorf("after its first hello: %+v", d)
		}
	})
}
