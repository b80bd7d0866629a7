package provision

import (
	"bytes"
	"context"
	"encoding/hex"
	"slices"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/store"
)

// Whom an answer is for (I13). A digest answer is a key that works once: who can
// pass a challenge of the real device on to us, and our answer back, owns a
// session with it (RFC 7616, 5.8). So a password that any device may hold is
// answered only over TLS to the device that went through the set-up which the
// password descends from. That device is known by
//
//   - the key for which our device CA signed in that set-up or in a later session
//     with it,
//   - the key of the very session in which the commit was sent: who passed that
//     session through cannot end TLS with it,
//   - the key under which it last let us in, or
//   - the hardware identity, proven up to Intel's root, that it had at the commit,
//
// all of which are on the password's own record, so that a stranger who is set up
// under somebody else's UUID gets his own password asked for and no other. A
// person may vouch for one certificate beside these.
//
// The factory's password any peer in setup mode may hear. So may it one that was
// handed out in a set-up whose commit was never journalled: a device in setup mode
// talks only to who shows our provisioning certificate, so nobody can use an answer
// on it. A password that was made and left for nobody is answered to nobody: no
// device could take it.
//
// Nothing else in this package hands a login to a session; TestOneDoor holds it
// to that.

// greet hands a session the logins that its peer may hear; setup says that the
// peer asked for our provisioning certificate and took it. The error says who was
// turned away: a peer outside setup mode that may hear none of the passwords which
// this device may hold.
func (r *Run) greet(ctx context.Context, d Device, setup bool) error {
	peer := d.Peer()
	if !r.knows(peer) {
		if err := r.takeFirst(ctx, peer); err != nil {
			return err
		}
	}
	held, heard := 0, 0
	for _, c := range r.Job.Admin {
		if mayBeHeld(c) {
			held++
			if r.mayHear(c, peer, setup) {
				heard++
			}
		}
	}
	r.withheld = held - heard
	if r.withheld > 0 && heard == 0 {
		r.facts.Seen = &peer.Fingerprint
		if !setup {
			return r.stranger(peer)
		}
	}
	r.offer(d, r.logins(peer, setup))
	return nil
}

// greetWith hands a session one password alone, and only if its peer may hear it.
func (r *Run) greetWith(d Device, c store.Credential) error {
	peer := d.Peer()
	if !r.mayHear(c, peer, false) {
		r.facts.Seen = &peer.Fingerprint
		return r.stranger(peer)
	}
	r.offer(d, []session.Login{r.login(c)})
	return nil
}

// greetUser hands a session the password of a user of the device's, and only where
// the device itself has shown to be at the other end.
func (r *Run) greetUser(d Device, c store.UserPassword) error {
	if peer := d.Peer(); !r.knows(peer) && !r.vouchedFor(peer) {
		return r.stranger(peer)
	}
	d.SetLogins([]session.Login{{Name: "user", User: c.Name, Password: c.Password}})
	return nil
}

// greetAgain hands the session in which a device was just told a password the
// same logins again, the new one first: the change makes the device forget who
// is logged in, and it may ask again at any moment (amt/protocol.md 5.2).
func (r *Run) greetAgain(d Device, c store.Credential) {
	peer := d.Peer()
	logins := []session.Login{r.login(c)}
	for _, l := range r.logins(peer, r.setup) {
		if !known(logins, l.Password) {
			logins = append(logins, l)
		}
	}
	d.SetLogins(logins)
}

func (r *Run) offer(d Device, logins []session.Login) {
	r.offered = r.offered[:0]
	for _, c := range r.Job.Admin {
		if known(logins, c.Password) {
			r.offered = append(r.offered, c.ID)
		}
	}
	d.SetLogins(logins)
}

// knows reports whether a peer has shown to be a device that holds one of the
// passwords.
func (r *Run) knows(p session.Peer) bool {
	return r.bare(p) || slices.ContainsFunc(r.Job.Admin, func(c store.Credential) bool { return r.showsToBe(c, p) })
}

