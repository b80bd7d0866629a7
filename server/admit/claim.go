package admit

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// Stray says why a hello is not taken for the device's own.
type Stray string

const (
	StrayOutside     Stray = "outside"     // from no network of ours, or of a kind that leads nowhere
	StrayKeptOut     Stray = "kept_out"    // it proves less than the device that is known
	StrayClaims      Stray = "claims"      // the device is called first, where it is believed to be
	StrayDuringRun   Stray = "during_run"  // somebody works on the device
	StrayQuarantined Stray = "quarantined" // the device is kept out
	StrayLate        Stray = "late"        // sent before the device was set up
	// What became of those that claimed a device:
	StrayAnswered Stray = "answered" // the device answered with its key, where it was
	StrayBelieved Stray = "believed" // it did not
)

// Strays lists all of them.
func Strays() []Stray {
	return []Stray{StrayOutside, StrayKeptOut, StrayClaims, StrayDuringRun, StrayQuarantined, StrayLate, StrayAnswered, StrayBelieved}
}

const strayHello = "stray_hello"

// believed reports whether what the hello says is taken for the device's word.
func (d Decision) believed() bool { return d.Stray == "" && !d.Word.IsValid() }

// elsewhere reports whether the hello comes from another address than the one
// the device is believed to have.
func (q Question) elsewhere() bool {
	return q.Before.Known && q.Before.AddressChanged && q.Before.Previous.Address.IsValid()
}

// announced reports whether an authenticated agent speaks, and no firmware.
func (q Question) announced() bool { return q.Hello.Via == hello.ViaAgent && q.Hello.Version == 0 }

// holds reports whether the machine that is believed to be the device may hold a
// password of ours.
func (q Question) holds() bool {
	switch d := q.Before.Previous; d.Lifecycle {
	case store.Provisioned, store.Drifted, store.Maintaining, store.Verifying, store.Unprovisioning:
		return true
	case store.Unprovisioned, store.Retired, store.Discovered:
		return false
	default:
		return q.Before.Known && (d.Generation > 0 || q.Sent())
	}
}

// word is what an agent says about where a device is that may hold a password:
// it is looked for there first, and its key decides.
func (q Question) word() Decision {
	return Decision{Result: hello.Updated, Word: q.Device.Address}
}

// claimed decides about a hello from elsewhere, unless it is as good as one from
// where the device is believed to be.
func (q Question) claimed() (dec Decision, over bool) {
	if !q.elsewhere() || q.announced() || q.Gone {
		return dec, false
	}
	held, listed := q.held(), q.listed()
	if q.Live != nil {
		if q.absent() && len(q.Hello.Hashes) > 0 && (!held || listed) && q.letIn() {
			return dec, false
		}
		dec = q.stray(hello.Duplicate, StrayDuringRun, reason.UUIDDuplicate,
			q.saysElsewhere("run "+fmt.Sprint(q.Live.ID)+" is at it there"))
		dec.Claim = len(q.Hello.Hashes) > 0
		return dec, true
	}
	if q.holds() {
		return Decision{Result: hello.Duplicate, Stray: StrayClaims, Claim: true}, true
	}
	evidence := q.Twin()
	here := held || q.Before.Previous.AddressBy == store.ByImport || q.Listed(q.Before.Previous.Address, q.Device.Address)
	l := q.Device.Lifecycle
	wasLetIn := l == store.PendingIdentity || l == store.PendingCertificate || l == store.Failed && q.Device.Attempts > 0
	switch {
	case evidence != "" && here == listed:
		return q.twin(evidence), true
	case evidence != "" && here, held && !listed, wasLetIn && !q.letIn():
		return q.stray(hello.DeniedDevice, StrayKeptOut, reason.UUIDDuplicate, q.saysElsewhere("that is more than this hello proves")), true
	}
	return dec, false
}

// held reports whether the device's address is somebody's word, not a hello's:
// an approval is of the address that was looked at.
func (q Question) held() bool {
	d := q.Before.Previous
	return d.Approved || d.AddressBy != store.ByHello && d.AddressBy != store.ByImport
}

// listed reports whether the list of authorised devices speaks for the hello's
// address and not for the one that is believed.
func (q Question) listed() bool { return q.Listed(q.Device.Address, q.Before.Previous.Address) }

