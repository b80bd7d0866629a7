package provision

import (
	"net/netip"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/store"
)

// Hellos of the device and of others in its name. What follows from one is the
// shipped decision; what is written down of it is the model's.

// hello is the device's own: it makes it eligible and changes nothing else.
func (w *world) hello() {
	if w.dev.state != amt.StateIn || w.now.Before(w.dev.back) {
		return
	}
	if w.p(.1) {
		w.hit("hello lost", "")
		return
	}
	if w.faulty && w.db.live() != nil {
		w.hit("duplicate hello", "")
	}
	w.db.hello(w.dev.addr, 1)
	moved := w.db.row.AddressBy == store.ByOperator && w.db.row.Address != w.dev.addr // a person's word stands against it
	if l := w.db.lifecycle; !moved && l != store.Provisioned && l != store.PendingApproval && l != store.Quarantined &&
		w.db.live() == nil && w.db.row.ClaimDue.IsZero() {
		w.broken("I6", "a hello was taken and nothing came of it")
	}
	w.check("hello")
}

// rogueHello is another machine's, from a network of ours or from outside, with the
// device's roots or others. By itself it changes nothing of a device that is ours.
func (w *world) rogueHello() {
	from, outside := w.rogue.addr, w.odd.IntN(4) == 0
	if outside {
		from = netip.MustParseAddr("192.0.2.9")
	}
	w.hit("a stranger says hello", "")
	row, lifecycle, why := w.db.row, w.db.lifecycle, w.db.reason
	w.db.hello(from, 1+w.odd.Int64N(2))
	now := w.db.row
	if !row.Address.IsValid() {
		return // nobody had heard of it
	}
	if same := lifecycle == w.db.lifecycle && why == w.db.reason && row.Address == now.Address && row.TrustTable == now.TrustTable; !same &&
		(outside || w.managed() && row.Address != from) || outside && !row.ClaimDue.Equal(now.ClaimDue) {
		w.broken("I14", "a hello from %s made the device %s at %s; it was %s at %s", from, w.db.lifecycle, now.Address, lifecycle,
			row.Address)
	}
}

// managed reports whether the device is ours and the store knows by which password.
func (w *world) managed() bool {
	c := w.db.active(store.KindAdmin)
	return w.dev.state == amt.StatePost && c != nil && c.Password.Reveal() == w.dev.admin && !w.db.row.ProvisionedAt.IsZero()
}

// device is the row as a run or a decision sees it.
func (d *simStore) device() store.Device {
	row := d.row
	row.UUID, row.Lifecycle, row.Reason, row.Attempts, row.HelloCount = simUUID, d.lifecycle, d.reason, d.attempts, 1
	if c := d.active(store.KindAdmin); c != nil {
		row.Generation = c.Generation
	}
	return row
}

func (d *simStore) hello(from netip.Addr, roots int64) {
	d.w.say("hello from %s", from)
	if from.As4()[0] == 10 && from != d.row.Address {
		d.claimant, d.claimed = from, d.now()
	}
	d.heed(from, roots, false)
}

