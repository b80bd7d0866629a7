package provision

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/server/profile"
)

// The gate (I15): a change to a managed device that could shut us out counts only
// once a new login has proved that it did not, and is put back where it did.
//
//  1. Before the change the way back is noted: guard.
//  2. What the device then says of itself is held against what we are: what would
//     exclude us is put back at once, over the session that made the change.
//  3. Part of a change is in force at once (the trusted names), the rest with the
//     commit. After each, a new connection logs in under our own name: prove. The
//     session that made the change stays open meanwhile.
//  4. Where that login is refused, the change is put back over the old session, or,
//     if the firmware cut it, over any other door: names that the device was told
//     beside ours, or had before. The way it was is proved like the change.
//
// Each setting that decides who is let in goes through here, by a change of its
// own; what is proved, and what is put back, does not depend on which it is. An
// attempt that ends between a change and its proof leaves the device to the next
// one, which comes in by the door that is open and asks anew.

// A guarded change knows its way back, over whatever session is open then.
type guarded struct {
	what string
	back func(context.Context, Device) error
}

// guard makes a change that could shut us out. check holds what the device says
// afterwards against what we are; an error of it, or of a login on a new connection
// where the change is in force at once, puts the change back.
func (r *Run) guard(ctx context.Context, g guarded, make, check func(context.Context) error, atOnce bool) error {
	r.guarded = append(r.guarded, g)
	if err := make(ctx); err != nil {
		return err
	}
	if r.e.ungated {
		return nil
	}
	err := check(ctx)
	if err == nil && atOnce {
		err = r.proveBeside(ctx)
	}
	if err == nil || !shutsOut(err) {
		return err
	}
	return r.putBack(ctx, r.Device, false, err)
}

// shutsOut reports whether a device refuses us, rather than being away: that a
// change did it is then certain enough to take the change back.
func shutsOut(err error) bool {
	switch codeOf(err) {
	case reason.TLSClientCertRefused, reason.LockoutAverted, reason.AuthFailed:
		return true
	}
	return false
}

// proveBeside logs in on a new connection under our own name, while the session at
// hand stays open. A device that takes no second connection proves nothing by that.
func (r *Run) proveBeside(ctx context.Context) error {
	d, err := r.meetAgain(ctx)
	r.lease.guard(r.Device)
	if err != nil {
		if shutsOut(err) {
			return err
		}
		r.log.Info("gate.not_beside", zap.Error(err))
		return nil // the commit's proof follows
	}
	defer func() { _ = d.Close() }()
	d.SetDeadline(r.deadline())
	if err := r.greetWith(d, r.admin); err != nil {
		return err
	}
	if _, err := d.State(ctx); shutsOut(err) {
		return err
	}
	return nil
}

// deadline is when the device may be somebody else's.
func (r *Run) deadline() time.Time {
	now := r.e.Clock.Now()
	return now.Add(r.lease.left(now) - r.e.Margin)
}

// guardPending guards what an earlier attempt changed and did not commit.
func (r *Run) guardPending(ctx context.Context) error {
	if r.material == nil || r.Device == nil || len(r.guarded) > 0 {
		return nil
	}
	was, err := r.tlsNow()
	if err != nil || !was.Mutual || r.Device.Peer().ClientCertAsked {
		return nil // it asks already, or will not
	}
	back := func(ctx context.Context, d Device) error { return d.EnableTLS(ctx, false, was.TrustedCN) }
	r.toldConsoles = append(r.toldConsoles, was.TrustedCN...)
	return r.guard(ctx, guarded{"mutual TLS, set by an earlier attempt,", back}, func(context.Context) error { return nil }, r.letsUsIn,
		false)
}

// proved ends the gate: a new login has worked.
func (r *Run) proved() {
	r.guarded = nil
	r.dropRope()
}

// takeRope keeps the session that made a guarded change open over its commit.
func (r *Run) takeRope() {
	if len(r.guarded) > 0 && !r.e.ungated {
		r.rope, r.Device = r.Device, nil
		r.lease.guard(nil)
	}
}

func (r *Run) dropRope() {
	if r.rope != nil {
		_ = r.rope.Close()
		r.rope = nil
	}
}

// takeBack undoes guarded changes after a commit that shut us out.
func (r *Run) takeBack(ctx context.Context, why error) error {
	r.hangUp()
	if rope := r.rope; rope != nil {
		r.rope = nil
		rope.SetDeadline(r.deadline())
		if _, err := rope.State(ctx); err == nil {
			return r.putBack(ctx, rope, true, why)
		}
		_ = rope.Close()
	}
	d, err := r.meet(ctx)
	if err == nil {
		d.SetDeadline(r.deadline())
		if err = r.greetWith(d, r.admin); err == nil {
			_, err = d.State(ctx)
		}
		if err == nil {
			return r.putBack(ctx, d, true, why)
		}
		_ = d.Close()
	}
	r.log.Error("gate.shut_out", zap.NamedError("change", why), zap.Error(err))
	return why
}

