package provision

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// maxProbes bounds the passwords tried on a committed device: firmware logs
// failed logins as an attack, and may lock the account.
const maxProbes = 3

// contactBare opens the session a setup runs on: the chains that end in a root
// the device announced, one after the other until it accepts one.
func (r *Run) contactBare(ctx context.Context) error {
	if len(r.Job.Admin) == 0 || len(r.Job.MEBx) == 0 {
		return reason.Because(reason.InternalError, "run %d has no candidate passwords", r.Job.Run.ID)
	}
	r.admin, r.mebx = r.Job.Admin[0], r.Job.MEBx[0]
	r.again = slices.ContainsFunc(r.Job.Admin, func(c store.Credential) bool { return !c.SentAt.IsZero() })
	if d, err := r.seek(ctx); d != nil || err != nil {
		if err != nil {
			return err
		}
		return r.foundCommitted(ctx, d)
	}
	if len(r.Hashes) == 0 && r.Job.Device.HelloCount == 0 {
		return r.contactUnheard(ctx)
	}
	candidates, err := r.e.Trust.Candidates(r.Hashes, certs.Hints{Suffix: r.Job.Device.Suffix, Version: r.Job.Device.Version})
	if err != nil {
		return err
	}
	r.fitting = certs.Offers(candidates)
	candidates = lastGoodFirst(candidates, r.Job.Device.Certificate)
	var refused error
	for _, c := range candidates {
		d, err := r.dialSetup(ctx, c)
		if err == nil {
			return r.opened(ctx, d, c)
		}
		if refusedPort(err) && r.plain() && r.mayBeCommitted() {
			return r.foundElse(ctx, err)
		}
		if code := codeOf(err); code != reason.TLSClientCertRefused && code != reason.TLSSuffixRejected {
			return err
		}
		r.log.Info("tls.refused", zap.String("certificate", c.Cert.Name), zap.Error(err))
		if refused == nil {
			refused = fmt.Errorf("certificate %s: %w", c.Cert.Name, err)
		}
	}
	if refused != nil && (r.Profile.TLS == profile.TLSMutual || r.mayBeCommitted()) {
		return r.foundElse(ctx, refused)
	}
	return refused
}

// mayBeCommitted reports whether a commit was on its way in an earlier attempt.
func (r *Run) mayBeCommitted() bool {
	return slices.ContainsFunc(r.Job.Admin, func(c store.Credential) bool { return !c.CommittedAt.IsZero() })
}

// foundElse looks whether a device that refuses our setup certificates, or has
// closed the port for them, was committed by an earlier attempt: with mutual TLS it
// then wants a console's, whatever its profile says by now, and without TLS it
// listens elsewhere.
func (r *Run) foundElse(ctx context.Context, refused error) error {
	d, err := r.meet(ctx)
	if err != nil {
		return refused
	}
	return r.foundCommitted(ctx, d)
}

// contactUnheard meets a device that was imported with its address and never said
// hello, as one does not that somebody else has set up: it is asked as a
// committed device. Which roots it trusts nobody knows, so one that still waits
// to be set up is left to its hello.
func (r *Run) contactUnheard(ctx context.Context) error {
	r.unheard = true
	d, err := r.meet(ctx)
	if err != nil {
		if codeOf(err) == reason.TLSClientCertRefused && r.Profile.TLS != profile.TLSMutual {
			return r.notSetUp(err)
		}
		return err
	}
	return r.foundCommitted(ctx, d)
}

// notSetUp ends an attempt to adopt a device that nobody has set up.
func (r *Run) notSetUp(err error) error {
	return reason.Because(reason.RootNotTrusted, "the device at %s is not set up, so it cannot be adopted; its hello will say which "+
		"roots it trusts: %w", r.Job.Device.Address, err)
}

// foundCommitted takes over a session with a device that takes no setup
// certificate any more.
func (r *Run) foundCommitted(ctx context.Context, d Device) error {
	r.Device = d
	r.lease.guard(d)
	if err := r.provenHardware(d.Peer(), false, amt.Version{}); err != nil {
		return err
	}
	return r.greet(ctx, d, false)
}

// dialSetup calls as one does a device in setup mode: with one of our
// provisioning certificates.
func (r *Run) dialSetup(ctx context.Context, c certs.Candidate) (Device, error) {
	return r.call(ctx, session.Target{
		Addr:   netip.AddrPortFrom(r.Job.Device.Address, r.e.Port),
		Client: c.Cert.TLS(c.Path),
		MinTLS: r.leastTLS(),
	})
}

// leastTLS is the oldest version this device is spoken to with: never an older
// one than it took before, or who sits between could bring us down to it.
func (r *Run) leastTLS() uint16 {
	for v := uint16(tls.VersionTLS13); v > r.e.MinTLS && v > tls.VersionTLS10; v-- {
		if tls.VersionName(v) == r.Job.Device.TLSVersion {
			return v
		}
	}
	return r.e.MinTLS
}

