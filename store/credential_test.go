package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

func stage(tb testing.TB, db *store.DB, n int, admin, mebx string) (gen int) {
	tb.Helper()
	write(tb, db, func(ctx context.Context, tx *store.Tx) (err error) {
		gen, err = tx.StageCredentials(ctx, uuid(n), 1, amt.NewSecret(admin), amt.NewSecret(mebx))
		return err
	})
	return gen
}

func credentials(tb testing.TB, db *store.DB, n int, kind string) (all []store.Credential) {
	tb.Helper()
	read(tb, db, func(ctx context.Context, tx *store.Tx) (err error) {
		all, err = tx.Credentials(ctx, uuid(n), kind)
		return err
	})
	return all
}

func TestPasswordsAreKeptThroughTheirLives(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		hello(t, db, 1)
		if g := stage(t, db, 1, "Admin!1a", "Mebx!1aa"); g != 1 {
			t.Errorf("first generation %d", g)
		}
		if g := stage(t, db, 1, "Admin!2b", "Mebx!2bb"); g != 2 {
			t.Errorf("second generation %d", g)
		}
		admins := credentials(t, db, 1, store.KindAdmin)
		if len(admins) != 2 || admins[0].Password.Reveal() != "Admin!2b" || admins[1].Password.Reveal() != "Admin!1a" ||
			admins[0].State != store.CredentialCandidate {
			t.Fatalf("admins %+v", admins)
		}
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return errors.Join(
				tx.MarkSent(ctx, admins[1].ID, "admin", "Digest:A", []byte{9}, netip.MustParseAddr("10.0.0.1"), false),
				tx.Activate(ctx, admins[1].ID), tx.Activate(ctx, admins[0].ID), tx.Activate(ctx, admins[0].ID))
		})
		admins = credentials(t, db, 1, store.KindAdmin)
		if admins[0].State != store.CredentialActive || admins[1].State != store.CredentialRetired || admins[1].RetiredAt.IsZero() {
			t.Errorf("after two activations: %+v", admins)
		}
		if admins[1].Realm != "Digest:A" || admins[1].Address.String() != "10.0.0.1" || admins[1].SentAt.IsZero() ||
			len(admins[1].Peer) != 1 {
			t.Errorf("sent: %+v", admins[1])
		}
		if m := credentials(t, db, 1, store.KindMEBx); len(m) != 2 || m[0].State != store.CredentialCandidate {
			t.Errorf("the other kind: %+v", m)
		}
		if all := credentials(t, db, 1, ""); len(all) != 4 {
			t.Errorf("both kinds: %d", len(all))
		}
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			d, err := tx.Device(ctx, uuid(1))
			if d.Generation != 2 || d.PasswordChangedAt.IsZero() {
				t.Errorf("device %+v", d)
			}
			return err
		})
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.StageCredentials(t.Context(), uuid(9), 1, amt.NewSecret("a"), amt.NewSecret("b"))
			return err
		})
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("an unknown device: %v", err)
		}
	})
}

func TestConcurrentStagersTakeTheirOwnGenerations(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		hello(t, db, 1)
		var wg sync.WaitGroup
		for n := range 16 {
			wg.Go(func() { stage(t, db, 1, fmt.Sprint("a", n), fmt.Sprint("m", n)) })
		}
		wg.Wait()
		admins, mebx := credentials(t, db, 1, store.KindAdmin), credentials(t, db, 1, store.KindMEBx)
		for i := range admins {
			if admins[i].Generation != 16-i || admins[i].Password.Reveal()[1:] != mebx[i].Password.Reveal()[1:] {
				t.Errorf("generation %d: %s and %s", admins[i].Generation, admins[i].Password.Reveal(), mebx[i].Password.Reveal())
			}
		}
	})
}