// bare reports whether a session is without TLS, by the profile's own word.
func (r *Run) bare(p session.Peer) bool { return len(p.Fingerprint) == 0 && r.plain() }

// greetDerived hands a session passwords that Intel SCS may have derived: to a
// device that a person vouched for and to nobody else, since an answer in a realm
// of a stranger's choice lets him guess the master password at leisure.
func (r *Run) greetDerived(d Device, logins []session.Login) error {
	if !r.vouchedFor(d.Peer()) {
		return r.stranger(d.Peer())
	}
	d.SetLogins(logins)
	return nil
}

// mayHear is the rule.
func (r *Run) mayHear(c store.Credential, p session.Peer, setup bool) bool {
	return setup && c.Holder() == store.HeldInSetup || r.bare(p) || r.vouchedFor(p) || r.showsToBe(c, p)
}

// mayBeHeld reports whether any device may take this password or is to get it next,
// or a person typed it.
func mayBeHeld(c store.Credential) bool { return c.Holder() != store.HeldByNobody }

// showsToBe reports whether a peer is the device that went through the set-up
// which a password descends from.
func (r *Run) showsToBe(c store.Credential, p session.Peer) bool {
	list := r.proofs(c)
	if len(list) == 0 {
		return r.showedBefore(c, p)
	}
	return slices.ContainsFunc(list, func(have store.Proof) bool { return proves(p, have) })
}

func proves(p session.Peer, have store.Proof) bool {
	switch have.Kind {
	case store.ProofKey:
		return bytes.Equal(have.Hash[:], p.Key)
	case store.ProofLeaf:
		return bytes.Equal(have.Hash[:], p.Fingerprint)
	case store.ProofHardware:
		return p.Verified == verifiedODCA && bytes.Equal(have.Hash[:], p.Hardware)
	}
	return false
}

// showedBefore stands in for the proofs that are missing where a node of an earlier
// release stored the password, or took the device through its set-up: the certificate the device
// showed at its last contact, the one to which the
// password was sent, or, while its set-up is not verified, one that our device CA
// made for this name in the hour of that set-up.
func (r *Run) showedBefore(c store.Credential, p session.Peer) bool {
	d := r.Job.Device
	switch {
	case c.State == store.CredentialActive && c.OldPin && len(d.PeerFingerprint) > 0:
		return bytes.Equal(d.PeerFingerprint, p.Fingerprint)
	case len(c.Peer) > 0 && bytes.Equal(c.Peer, p.Fingerprint):
		return true
	case c.State != store.CredentialCandidate || c.Typed() || c.SentAt.IsZero() || len(p.Chain) == 0:
		return false
	}
	leaf := p.Chain[0]
	made := leaf.NotBefore.Add(issueBackdate).Sub(c.SentAt).Abs()
	return made < issuedWithin && r.e.Trust.IssuedByUs(leaf.Raw) && r.ownName(leaf)
}

// issuedWithin is how far from the moment a password was sent an earlier release
// may have signed the certificate of the same set-up.
const issuedWithin = time.Hour

// proofs are what the device that holds a password is known by.
func (r *Run) proofs(c store.Credential) []store.Proof {
	for _, root := range r.Job.Admin {
		if c.Setup != 0 && root.Generation == c.Setup {
			return root.Proofs
		}
	}
	return nil
}

// proveWith adds what the device that holds a password is known by from now on, to
// be journalled before the next change is sent. A password that an earlier release
// stored begins a set-up of its own.
func (r *Run) proveWith(c *store.Credential, more ...store.Proof) {
	setup := c.Setup
	if setup == 0 {
		setup = c.Generation
	}
	for i := range r.Job.Admin {
		root := &r.Job.Admin[i]
		if root.ID == c.ID {
			root.Setup, c.Setup = setup, setup
		}
		if root.Generation != setup {
			continue
		}
		list, changed := store.AddProofs(root.Proofs, more...)
		root.Proofs = list
		if changed {
			r.facts.Known = &Known{Setup: setup, Proofs: list, Commits: r.facts.Known != nil && r.facts.Known.Commits}
		}
	}
}