// opened decides what the device is by what it asked for: in setup it wants our
// certificate; committed, it wants a password.
func (r *Run) opened(ctx context.Context, d Device, c certs.Candidate) error {
	r.Device = d
	r.lease.guard(d)
	peer := d.Peer()
	if err := r.provenHardware(peer, peer.ClientCertAsked, amt.Version{}); err != nil {
		return err // before it is a fact of this device
	}
	r.setup = peer.ClientCertAsked
	if err := r.greet(ctx, d, r.setup); err != nil {
		return err
	}
	if !r.setup {
		return nil
	}
	r.cert, r.facts.Certificate, r.facts.SetupPeer = c, c.Cert.ID, &peer
	if err := r.freshPasswords(ctx, peer); err != nil {
		return err
	}
	// Its hardware is known from now on, however far this set-up comes.
	r.proveWith(&r.admin, slices.DeleteFunc(peerProofs(peer), func(p store.Proof) bool { return p.Kind != store.ProofHardware })...)
	return nil
}

// logins are what a session is handed of the passwords that its peer may hear,
// bounded: the most likely one first among those the device did not refuse
// before, then those it did, the longest ago first. So each gets its turn, a few
// an attempt. A device in setup mode may want a password in spite of our
// certificate, and then also the factory's, which one outside setup mode never
// gets to hear.
func (r *Run) logins(p session.Peer, setup bool) []session.Login {
	most := maxProbes
	if setup {
		most--
	}
	likely := slices.DeleteFunc(r.likely(), func(c store.Credential) bool { return !mayBeHeld(c) || !r.mayHear(c, p, setup) })
	slices.SortStableFunc(likely, func(a, b store.Credential) int { return a.RefusedAt.Compare(b.RefusedAt) })
	var logins []session.Login
	for _, c := range likely {
		if len(logins) < most && !known(logins, c.Password) {
			logins = append(logins, r.login(c))
		}
	}
	if setup {
		logins = append(logins, factoryLogin)
	}
	return logins
}

// likely is the stored admin passwords, most likely first: the active one, the
// candidates the device was sent, those it was not (a person may have adopted
// one), the retired ones; newest first in each.
func (r *Run) likely() []store.Credential {
	var list []store.Credential
	for _, may := range []func(store.Credential) bool{
		func(c store.Credential) bool { return c.State == store.CredentialActive },
		func(c store.Credential) bool { return c.State == store.CredentialCandidate && !c.SentAt.IsZero() },
		func(c store.Credential) bool { return c.State == store.CredentialCandidate },
		func(c store.Credential) bool { return c.State == store.CredentialRetired },
	} {
		for _, c := range r.Job.Admin {
			if may(c) && !slices.ContainsFunc(list, func(o store.Credential) bool { return o.ID == c.ID }) {
				list = append(list, c)
			}
		}
	}
	return list
}

func known(logins []session.Login, pw amt.Secret) bool {
	for _, l := range logins {
		if l.Password.Equal(pw) {
			return true
		}
	}
	return false
}

// credentialName is the word the journal keeps of a login: candidate-3.
func credentialName(c store.Credential) string { return fmt.Sprintf("%s-%d", c.State, c.Generation) }

// credentialOf finds the stored password behind a login's name.
func (r *Run) credentialOf(login string) (store.Credential, bool) {
	for _, c := range r.Job.Admin {
		if credentialName(c) == login {
			return c, true
		}
	}
	return store.Credential{}, false
}

// freshPasswords makes new candidates durable when the newest ones were already
// shown to a peer that looked different: a device that took its place must not
// learn a password the other one may hold. Nor one that a person typed to adopt
// a device: half a fleet may have it. Nor one that was to be a known device's next.
func (r *Run) freshPasswords(ctx context.Context, peer session.Peer) error {
	c := r.admin
	if c.State == store.CredentialCandidate && !c.Typed() && c.Begins() && !exposed(c, peer, r.Job.Device.Address) &&
		!exposed(r.mebx, peer, r.Job.Device.Address) {
		return nil
	}
	return r.stage(ctx)
}

// exposed reports whether a password was sent to a peer other than this one.
func exposed(c store.Credential, peer session.Peer, addr netip.Addr) bool {
	return !c.SentAt.IsZero() && (!bytes.Equal(c.Peer, peer.Fingerprint) || c.Address != addr)
}

func (r *Run) stage(ctx context.Context) error {
	admin, err := amt.NewAdminPassword(r.e.Rand)
	if err != nil {
		return reason.Because(reason.SecretStoreUnavailable, "%w", err)
	}
	mebx, err := amt.NewMEBxPassword(r.e.Rand)
	if err != nil {
		return reason.Because(reason.SecretStoreUnavailable, "%w", err)
	}
	t0 := r.e.Clock.Now()
	a, m, err := r.e.Store.Stage(ctx, r.lease.Lease, 0, admin, mebx)
	if err != nil {
		return storeError("store the new passwords", err)
	}
	r.lease.extend(t0.Add(r.e.Lease))
	r.admin, r.mebx = a, m
	r.Job.Admin = append([]store.Credential{a}, r.Job.Admin...)
	r.Job.MEBx = append([]store.Credential{m}, r.Job.MEBx...)
	return nil
}

func lastGoodFirst(list []certs.Candidate, id string) []certs.Candidate {
	for i, c := range list {
		if i > 0 && c.Cert.ID == id {
			out := append([]certs.Candidate{c}, list[:i]...)
			return append(out, list[i+1:]...)
		}
	}
	return list
}