// Whoever can write to the database still cannot make one device's password
// pass for another's, nor make the store forget one.
func TestTheDatabaseGuardsPasswords(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			o := place(t, engine)
			db := open(t, o)
			hello(t, db, 1)
			hello(t, db, 2)
			stage(t, db, 1, "Admin!1a", "Mebx!1aa")
			stage(t, db, 2, "Admin!2a", "Mebx!2aa")
			_ = db.Close()
			execute(t, o, fmt.Sprintf("UPDATE credentials SET sealed = (SELECT sealed FROM credentials WHERE uuid = '%s' AND kind = "+
				"'admin') WHERE uuid = '%s' AND kind = 'admin'", uuid(2), uuid(1)))
			db = open(t, again(t, o))
			err := db.Read(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Credentials(t.Context(), uuid(1), store.KindAdmin)
				return err
			})
			var why *reason.Error
			if !errors.As(err, &why) || why.Code != reason.SecretStoreUnavailable {
				t.Errorf("a swapped row was opened: %v", err)
			}
			if c := credentials(t, db, 2, store.KindAdmin); c[0].Password.Reveal() != "Admin!2a" {
				t.Errorf("%+v", c)
			}
			for _, forbidden := range []string{"DELETE FROM credentials", "DELETE FROM audit", "UPDATE audit SET actor = 'x'"} {
				write(t, db, func(ctx context.Context, tx *store.Tx) error { return tx.Audit(ctx, store.AuditRecord{Actor: "a"}) })
				if err := db.Exec(t.Context(), forbidden); err == nil || !strings.Contains(err.Error(), "never") {
					t.Errorf("%s: %v", forbidden, err)
				}
			}
		})
	}
}

func TestASecondNodeOpensWhatANewKeySealed(t *testing.T) {
	t.Parallel()
	o := place(t, store.Postgres)
	a, b := open(t, o), open(t, again(t, o))
	hello(t, a, 1)
	write(t, b, func(ctx context.Context, tx *store.Tx) error { _, err := tx.NewDataKey(ctx); return err })
	stage(t, b, 1, "Admin!1a", "Mebx!1aa")
	if c := credentials(t, a, 1, store.KindAdmin); c[0].Password.Reveal() != "Admin!1a" {
		t.Errorf("%+v", c)
	}
}

func TestRotationResealsEverything(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		for n := range 5 {
			hello(t, db, n)
			stage(t, db, n, fmt.Sprint("a", n), fmt.Sprint("m", n))
		}
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.PutCertificateRequest(ctx, store.CertificateRequest{Subject: "CN=x", CSR: []byte("csr"), Key: amt.NewSecret("key"),
				State: "open"})
			_, err2 := tx.CreateOTP(ctx, store.OTP{UUID: uuid(1), Password: amt.NewSecret("otp"), ExpiresAt: tx.Now().Add(1e12)})
			return errors.Join(err, err2, tx.PutSealedSetting(ctx, "ca", amt.NewSecret("ca key")),
				tx.PutCertificate(ctx, store.Certificate{ID: "c1", Chain: []byte("x"), Key: amt.NewSecret("pem"), State: "active"}))
		})
		write(t, db, func(ctx context.Context, tx *store.Tx) error { _, err := tx.NewDataKey(ctx); return err })
		total := 0
		for {
			var n int
			write(t, db, func(ctx context.Context, tx *store.Tx) (err error) { n, err = tx.Reseal(ctx, 3); return err })
			total += n
			if n == 0 {
				break
			}
		}
		if total != 15 {
			t.Errorf("%d envelopes moved, want 15", total)
		}
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			left, err := tx.SealedUnder(ctx)
			if len(left) != 1 || left[2] != 15 {
				t.Errorf("sealed by key: %v", left)
			}
			ca, err2 := tx.SealedSetting(ctx, "ca")
			cert, err3 := tx.Certificate(ctx, "c1")
			reqs, err4 := tx.CertificateRequests(ctx)
			otps, err5 := tx.LiveOTPs(ctx, uuid(1))
			if ca.Reveal() != "ca key" || cert.Key.Reveal() != "pem" || reqs[0].Key.Reveal() != "key" ||
				otps[0].Password.Reveal() != "otp" {
				t.Error("a secret changed in rotation")
			}
			return errors.Join(err, err2, err3, err4, err5)
		})
		for n := range 5 {
			if c := credentials(t, db, n, store.KindMEBx); c[0].Password.Reveal() != fmt.Sprint("m", n) {
				t.Errorf("device %d: %+v", n, c)
			}
		}
	})
}

func TestWithoutAMasterKeyNothingIsSealed(t *testing.T) {
	t.Parallel()
	db := open(t, store.Options{Dir: t.TempDir()})
	err := db.Write(t.Context(), func(tx *store.Tx) error {
		return tx.PutSealedSetting(t.Context(), "k", amt.NewSecret("s"))
	})
	var why *reason.Error
	if !errors.As(err, &why) || why.Code != reason.SecretStoreUnavailable {
		t.Error(err)
	}
}