// pointedOut reports whether a quarantined device is one of two with its UUID of
// which somebody has said since which one it is.
func (q Question) pointedOut() bool {
	d := q.Before.Previous
	return d.Reason == reason.UUIDDuplicate && (d.AddressBy == store.ByOperator && !q.elsewhere() || q.elsewhere() &&
		d.AddressBy != store.ByOperator && q.listed())
}

// absent reports whether the last attempt at the device met nobody where it is
// believed to be, and the next one waits for its time.
func (q Question) absent() bool {
	d := q.Before.Previous
	return q.Live.Kind == "provision" && q.Live.State == store.RunQueued && d.Attempts > 0 && d.Reason != "" &&
		reason.Of(d.Reason).Blame == reason.TheNet
}

// stray leaves the device as it is; the timeline has it once an hour.
func (q Question) stray(result hello.Result, as Stray, code reason.Code, detail string) Decision {
	dec := Decision{Result: result, Stray: as}
	if q.Now.Before(q.Stray().Add(time.Hour)) {
		return dec
	}
	dec.Aside = strayEvent(q.Device, code, detail, q.Device.Address, q.Before.Previous.Address)
	return dec
}

func strayEvent(d store.Device, code reason.Code, detail string, from, believed netip.Addr) *store.Event {
	return &store.Event{UUID: d.UUID, Name: strayHello, Reason: code, Detail: detail, Actor: "system",
		Data: map[string]any{"address": from.String(), "believed": text(believed)}}
}

func (q Question) saysElsewhere(but string) string {
	d := q.Before.Previous
	whose := map[store.AddressBy]string{store.ByOperator: "a person said so", store.ByAgent: "its agent said so",
		store.ByImport: "an import said so"}[d.AddressBy]
	switch {
	case d.Approved:
		whose = "approved there"
	case whose == "":
		whose = "heard there"
	}
	return fmt.Sprintf("a hello with this UUID came from %s; the device is known at %s (%s), and %s. If it has moved: provctl device "+
		"address %s %s",
		q.Device.Address, d.Address, whose, but, d.UUID, q.Device.Address)
}

// fromHere reports whether a hello came from a network of ours.
func fromHere(networks []netip.Prefix, r store.HelloRecord) bool {
	from, err := netip.ParseAddrPort(r.From)
	return err == nil && allowed(networks, from.Addr().Unmap())
}