// putBack undoes guarded changes over a session, the last first, and proves that
// the device lets us in as it did before.
func (r *Run) putBack(ctx context.Context, over Device, commit bool, why error) error {
	r.Device = over
	r.lease.guard(over)
	var what []string
	for _, g := range slices.Backward(r.guarded) {
		what = append(what, g.what)
		if err := g.back(ctx, over); err != nil {
			return reason.Because(reason.LockoutAverted, "%s would shut this server out (%w), and could not be put back: %w", g.what, why,
				err)
		}
	}
	if commit {
		err := over.Commit(ctx)
		r.unanswered = r.unanswered || sent(err)
		if amt.Answered(err) {
			return reason.Because(reason.LockoutAverted,
				"%s shut this server out (%w), was put back, and the commit of that was refused: %w", what[0], why, err)
		}
	}
	r.guarded, r.unsaved = nil, false
	r.hangUp()
	if _, err := r.verify(ctx); err != nil {
		return reason.Because(reason.LockoutAverted, "%s shut this server out (%w) and was put back, and still: %w", what[0], why, err)
	}
	r.log.Warn("gate.put_back", zap.Strings("changes", what), zap.NamedError("why", why))
	return reason.Because(reason.LockoutAverted, "%s would have shut this server out, so it was put back: %w", what[0], why)
}

// trustedNames are the names that the device is told to let in, ours among them.
func (r *Run) trustedNames() ([]string, error) {
	names, err := r.Profile.TrustedNames(r.ownConsole())
	if err != nil {
		return nil, reason.Because(reason.LockoutAverted, "%w", err)
	}
	return names, nil
}

// setTLS makes the device ask consoles for certificates, or not, and tells it whom to
// let in: with our own root in its store first, since without it nobody comes in.
func (r *Run) setTLS(ctx context.Context) error {
	mutual := r.Profile.TLS == profile.TLSMutual
	names, err := r.trustedNames()
	if err != nil {
		return err
	}
	if mutual {
		_, root := r.e.Trust.Console()
		if _, err := r.Device.AddTrustedRoot(ctx, root); err != nil && !amt.Answered(err, amt.StatusDuplicate) {
			return named(reason.TLSEnableFailed, err)
		}
		r.toldConsoles = append(r.toldConsoles, names...)
	}
	return named(reason.TLSEnableFailed, r.Device.EnableTLS(ctx, mutual, names))
}

// letsUsIn holds what the device says of its TLS against what we are, before any of
// it is committed.
func (r *Run) letsUsIn(ctx context.Context) error {
	if r.e.ungated {
		return nil
	}
	r.material = nil
	if err := r.readMaterial(ctx); err != nil {
		return err
	}
	own := r.ownConsole()
	_, root := r.e.Trust.Console()
	for _, s := range r.material.Settings {
		switch {
		case !network(s) || !s.Mutual:
		case !profile.Admits(s.TrustedCN, own):
			return reason.Because(reason.LockoutAverted, "the device says that it lets in %v, and this server's name %s is none of them",
				s.TrustedCN, own)
		case !slices.ContainsFunc(r.material.Certificates,
			func(c session.CertInstance) bool { return c.Trusted && bytes.Equal(c.DER, root) }):
			return reason.Because(reason.LockoutAverted,
				"the device asks consoles for certificates and does not hold the root of this server's")
		}
	}
	return nil
}

// tlsNow is the network's TLS as the device has it.
func (r *Run) tlsNow() (session.TLSSetting, error) {
	for _, s := range r.material.Settings {
		if network(s) {
			return s, nil
		}
	}
	return session.TLSSetting{}, reason.Because(reason.TLSEnableFailed, "the device has no TLS settings for its network interface")
}

// changeTLS is setTLS on a device under management.
func (r *Run) changeTLS(ctx context.Context) error {
	was, err := r.tlsNow()
	if err != nil {
		return err
	}
	was.Mutual = r.Device.Peer().ClientCertAsked // what is in force: an earlier attempt may have left something else to commit
	what := fmt.Sprintf("TLS with mutual %t, letting in %v,", r.Profile.TLS == profile.TLSMutual, r.Profile.TrustedCN)
	r.toldConsoles = append(r.toldConsoles, was.TrustedCN...)
	back := func(ctx context.Context, d Device) error { return d.EnableTLS(ctx, was.Mutual, was.TrustedCN) }
	// The trusted names do not wait for the commit (amt/protocol.md 6.8); a device that
	// asks already goes by them at once.
	return r.guard(ctx, guarded{what, back}, r.setTLS, r.letsUsIn, was.Mutual)
}
