package store_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"testing"

	"github.com/provisiond/provisiond/store"
)

// inForce makes a device whose password is active and which is known by one key.
func inForce(t *testing.T, db *store.DB, n int) store.Proof {
	t.Helper()
	hello(t, db, n)
	key := store.Proof{Kind: store.ProofKey, Hash: sha256.Sum256([]byte{byte(n)})}
	gen := stage(t, db, n, "Admin!1a", "Mebx!1aa")
	id := credentials(t, db, n, store.KindAdmin)[0].ID
	write(t, db, func(ctx context.Context, tx *store.Tx) error {
		if err := tx.MarkSent(ctx, id, "admin", "Digest:A", []byte{9}, netip.MustParseAddr("10.0.0.1"), false); err != nil {
			return err
		}
		if err := tx.Known(ctx, uuid(n), gen, []store.Proof{key}, true); err != nil {
			return err
		}
		return tx.Activate(ctx, id)
	})
	return key
}

// TestForgedPasswordsSayNothing: whoever writes into the database cannot say whom
// a password is for: neither by keys of his own nor by another device's, nor by
// calling it one that nobody holds, nor by a person's word.
func TestForgedPasswordsSayNothing(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		key := inForce(t, db, 1)
		inForce(t, db, 2)
		blob := func(b []byte) string {
			if db.Pool() != nil {
				return fmt.Sprintf(`'\x%x'`, b)
			}
			return fmt.Sprintf("x'%x'", b)
		}
		mine := sha256.Sum256([]byte("mallory"))
		row := " WHERE kind = 'admin' AND uuid = '" + uuid(1).String() + "'"
		if c := credentials(t, db, 1, store.KindAdmin)[0]; c.Forged || len(c.Proofs) != 1 || c.Proofs[0] != key ||
			c.Holder() != store.HeldByAny {
			t.Fatalf("%+v", c)
		}
		keep := "UPDATE credentials SET proofs = " + blob(append([]byte{'k'}, key.Hash[:]...)) +
			", setup = 1, state = 'active', sent_at = created_at, committed_at = created_at, peer = " + blob([]byte{9}) + row
		for _, a := range [][2]string{
			{"a key of one's own", "UPDATE credentials SET proofs = " + blob(append([]byte{'k'}, mine[:]...)) + row},
			{"one that nobody holds", "UPDATE credentials SET state = 'candidate', sent_at = NULL" + row},
			{"one of an older release", "UPDATE credentials SET setup = 0, proofs = NULL" + row},
			{"sent to somebody else", "UPDATE credentials SET peer = " + blob(mine[:]) + row},
			{"another device's", "UPDATE credentials SET proofs = (SELECT o.proofs FROM credentials o WHERE o.kind = 'admin' AND o.uuid = '" + uuid(2).String() + "'), signed = (SELECT o.signed FROM credentials o WHERE o.kind = 'admin' AND o.uuid = '" + uuid(2).String() + "')" + row},
		} {
			name, attack := a[0], a[1]
			if err := db.Exec(t.Context(), attack); err != nil {
				t.Fatal(err)
			}
			if c := credentials(t, db, 1, store.KindAdmin)[0]; !c.Forged || len(c.Proofs) != 0 || len(c.Peer) != 0 || c.OldPin ||
				c.Holder() != store.HeldByAny {
				t.Errorf("%s: %+v", name, c)
			}
			if err := db.Exec(t.Context(), keep); err != nil {
				t.Fatal(err)
			}
			if c := credentials(t, db, 1, store.KindAdmin)[0]; c.Forged && name != "another device's" { // its own MAC went with that
				t.Errorf("%s, undone: %+v", name, c)
			}
		}

		// A change of ours does not bless what was slipped in.
		if err := db.Exec(t.Context(), "UPDATE credentials SET proofs = "+blob(append([]byte{'k'}, mine[:]...))+row); err != nil {
			t.Fatal(err)
		}
		id := credentials(t, db, 1, store.KindAdmin)[0].ID
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return tx.MarkSent(ctx, id, "admin", "Digest:A", []byte{9}, netip.MustParseAddr("10.0.0.1"), true)
		})
		if c := credentials(t, db, 1, store.KindAdmin)[0]; !c.Forged {
			t.Errorf("a forged row became ours: %+v", c)
		}

		// A person's word.
		word := func() []byte {
			var d store.Device
			read(t, db, func(ctx context.Context, tx *store.Tx) (err error) { d, err = tx.Device(ctx, uuid(2)); return err })
			return d.Vouched
		}
		if err := db.Exec(t.Context(), "UPDATE devices SET vouched = "+blob(mine[:])+" WHERE uuid = '"+uuid(2).String()+"'"); err != nil {
			t.Fatal(err)
		}
		if w := word(); len(w) != 0 {
			t.Errorf("somebody's word counts: %x", w)
		}
		write(t, db, func(ctx context.Context, tx *store.Tx) error { return tx.Vouch(ctx, uuid(2), mine[:]) })
		if w := word(); string(w) != string(mine[:]) {
			t.Errorf("a person's word: %x", w)
		}
	})
}

// TestPinsOfAnEarlierRelease: what an earlier release knew of a device it set up,
// the certificate it showed last, is what it is known by once rows are signed.
func TestPinsOfAnEarlierRelease(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			o := place(t, engine)
			o.Dir = t.TempDir()
			db := open(t, o)
			inForce(t, db, 1)
			inForce(t, db, 2)
			pin := sha256.Sum256([]byte("leaf"))
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				p := pin[:]
				return tx.UpdateDevice(ctx, uuid(1), store.DeviceFacts{PeerFingerprint: &p})
			})
			if err := db.AsBefore(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, q := range []string{"UPDATE credentials SET setup = 0, proofs = NULL, committed_at = NULL, signed = NULL",
				"UPDATE devices SET signed = NULL"} {
				if err := db.Exec(t.Context(), q); err != nil {
					t.Fatal(err)
				}
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db = open(t, again(t, o))
			if c := credentials(t, db, 1, store.KindAdmin)[0]; c.Forged || !c.OldPin {
				t.Errorf("before they are signed: %+v", c)
			}
			n, err := db.SignRows(t.Context())
			if err != nil || n["credentials"] != 4 {
				t.Fatalf("%v, %v", n, err)
			}
			want := store.Proof{Kind: store.ProofLeaf, Hash: pin}
			if c := credentials(t, db, 1, store.KindAdmin)[0]; c.Forged || c.OldPin || c.Setup != 1 || len(c.Proofs) != 1 ||
				c.Proofs[0] != want {
				t.Errorf("%+v", c)
			}
			if c := credentials(t, db, 2, store.KindAdmin)[0]; c.Forged || c.OldPin || len(c.Proofs) != 0 {
				t.Errorf("with no certificate known: %+v", c)
			}
		})
	}
}