// peerProofs are what a session's peer has shown.
func peerProofs(p session.Peer) []store.Proof {
	var list []store.Proof
	if len(p.Key) == 32 {
		list = append(list, store.Proof{Kind: store.ProofKey, Hash: [32]byte(p.Key)})
	}
	if p.Verified == verifiedODCA && len(p.Hardware) == 32 {
		list = append(list, store.Proof{Kind: store.ProofHardware, Hash: [32]byte(p.Hardware)})
	}
	return list
}

// letIn notes that the device took a password of ours over this session: what it
// says is believed, and its key is this device's.
func (r *Run) letIn(p session.Peer) {
	r.trusted = true
	if r.admin.User == "" {
		r.admin.User = r.Profile.AdminUser
		r.facts.LoginAs = &LoginAs{r.admin.ID, r.admin.User}
		r.keep(r.admin)
	}
	r.facts.Peer = &p
	if r.bare(p) {
		return
	}
	if len(r.Job.Device.Vouched) > 0 {
		r.facts.Vouched, r.Job.Device.Vouched = &[]byte{}, nil
	}
	r.proveWith(&r.admin, peerProofs(p)...)
}

// user is the account that is being set up or managed: on a device under
// management the one it has, whatever its profile says by now, since another name
// would be no login at all.
func (r *Run) user() string {
	if r.setup && !r.committed() || r.admin.User == "" {
		return r.Profile.AdminUser
	}
	return r.admin.User
}

// vouchedFor reports whether a person vouched for the certificate a peer shows.
func (r *Run) vouchedFor(p session.Peer) bool {
	word := r.Job.Device.Vouched
	return len(word) == 32 && bytes.Equal(word, p.Fingerprint)
}

// takeFirst makes a person's word for "the first that answers" one for this peer's
// certificate, durably, before it hears anything.
func (r *Run) takeFirst(ctx context.Context, p session.Peer) error {
	if !bytes.Equal(r.Job.Device.Vouched, store.VouchFirst) || len(p.Fingerprint) != 32 {
		return nil
	}
	t0 := r.e.Clock.Now()
	if err := r.e.Store.Journal(ctx, r.lease.Lease, nil, &Facts{Vouched: &p.Fingerprint}); err != nil {
		return storeError("write down which certificate answered first", err)
	}
	r.lease.extend(t0.Add(r.e.Lease))
	r.Job.Device.Vouched = p.Fingerprint
	return nil
}

// stranger is the error for a peer that may not hear what this device holds. The
// way out is a person's word for its certificate.
func (r *Run) stranger(p session.Peer) error {
	d := r.Job.Device
	shown := hex.EncodeToString(p.Fingerprint)
	code, why := reason.PeerUnverified, "which nobody has vouched for"
	if slices.ContainsFunc(r.Job.Admin, func(c store.Credential) bool { return mayBeHeld(c) && !c.Typed() }) {
		code, why = reason.TLSPinnedKeyChanged, "which is not a key of this device"
	}
	return reason.Because(code, "what answers at %s shows the certificate sha256:%s, %s, so no password is answered to it; once you know "+
		"that it is the device's: provctl device trust %s --fingerprint %s",
		d.Address, shown, why, d.UUID, shown)
}

func (r *Run) login(c store.Credential) session.Login {
	return session.Login{Name: credentialName(c), User: first(c.User, r.Profile.AdminUser), Password: c.Password}
}

// factoryLogin is what a device has that nobody set up.
var factoryLogin = session.Login{Name: "factory", User: "admin", Password: amt.NewSecret("admin")}
