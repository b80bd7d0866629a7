package provision

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/store"
)

// TestWhoMayHear crosses the passwords of a device with the peers that answer under
// its UUID.
func TestWhoMayHear(t *testing.T) {
	t.Parallel()
	seen := func(what string) session.Peer {
		cert, key := sha256.Sum256([]byte(what+" certificate")), sha256.Sum256([]byte(what+" key"))
		return session.Peer{Fingerprint: cert[:], Key: key[:]}
	}
	ours, other := seen("ours"), seen("other")
	sameKey, sameLeaf, byChip, unverified := seen("renewed"), seen("other"), seen("new board"), seen("liar")
	sameKey.Key = ours.Key
	sameLeaf.Fingerprint = ours.Fingerprint
	byChip.Hardware, byChip.Verified = chipKey[:], verifiedODCA
	unverified.Hardware = chipKey[:]
	proof := func(kind store.ProofKind, hash []byte) []store.Proof {
		return []store.Proof{{Kind: kind, Hash: [32]byte(hash)}}
	}
	key, leaf, chip := proof(store.ProofKey, ours.Key), proof(store.ProofLeaf, ours.Fingerprint), proof(store.ProofHardware, chipKey[:])
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	active := store.Credential{State: store.CredentialActive, Generation: 2, Setup: 2, RunID: 1, SentAt: at, CommittedAt: at,
		Peer: other.Fingerprint}
	next := store.Credential{State: store.CredentialCandidate, Generation: 3, Setup: 2, RunID: 1}  // of the same set-up, sent to nobody yet
	fresh := store.Credential{State: store.CredentialCandidate, Generation: 4, Setup: 4, RunID: 1} // for a set-up that has not begun
	handed, committed, sent := fresh, fresh, next
	handed.SentAt, sent.SentAt = at, at
	committed.SentAt, committed.CommittedAt = at, at
	for _, c := range []struct {
		name   string
		cred   store.Credential
		proofs []store.Proof
		peer   session.Peer
		setup  bool
		hears  bool
	}{
		{"its key", active, key, ours, false, true},
		{"its key in another certificate", active, key, sameKey, false, true},
		{"its certificate, where a key is known", active, key, sameLeaf, false, false},
		{"its certificate, where that is known", active, leaf, sameLeaf, false, true},
		{"its key, where a certificate is known", active, leaf, sameKey, false, false},
		{"its hardware, proven", active, chip, byChip, false, true},
		{"its hardware, shown and not proven", active, chip, unverified, false, false},
		{"another, to which the password was once sent", active, key, other, false, false},
		{"another in set-up", active, key, other, true, false},
		{"its key, the password that is next", next, key, ours, false, true},
		{"another, the password that is next", next, key, other, false, false},
		{"another in set-up, the password that is next", next, key, other, true, false},
		{"another in set-up, the password that is next and on its way", sent, key, other, true, false},
		{"another in set-up, a password for nobody yet", fresh, nil, other, true, false},
		{"another in set-up, a password handed out and not committed", handed, nil, other, true, true},
		{"another outside set-up, that password", handed, nil, other, false, false},
		{"another in set-up, a password whose commit was on its way", committed, key, other, true, false},
	} {
		root := c.cred // of its set-up, on which the proofs are
		root.Generation, root.Proofs = c.cred.Setup, c.proofs
		r := &Run{Job: Job{Admin: []store.Credential{root, c.cred}}, e: &Engine{Config: Config{Trust: simTrust{}}}}
		if got := r.mayHear(c.cred, c.peer, c.setup); got != c.hears {
			t.Errorf("%s: hears it %t, want %t", c.name, got, c.hears)
		}
	}
}

// quiet is a device that notes the logins it is handed.
type quiet struct {
	Device
	peer   session.Peer
	logins []session.Login
}

func (q *quiet) Peer() session.Peer          { return q.peer }
func (q *quiet) SetLogins(l []session.Login) { q.logins = l }

// TestDerivedIsForWhomAPersonVouchedFor: neither a stranger nor the device by its key
// hears what was derived, in whatever realm it asks.
func TestDerivedIsForWhomAPersonVouchedFor(t *testing.T) {
	t.Parallel()
	peer := shown("own", 1)
	logins := []session.Login{{Name: "derived-1", User: "admin", Password: amt.NewSecret("derived")}}
	for _, c := range []struct {
		name  string
		word  []byte
		hears bool
	}{
		{"nobody vouched", nil, false},
		{"for another certificate", shown("own", 2).Fingerprint, false},
		{"for the first, and none is written down yet", store.VouchFirst, false},
		{"for this one", peer.Fingerprint, true},
	} {
		r := &Run{Job: Job{Device: store.Device{Vouched: c.word},
			Admin: []store.Credential{{ID: 1, Generation: 1, Setup: 1, State: store.CredentialActive, RunID: 1, Proofs: peerProofs(peer)}}}}
		d := &quiet{peer: peer}
		err := r.greetDerived(d, logins)
		if (err == nil) != c.hears || (len(d.logins) > 0) != c.hears || err != nil && codeOf(err) != reason.TLSPinnedKeyChanged {
			t.Errorf("%s: %v, handed %d logins", c.name, err, len(d.logins))
		}
	}
}

// staging is a store that only makes passwords durable, and a clock that stands.
type staging struct{ Store }

func (staging) Now() time.Time                             { return time.Time{} }
func (staging) Sleep(context.Context, time.Duration) error { return nil }
func (staging) Stage(_ context.Context, _ Lease, _ int, admin, mebx amt.Secret) (a, m store.Credential, err error) {
	return store.Credential{ID: 8, Password: admin}, store.Credential{ID: 9, Password: mebx}, nil
}

// TestAKnownDevicesNextPasswordIsNoSetUps: a set-up under the same UUID makes new
// passwords rather than take one that was to be the known device's next.
func TestAKnownDevicesNextPasswordIsNoSetUps(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		setup int
		fresh bool
	}{{"of a rotation", 1, true}, {"of this set-up", 2, false}, {"of an earlier release", 0, false}} {
		cred := store.Credential{ID: 7, Generation: 2, Setup: c.setup, State: store.CredentialCandidate, RunID: 1}
		s := &staging{}
		r := &Run{Job: Job{Admin: []store.Credential{cred}}, admin: cred, lease: &lease{},
			e: &Engine{Config: Config{Store: s, Clock: s, Rand: rand.Reader}}}
		if err := r.freshPasswords(t.Context(), shown("own", 1)); err != nil {
			t.Fatal(err)
		}
		if fresh := slices.ContainsFunc(r.Job.Admin, func(o store.Credential) bool { return o.ID == 8 }); fresh != c.fresh {
			t.Errorf("%s: new passwords were made: %t", c.name, fresh)
		}
	}
}
