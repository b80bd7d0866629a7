package provision

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// How a device outside setup mode is called. What it was told decides, not what
// its profile wants by now: a profile that changed must not be what keeps us from
// changing the device.

// mostNames bounds the other names that one attempt is made under.
const mostNames = 8

// meet calls a device outside setup mode, under our own name. One that refuses it
// may have been told names without ours: by a release that had no name of its own,
// or by a change whose proof is still to come. Our device CA is what it believes, so
// it is called again under names that it may have been told.
func (r *Run) meet(ctx context.Context) (Device, error) {
	t := r.managedTarget()
	d, err := r.call(ctx, t)
	if err == nil {
		return d, nil
	}
	if codeOf(err) == reason.TLSClientCertRefused {
		for _, name := range r.otherNames(ctx) {
			if t.Client = r.e.Trust.ConsoleAs(name); t.Client == nil {
				continue
			}
			if d, again := r.call(ctx, t); again == nil {
				r.log.Info("console.other_name", zap.String("name", name))
				r.under = name
				return d, nil
			}
		}
	}
	return r.turned(ctx, err)
}

// turned calls a device the other way that was last met without TLS: a commit of
// ours may have given it TLS, or not have yet. To say hello to its key costs no
// secret, and without TLS it was spoken to before.
func (r *Run) turned(ctx context.Context, refused error) (Device, error) {
	if !refusedPort(refused) || !r.metPlain() {
		return nil, refused
	}
	r.other = !r.other
	d, err := r.call(ctx, r.managedTarget())
	if err != nil {
		r.other = !r.other
		return nil, refused
	}
	return d, nil
}

// meetAgain calls as meet does a device that a change was made to: under our own
// name or, where we were not let in under it before, under the one we were.
func (r *Run) meetAgain(ctx context.Context) (Device, error) {
	t := r.managedTarget()
	d, err := r.call(ctx, t)
	if codeOf(err) == reason.TLSClientCertRefused && r.under != "" {
		if t.Client = r.e.Trust.ConsoleAs(r.under); t.Client != nil {
			d, err = r.call(ctx, t)
		}
	}
	if err != nil {
		return r.turned(ctx, err)
	}
	return d, nil
}

// otherNames are names that the device may have been told instead of ours.
func (r *Run) otherNames(ctx context.Context) (names []string) {
	may := r.Profile.TrustedCN
	if r.e.Trusted != nil {
		known, err := r.e.Trusted(ctx, r.Job.Device, r.Job.Run.Profile)
		if err != nil {
			r.log.Warn("console.names_unread", zap.Error(err))
		}
		may = append(may[:len(may):len(may)], known...)
	}
	own := r.ownConsole()
	for _, n := range append(may, r.toldConsoles...) {
		if n = strings.ToLower(n); len(names) < mostNames && !profile.Admits([]string{n}, own) && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// ownConsole is the name under which we log in; "" without one.
func (r *Run) ownConsole() string {
	c, _ := r.e.Trust.Console()
	if c == nil || c.Leaf == nil {
		return ""
	}
	return c.Leaf.Subject.CommonName
}

// managedTarget is how a committed device is spoken to. A console certificate
// goes with it in every profile: a device that was told to ask for one before
// its profile changed still asks.
func (r *Run) managedTarget() session.Target {
	t := session.Target{Addr: netip.AddrPortFrom(r.Job.Device.Address, r.e.Port), MinTLS: r.leastTLS()}
	if r.plain() {
		t.Addr, t.Plain = netip.AddrPortFrom(r.Job.Device.Address, r.e.Port-1), true
		return t
	}
	t.Client, _ = r.e.Trust.Console()
	return t
}

// plain reports whether the device is spoken to without TLS: one that is being set
// up, where its profile has none; one under management, where it last let us in
// without, by the word of the profile that it has. Firmware from AMT 16.1 on knows
// no such thing.
func (r *Run) plain() bool {
	if r.Job.Run.Kind != KindProvision {
		return r.metPlain() && !r.other
	}
	return r.Profile.TLS == profile.TLSNone && r.oldEnough()
}

// metPlain reports whether a device under management last let us in without TLS, and
// a person has allowed that. A row may say nothing of it: an earlier release wrote
// it, or a person had it forgotten.
func (r *Run) metPlain() bool {
	return r.Job.Run.Kind != KindProvision && r.Job.Unprotected && r.oldEnough() && metWithoutTLS(r.Job.Device)
}

func metWithoutTLS(d store.Device) bool { return d.TLSVersion == withoutTLS || d.TLSVersion == "" }

func (r *Run) oldEnough() bool {
	v := r.Identity.Version
	if v.IsZero() {
		v = r.Job.Device.Version
	}
	return !v.IsZero() && !v.AtLeast(16, 1)
}

// withoutTLS stands in place of a version of TLS.
const withoutTLS = "none"

// keepsTLS reports whether a device under management has the TLS that it was set
// up with, whatever its profile says by now: none wants it of no device, and takes
// it from none.
func (r *Run) keepsTLS() bool { return r.Job.Run.Kind != KindProvision && !r.plain() }