// heed does what the shipped decision says about a hello.
func (d *simStore) heed(from netip.Addr, roots int64, gone bool) {
	was := d.device()
	moved := was
	if moved.TrustTable = roots; from != was.Address {
		moved.Address, moved.AddressBy = from, store.ByHello
	}
	q := admit.Question{
		Policy: admit.Policy{Mode: admit.Open, MostHastened: 6, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
		Hello: hello.Hello{Message: hello.Message{UUID: simUUID, Version: hello.VersionPKI,
			Hashes: []amt.TrustHash{{Algorithm: amt.SHA256}}}, At: d.now(), From: netip.AddrPortFrom(from, 0)},
		Device: moved, Before: store.SeenBefore{Known: true, Previous: was, AddressChanged: from != was.Address},
		Gone: gone, Live: d.live(), Now: d.now(),
		Twin: func() string { return "" }, Stray: func() time.Time { return d.now() }, Authorised: func() bool { return false },
		Listed: func(_, _ netip.Addr) bool { return false }, Sent: d.sent, Identity: func() admit.Identity { return admit.Identity{} },
		Match: func() error {
			if roots != 1 {
				return reason.Because(reason.RootNotTrusted, "other roots")
			}
			return nil
		},
	}
	if d.auto {
		q.Policy.Reprovision = admit.ReprovisionAuto
	}
	switch d.w.mutant {
	case "a hello moves the device":
		q.Before.AddressChanged = false
	case "every network is ours":
		q.Policy.Networks = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	}
	dec := admit.Decide(q)
	if dec.Stray == "" {
		d.row.Address, d.row.AddressBy, d.row.TrustTable = moved.Address, moved.AddressBy, roots
	}
	if dec.Claim && d.row.ClaimDue.IsZero() {
		d.row.ClaimDue = d.now()
	}
	if r := d.live(); r != nil && dec.HastenRun != 0 {
		r.NotBefore = d.now()
	}
	switch {
	case dec.Start:
		d.start("hello", d.now())
	case dec.To != "":
		d.lifecycle, d.reason = dec.To, dec.Reason
	}
}

// sent reports whether some device may hold a password of ours.
func (d *simStore) sent() bool {
	for _, c := range d.creds {
		if !c.SentAt.IsZero() {
			return true
		}
	}
	return false
}

func (d *simStore) active(kind string) *store.Credential {
	for _, c := range d.creds {
		if c.Kind == kind && c.State == store.CredentialActive {
			return c
		}
	}
	return nil
}

// settleProbe ends a call of a device that is claimed from elsewhere.
func (d *simStore) settleProbe(r *store.Run, v Verdict) {
	r.State = store.RunDone
	if d.attempts--; !v.OK {
		r.State = store.RunFailed
	}
	switch row := d.device(); {
	case !v.OK:
		d.row.ClaimDue = d.now().Add(v.Later)
	case v.There && len(v.Active) > 0 && (takenForLost(row) || unfinished(row)):
		d.lifecycle, d.reason = store.Provisioned, ""
		if d.row.ProvisionedAt.IsZero() {
			d.row.ProvisionedAt = d.now()
		}
	case v.There:
	default:
		if d.claimant.IsValid() && d.claimant != row.Address && d.claimed.After(row.LastContact) && !takenForLost(row) {
			d.w.hit("a claim is believed", "")
			d.heed(d.claimant, 1, true)
		}
		if takenForLost(d.device()) && d.row.GoodAddress.IsValid() {
			d.row.ClaimDue = d.now().Add(reprobe)
		}
	}
}

// operator mends, once the strangers are gone, what one of them was believed: he
// approves the device that waits where it is, and says where a managed one is.
func (d *simStore) operator() {
	dev := &d.w.dev
	lost, live := takenForLost(d.device()), d.live()
	if !lost && d.row.Address == dev.addr || d.w.now.Before(dev.back) || live != nil &&
		(live.State == store.RunRunning || d.row.Address == dev.addr) {
		return
	}
	d.w.say("a person says that it is at %s", dev.addr)
	d.row.Address, d.row.AddressBy, d.row.TrustTable = dev.addr, store.ByOperator, 1
	if d.row.MAC != dev.mac {
		d.row.MAC = "" // he binds the record to this machine
	}
	switch {
	case live != nil:
		live.NotBefore = d.now()
	case lost && dev.state == amt.StateIn:
		d.start("api", d.now())
	case lost && (d.row.ClaimDue.IsZero() || d.row.ClaimDue.After(d.now())):
		d.row.ClaimDue = d.now()
	case lost:
	default:
		d.asked = true
	}
}

// believed is the mutant in which whoever answers is believed, or one thing of what
// he says: the name goes on with which.
const believed = "who answers is believed"

// takes reports whether the store learns a fact in this history, a stranger's among
// them: of a device that it does not know yet it learns all that the engine says.
func (d *simStore) takes(fact string, strange bool) bool {
	what, mutant := strings.CutPrefix(d.w.mutant, believed)
	return !mutant || !strange || d.row.ProvisionedAt.IsZero() || what == "" || what == ", its "+fact
}
