package store_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// stands puts a device where a test needs it.
func stands(t *testing.T, db *store.DB, n int, to store.Lifecycle, why reason.Code, fqdn string, provisioned bool) amt.UUID {
	t.Helper()
	h := helloOf(n)
	write(t, db, func(ctx context.Context, tx *store.Tx) error {
		if _, _, err := tx.SeeHello(ctx, h); err != nil {
			return err
		}
		f := store.DeviceFacts{}
		if fqdn != "" {
			f.FQDN, f.HostName = ptr(fqdn), ptr("pc")
		}
		if provisioned {
			f.ProvisionedAt = ptr(tx.Now())
		}
		if err := tx.UpdateDevice(ctx, h.UUID, f); err != nil {
			return err
		}
		return tx.Transition(ctx, store.Transition{UUID: h.UUID, To: to, Reason: why, Event: "test", Actor: "test"})
	})
	return h.UUID
}

func claimName(t *testing.T, db *store.DB, u amt.UUID, name, keep string) (holder amt.UUID) {
	t.Helper()
	write(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
		holder, err = tx.ClaimName(ctx, u, name, keep)
		return err
	})
	return holder
}

// TestWhoHasAName: a device that bears a name keeps it, one that does not lets go
// of it.
func TestWhoHasAName(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		n := 1
		for _, c := range []struct {
			name        string
			at          store.Lifecycle
			why         reason.Code
			provisioned bool
			keeps       bool
		}{
			{"managed", store.Provisioned, "", true, true},
			{"drifted", store.Drifted, reason.ProfileDrift, true, true},
			{"somebody is at it", store.Provisioning, "", false, true},
			{"its commit was sent", store.Failed, reason.CommitUnverified, false, true},
			{"managed once, and in trouble", store.CredentialsUnknown, reason.CredentialsUnknown, true, true},
			{"its set-up failed", store.Failed, reason.ConnectionLost, false, false},
			{"proven false", store.Quarantined, reason.UUIDMismatch, false, false},
			{"retired", store.Retired, "", true, false},
			{"factory again", store.Unprovisioned, "", true, false},
		} {
			first := stands(t, db, n, store.Provisioning, "", "", false)
			other := stands(t, db, n+1, store.Provisioning, "", "", false)
			name := "pc-" + string(rune(96+n)) + ".corp.example.com"
			n += 2
			if got := claimName(t, db, first, name, ""); got != first {
				t.Fatalf("%s: a free name went to %s", c.name, got)
			}
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				if c.provisioned {
					if err := tx.UpdateDevice(ctx, first, store.DeviceFacts{ProvisionedAt: ptr(tx.Now())}); err != nil {
						return err
					}
				}
				return tx.Transition(ctx, store.Transition{UUID: first, To: c.at, Reason: c.why, Event: "test", Actor: "test"})
			})
			want := other
			if c.keeps {
				want = first
			}
			if got := claimName(t, db, other, name, ""); got != want {
				t.Errorf("%s: the name went to %s, want %s", c.name, got, want)
			}
			if got := claimName(t, db, first, name, ""); got != want {
				t.Errorf("%s: asked again the name went to %s, want %s", c.name, got, want)
			}
		}
	})
}

// TestANameWithoutARow: a device named by an earlier release has its name, and of
// several the one that was set up first.
func TestANameWithoutARow(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		const name = "pc-7.corp.example.com"
		old := stands(t, db, 1, store.Provisioned, "", name, true)
		late := stands(t, db, 2, store.Provisioned, "", name, true)
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return tx.UpdateDevice(ctx, late, store.DeviceFacts{ProvisionedAt: ptr(tx.Now().Add(time.Hour))})
		})
		stranger := stands(t, db, 3, store.Provisioning, "", "", false)
		for range 2 {
			if got := claimName(t, db, stranger, "PC-7.Corp.example.com", ""); got != old {
				t.Errorf("the name went to %s, want %s", got, old)
			}
		}
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			for _, of := range []string{"", name} {
				shared, err := tx.SharedNames(ctx, of, 10)
				if err != nil || len(shared) != 1 || shared[0].Name != name || !slices.Equal(shared[0].Devices, []amt.UUID{old, late}) {
					t.Errorf("shared: %v, %v", shared, err)
				}
			}
			if shared, err := tx.SharedNames(ctx, "pc-8.corp.example.com", 10); err != nil || len(shared) != 0 {
				t.Errorf("shared: %v, %v", shared, err)
			}
			return nil
		})
	})
}

// TestNamesAreGivenBack: who gets another name has the old one no longer, unless
// it still bears it.
func TestNamesAreGivenBack(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		a, b := stands(t, db, 1, store.Maintaining, "", "", true), stands(t, db, 2, store.Provisioning, "", "", false)
		claimName(t, db, a, "one.example", "")
		claimName(t, db, a, "two.example", "one.example")
		if got := claimName(t, db, b, "one.example", ""); got != a {
			t.Errorf("a name its bearer has not left went to %s", got)
		}
		claimName(t, db, a, "two.example", "two.example")
		if got := claimName(t, db, b, "one.example", ""); got != b {
			t.Errorf("a name given back went to %s", got)
		}
	})
}

// TestTwoWantOneName: whoever of many comes first has it, and all hear the same.
func TestTwoWantOneName(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		const many = 8
		var all [many]amt.UUID
		for i := range all {
			all[i] = stands(t, db, i+1, store.Provisioning, "", "", false)
		}
		var got [many]amt.UUID
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range all {
			wg.Go(func() {
				<-start
				if err := db.Write(t.Context(), func(tx *store.Tx) (err error) {
					got[i], err = tx.ClaimName(t.Context(), all[i], "pc.corp.example.com", "")
					return err
				}); err != nil {
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		for i := range got {
			if got[i] != got[0] || got[i] == (amt.UUID{}) {
				t.Errorf("%s heard that %s has the name, another that %s", all[i], got[i], got[0])
			}
		}
	})
}

func TestConsoleCertificates(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		var a, b store.ConsoleCertificate
		write(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
			if a, err = tx.AddConsoleCertificate(ctx, store.ConsoleCertificate{Serial: "0a", Name: "console.lab.example",
				Fingerprint: []byte{1}, IssuedTo: "the help desk", CreatedBy: "kim", NotAfter: tx.Now().Add(time.Hour)}); err != nil {
				return err
			}
			b, err = tx.AddConsoleCertificate(ctx, store.ConsoleCertificate{Serial: "0b", Name: "old.lab.example", Fingerprint: []byte{2},
				CreatedBy: "kim", NotAfter: tx.Now().Add(-time.Hour)})
			return err
		})
		for _, by := range []string{"lee", "kim"} { // the first one counts
			write(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
				a, err = tx.RevokeConsoleCertificate(ctx, a.ID, by, "left")
				return err
			})
		}
		if a.RevokedBy != "lee" || a.RevokedAt.IsZero() || a.Why != "left" || a.IssuedTo != "the help desk" {
			t.Errorf("revoked: %+v", a)
		}
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			good, err := tx.ConsoleCertificates(ctx, false)
			all, err2 := tx.ConsoleCertificates(ctx, true)
			if err != nil || err2 != nil || len(good) != 1 || good[0].ID != a.ID || len(all) != 2 || all[0].ID != b.ID {
				t.Errorf("%v %v, %v %v", good, err, all, err2)
			}
			return nil
		})
	})
}