// Answered is told that a device answered with its key where it is believed to
// be, or where its name or its agent led: whoever says hello in its name
// elsewhere is a stray. said counts it, once the transaction is durable.
func (a *Admitter) Answered(ctx context.Context, tx *store.Tx, dev store.Device) (said func(), err error) {
	from := "elsewhere"
	rec, ok, err := a.claimant(ctx, tx, dev, time.Time{})
	if err != nil {
		return nil, err
	}
	if ok {
		from = rec.from.String()
	}
	last, err := tx.Events(ctx, store.EventFilter{UUID: dev.UUID, Name: strayHello, Newest: true, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(last) == 0 || !tx.Now().Before(last[0].At.Add(time.Hour)) {
		e := strayEvent(dev, reason.UUIDDuplicate,
			fmt.Sprintf("somebody at %s says hello in its name; the device itself answered at %s with its key, so that hello is not its "+
				"own", from, text(dev.Address)), rec.from, dev.Address)
		if _, err := tx.AddEvent(ctx, *e); err != nil {
			return nil, err
		}
	}
	return func() {
		a.Metrics.alarms.WithLabelValues(string(AlarmStray)).Inc()
		a.Metrics.strays.WithLabelValues(string(StrayAnswered)).Inc()
		a.Log.Warn("hello.stray", zap.Stringer("device", dev.UUID), zap.String("address", from), zap.Stringer("believed", dev.Address))
	}, nil
}

// Gone is told that nobody answered as the device where it is believed to be:
// the hello from elsewhere is believed, as provisioning.reprovision says.
func (a *Admitter) Gone(ctx context.Context, tx *store.Tx, dev store.Device) (said func(), err error) {
	said = func() {}
	rec, ok, err := a.claimant(ctx, tx, dev, dev.LastContact)
	if err != nil || !ok || dev.Lifecycle == store.PendingApproval && dev.Reason == reason.ReappearedUnprovisioned {
		return said, err // nobody claims it any more, or a person is asked already
	}
	hashes, err := tx.TrustHashes(ctx, rec.TrustTable)
	if err != nil {
		return said, err
	}
	h := hello.Hello{Message: hello.Message{UUID: dev.UUID, Version: hello.VersionPKI, Hashes: hashes, RetryCount: rec.Retry,
		AdminCredentialsSet: rec.AdminSet}, At: rec.At, Via: hello.Via(rec.Via),
		From: netip.AddrPortFrom(rec.from, 0)}
	before := store.SeenBefore{Known: true, Previous: dev, AddressChanged: true}
	moved := dev
	moved.Address, moved.AddressBy, moved.TrustTable = rec.from, store.ByHello, rec.TrustTable
	q, failed := a.question(ctx, factsOf(tx), h, moved, nil)
	q.Before, q.Gone = before, true
	if err := ended(ctx, tx, &q); err != nil {
		return said, err
	}
	d := Decide(q)
	if *failed != nil {
		return said, *failed
	}
	if d.believed() {
		f := store.DeviceFacts{Address: &moved.Address, AddressBy: &moved.AddressBy, TrustTable: &moved.TrustTable}
		if until, ok := window(a.Policy(), h, moved, before, tx.Now()); ok {
			f.WindowUntil = &until
		}
		if err := tx.UpdateDevice(ctx, dev.UUID, f); err != nil {
			return said, err
		}
	}
	return func() {
		a.Metrics.strays.WithLabelValues(string(StrayBelieved)).Inc()
		a.say(moved, d)
	}, a.carryOut(ctx, tx, moved, before, "hello", d)
}

// Absent is told that a set-up met nobody where its device is believed to be. If
// it says hello from elsewhere since, and may come in from there, the next attempt
// calls it there.
func (a *Admitter) Absent(ctx context.Context, tx *store.Tx, dev store.Device) error {
	rec, ok, err := a.claimant(ctx, tx, dev, dev.ClaimDue.Add(-time.Second))
	if err != nil || !ok {
		return err
	}
	hashes, err := tx.TrustHashes(ctx, rec.TrustTable)
	if err != nil || len(hashes) == 0 {
		return err
	}
	moved := dev
	moved.Address, moved.AddressBy, moved.TrustTable = rec.from, store.ByHello, rec.TrustTable
	h := hello.Hello{Message: hello.Message{UUID: dev.UUID, Version: hello.VersionPKI, Hashes: hashes}, At: rec.At, Via: hello.Via(rec.Via),
		From: netip.AddrPortFrom(rec.from, 0)}
	q, failed := a.question(ctx, factsOf(tx), h, moved, nil)
	q.Before = store.SeenBefore{Known: true, Previous: dev, AddressChanged: true}
	may := (!q.held() || q.listed()) && q.letIn()
	if *failed != nil || !may {
		return *failed
	}
	if err := tx.UpdateDevice(ctx, dev.UUID, store.DeviceFacts{Address: &moved.Address, AddressBy: &moved.AddressBy,
		TrustTable: &moved.TrustTable, ClaimDue: &time.Time{}}); err != nil {
		return err
	}
	_, err = tx.AddEvent(ctx, store.Event{UUID: dev.UUID, Name: "address_changed", Reason: dev.Reason, Actor: "system",
		Detail: "from " + text(dev.Address) + ", where nobody answered, to " + moved.Address.String()})
	return err
}

// A claimant is who said hello in a device's name from elsewhere.
type claimant struct {
	store.HelloRecord
	from netip.Addr
}

// claimant finds the newest hello of a device from elsewhere since a time, of one who is on the
// list of authorised devices before all others.
func (a *Admitter) claimant(ctx context.Context, tx *store.Tx, dev store.Device, since time.Time) (found claimant, ok bool, err error) {
	recent, err := tx.Hellos(ctx, dev.UUID, 64)
	if err != nil {
		return found, false, err
	}
	f := factsOf(tx)
	for i, r := range recent {
		from, err := netip.ParseAddrPort(r.From)
		at := from.Addr().Unmap().WithZone("")
		if r.Via == string(hello.ViaAgent) {
			if i > 0 {
				continue // where it said that the device is, only the newest hello's row tells
			}
			at = dev.HeardFrom
		}
		if err != nil || at == dev.Address || !allowed(a.Policy().Networks, at) || !r.At.After(since) ||
			uint16(r.Version) != hello.VersionPKI {
			continue
		}
		if !ok {
			found, ok = claimant{r, at}, true
		}
		in, err := f.networksFor(ctx, dev, at)
		if err != nil {
			return found, ok, err
		}
		if len(in) > 0 {
			return claimant{r, at}, true, nil
		}
	}
	return found, ok, nil
}
