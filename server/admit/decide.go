package admit

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// Question is all that a decision depends on.
type Question struct {
	Policy Policy
	Hello  hello.Hello
	Device store.Device // as the hello leaves it when it is believed
	Before store.SeenBefore
	Gone   bool       // nobody with its key answers where the device was believed to be
	Live   *store.Run // queued or running
	Ended  time.Time  // of the last run, zero: there was none
	Now    time.Time

	// What follows is asked only when a decision needs it.

	// Twin gives the evidence that two machines carry this UUID, "" for none.
	Twin func() string
	// Stray is when the timeline last had a stray hello of it, zero for never.
	Stray func() time.Time
	// Authorised reports whether a list lets the device in: by UUID, serial,
	// MAC or network.
	Authorised func() bool
	// Listed reports whether the list names the network of one address and not
	// that of another.
	Listed func(this, not netip.Addr) bool
	// Sent reports whether the machine that is believed to be the device was
	// sent a password.
	Sent func() bool
	// Identity assigns profile and name.
	Identity func() Identity
	// Match reports why no chain of ours suits the device.
	Match func() error
}

// Identity is what rules and name sources say about a device.
type Identity struct {
	Profile string // "" is the default
	Rule    string // the one that decided, "" none
	FQDN    string // "" leaves the name to the profile's pattern
	Source  string // of the name
	Entry   int64  // of the list of authorised devices that speaks of it, 0 none
	// Missing says what is not known yet, in a sentence; Reason names it.
	Missing string
	Reason  reason.Code
}

// Decision is what follows from a hello.
type Decision struct {
	Result hello.Result
	To     store.Lifecycle // "": stays
	Reason reason.Code
	Detail string
	// Event is the timeline's word; "" means nothing changed, and a device
	// that repeats its hello every minute does not fill the timeline.
	Event     string
	Evidence  map[string]any
	Alarm     Alarm        // counted even when the timeline has it already
	Aside     *store.Event // for the timeline; the device stays as it is
	Stray     Stray        // not "": the hello is believed in nothing
	Claim     bool         // the device is called, to see whether it is still where it was
	Word      netip.Addr   // where an agent says that it is
	Start     bool         // make a run
	HastenRun int64        // a waiting run to bring forward
	Identity  *Identity
}

// Decide answers, in this order: is it a device at all, do we want it, may we
// reach it, is it the one we know, is somebody at work already, may it come in,
// what shall it be, and do we hold a certificate for it.
//
// Whoever reaches the hello port can say hello in a device's name. So a hello
// from elsewhere moves nothing that somebody has proved (I14): a device that may
// hold a password of ours is called first where it is believed to be, and of two
// that claim one UUID each is judged by what it can prove.
func Decide(q Question) Decision {
	d := q.Device
	switch {
	case d.Lifecycle == store.Retired:
		return q.retired()
	case d.UUID.IsPlaceholder():
		dec := q.refuse(hello.DeniedDevice, store.Quarantined, reason.UUIDInvalid,
			"UUID "+d.UUID.String()+" is a placeholder that many machines carry; it cannot name a device")
		dec.Alarm = AlarmPlaceholder
		return dec
	case d.Lifecycle == store.Quarantined && !q.pointedOut():
		return Decision{Result: hello.DeniedDevice, Stray: StrayQuarantined}
	case q.Hello.Version == hello.VersionPSK:
		return q.turnAway(hello.DeniedDevice, reason.HelloVersionUnsupported,
			"PSK hello (version 2) with PID "+q.Hello.PID+"; this server does PKI setup")
	case !allowed(q.Policy.Networks, d.Address):
		return q.turnAway(hello.DeniedNetwork, reason.NetworkNotAllowed,
			"the hello came from "+d.Address.String()+", which provisioning.networks does not name")
	case q.announced() && (q.Live != nil || q.holds()):
		return q.word()
	}
	if dec, over := q.claimed(); over {
		return dec
	}
	if q.Live != nil {
		return q.busy()
	}
	switch d.Lifecycle {
	case store.Provisioned, store.Drifted, store.Maintaining, store.Verifying:
		return q.reappeared()
	case store.Unprovisioning, store.Unprovisioned:
		return q.refuse(hello.DeniedDevice, store.Unprovisioned, reason.NotAuthorized,
			"it was taken back to factory settings from here; a person decides whether it is set up again: provctl device approve")
	case store.PendingApproval:
		// Approved once does not mean approved again: approving starts the run.
		if d.Reason == reason.ReappearedUnprovisioned && q.Policy.Reprovision != ReprovisionAuto {
			return Decision{Result: hello.DeniedDevice}
		}
	}
	if !q.letIn() {
		return q.refuse(hello.DeniedDevice, store.PendingApproval, reason.NotAuthorized, approvalText(q.Policy.Mode))
	}
	if q.tooSoon() {
		return Decision{Result: hello.Duplicate}
	}
	return q.ready("certificate_matched")
}

// letIn: an approval is of the address that the device had when it was given.
func (q Question) letIn() bool {
	return q.Policy.Mode == Open || q.Device.Approved && !q.elsewhere() || q.Authorised()
}

// ready is for a device that may come in: what it shall be, and with which
// certificate.
func (q Question) ready(event string) Decision {
	d := q.Device
	if q.Hello.Version == hello.VersionPKI && len(q.Hello.Hashes) == 0 {
		return q.refuse(q.result(), store.PendingCertificate, reason.RootNotTrusted,
			"the device announced no active root hash, so no certificate can convince it")
	}
	id := q.Identity()
	if id.Missing != "" {
		dec := q.refuse(q.result(), store.PendingIdentity, id.Reason, id.Missing)
		dec.Identity = &id
		return dec
	}
	if err := q.Match(); err != nil {
		code := reason.InternalError
		var re *reason.Error
		if errors.As(err, &re) {
			code = re.Code
		}
		dec := q.refuse(q.result(), store.PendingCertificate, code, err.Error())
		dec.Identity = &id
		return dec
	}
	evidence := map[string]any{"address": d.Address.String(), "hashes": len(q.Hello.Hashes), "via": string(q.Hello.Via)}
	if id.Rule != "" {
		evidence["rule"] = id.Rule
	}
	if id.Profile != "" {
		evidence["profile"] = id.Profile
	}
	if id.FQDN != "" {
		evidence["name"], evidence["name_source"] = id.FQDN, id.Source
	}
	return Decision{Result: q.result(), To: store.Queued, Event: event, Start: true, Identity: &id, Evidence: evidence}
}

// retired raises an alarm and changes nothing: hardware that was given up is
// on the network. The timeline has it once an hour.
func (q Question) retired() Decision {
	d := q.Device
	dec := Decision{Result: hello.DeniedDevice, Alarm: AlarmRetired, Reason: reason.Blocklisted,
		Detail: "a retired device said hello from " + d.Address.String()}
	if d.Reason == dec.Reason && d.Detail == dec.Detail && q.Now.Before(q.Before.Previous.LastSeen.Add(time.Hour)) {
		return dec
	}
	dec.Event = "retired_device_hello"
	dec.Evidence = map[string]any{"address": d.Address.String(), "previous_address": text(q.Before.Previous.Address)}
	return dec
}

// twin keeps both machines out until a person has said which one it is: what
// one is told, the other would learn.
func (q Question) twin(evidence string) Decision {
	prev := q.Before.Previous
	return Decision{Result: hello.DeniedDevice, To: store.Quarantined, Reason: reason.UUIDDuplicate, Event: "duplicate_detected",
		Alarm: AlarmDuplicate,
		Stray: StrayKeptOut, Detail: evidence,
		Evidence: map[string]any{"address": q.Device.Address.String(), "previous_address": text(prev.Address),
			"hash_table": q.Device.TrustTable, "previous_hash_table": prev.TrustTable}}
}

// busy is a hello while a run is queued or running. One without hashes is not
// from the firmware that the run is at.
func (q Question) busy() Decision {
	dec := Decision{Result: hello.Duplicate}
	if q.Hello.Version == hello.VersionPKI && len(q.Hello.Hashes) == 0 {
		dec.Stray = StrayDuringRun
		return dec
	}
	if q.waiting() {
		dec.HastenRun = q.Live.ID
	}
	if q.elsewhere() {
		dec.Aside = &store.Event{UUID: q.Device.UUID, Name: "address_changed", Reason: q.Device.Reason, Actor: "system",
			Detail: "from " + text(q.Before.Previous.Address) + " to " + q.Device.Address.String()}
	}
	return dec
}

// reappeared is a managed device that says hello: it lost its setup, or
// somebody replays an old hello.
func (q Question) reappeared() Decision {
	d := q.Device
	if !q.Gone && !d.ProvisionedAt.IsZero() && q.Hello.At.Before(d.ProvisionedAt.Add(time.Second)) {
		return Decision{Result: hello.Duplicate, Stray: StrayLate} // sent before the commit, read after it
	}
	const event = "reappeared_unprovisioned"
	dec := Decision{Result: hello.DeniedDevice, Alarm: AlarmReappeared, Event: event, Reason: reason.ReappearedUnprovisioned,
		Detail: "a managed device says hello from " + d.Address.String() +
			": its settings were erased, its board was changed, or somebody says hello in its name",
		Evidence: map[string]any{"address": d.Address.String(), "previous_address": text(q.Before.Previous.Address)}}
	switch q.Policy.Reprovision {
	case ReprovisionAuto:
		dec = q.ready(event)
		dec.Alarm = AlarmReappeared
	case ReprovisionDeny:
		if q.elsewhere() {
			dec.Stray = StrayKeptOut // it stays where it was
		}
		if d.Reason == dec.Reason {
			dec.Event = "" // recorded already
		}
	default:
		dec.To = store.PendingApproval
	}
	return dec
}

// turnAway is for a hello that cannot lead to a setup from here. It is evidence
// of nothing: a device that was ever heard from a network of ours stays what it
// is and where it is.
func (q Question) turnAway(result hello.Result, code reason.Code, detail string) Decision {
	prev := q.Before.Previous
	unheard := !prev.Address.IsValid() && (prev.Lifecycle == store.Discovered || prev.Lifecycle == store.Failed)
	psk := code == reason.HelloVersionUnsupported && !q.elsewhere() && slices.Contains(undecided, prev.Lifecycle)
	if !q.Before.Known || q.Live == nil && prev.Reason != reason.ReappearedUnprovisioned && (unheard || psk) {
		dec := q.refuse(result, store.Failed, code, detail)
		if q.Before.Known || code == reason.NetworkNotAllowed {
			dec.Stray = StrayOutside
		}
		return dec
	}
	return q.stray(result, StrayOutside, code, detail)
}

// undecided are devices of which nobody has made anything yet.
var undecided = []store.Lifecycle{store.Discovered, store.PendingApproval, store.PendingIdentity, store.PendingCertificate, store.Failed,
	store.Dormant}

// refuse keeps quiet when the device already stands there for that reason.
func (q Question) refuse(result hello.Result, to store.Lifecycle, code reason.Code, detail string) Decision {
	d := q.Device
	if q.Before.Known && d.Lifecycle == to && d.Reason == code && d.Detail == detail {
		return Decision{Result: result}
	}
	return Decision{Result: result, To: to, Reason: code, Detail: detail, Event: eventFor(to)}
}

func eventFor(to store.Lifecycle) string {
	switch to {
	case store.PendingCertificate:
		return "certificate_unmatched"
	case store.PendingIdentity:
		return "identity_missing"
	case store.Quarantined:
		return "quarantined"
	case store.PendingApproval:
		return "hello_received"
	}
	return "rejected"
}

func (q Question) result() hello.Result {
	if q.Before.Known {
		return hello.Duplicate
	}
	return hello.Accepted
}

// waiting reports whether the live run sits out a pause that this hello, a
// proof that the device is there now, may cut short.
func (q Question) waiting() bool {
	made := q.Live.CreatedAt
	return q.Live.State == store.RunQueued && q.Live.NotBefore.After(q.Now) && q.Device.Attempts <= q.Policy.MostHastened &&
		(!q.Now.Before(made.Add(q.Policy.HelloPause)) || made.After(q.Now)) // made in the future: the clock was ahead
}

// tooSoon holds back a device whose last attempt ended for a reason that a new
// hello alone does not change.
func (q Question) tooSoon() bool {
	d := q.Device
	if !q.failedBefore() {
		return false
	}
	pause := q.Policy.HelloPause
	switch entry := reason.Of(d.Reason); {
	case d.Reason == reason.TLSPeerCertInvalid: // only other firmware changes it, so each attempt is less likely to help
		pause = q.Policy.StopPause * time.Duration(min(d.Attempts, 24))
	case entry.Retry == reason.ForOperator, entry.Retry == reason.Never, entry.GivenUp(d.Attempts, q.Policy.Attempts):
		pause = q.Policy.StopPause
	case entry.Retry == reason.ForCertificate:
		pause = min(time.Duration(d.Attempts)*time.Minute, q.Policy.StopPause)
	}
	return q.Now.Before(q.Ended.Add(pause)) && !q.Ended.After(q.Now) // an end in the future: the clock was ahead
}

func (q Question) failedBefore() bool {
	d := q.Device
	return (d.Lifecycle == store.Failed || d.Lifecycle == store.CredentialsUnknown) && d.Attempts > 0
}

func approvalText(m Mode) string {
	if m == AllowList {
		return "the device is not on the list of authorised devices"
	}
	return "a person has to let this device in: provctl device approve"
}

// allowed reports whether we may connect to an address at all. The dialer's
// guard asks again about the final address.
func allowed(networks []netip.Prefix, a netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return "an unknown address"
	}
	return a.String()
}

// twinEvidence looks at a device's newest hellos, this one first, and says why
// they cannot all be of one machine. A machine that got another lease says hello
// from its new address only, with the hash list it always had: no evidence.
func twinEvidence(recent []store.HelloRecord, now time.Time, within time.Duration) string {
	type sight struct {
		addr  string
		table int64
		at    time.Time
	}
	var seen []sight
	for _, h := range recent {
		if now.Sub(h.At) > within {
			break
		}
		ap, err := netip.ParseAddrPort(h.From)
		if err != nil || h.Via != string(hello.ViaPlain) {
			continue // behind a relay every device has the relay's address
		}
		seen = append(seen, sight{ap.Addr().Unmap().String(), h.TrustTable, h.At})
	}
	if len(seen) < 2 {
		return ""
	}
	first := seen[0]
	known, returns := map[string]bool{first.addr: true}, 0
	for i, s := range seen[1:] {
		if s.addr != first.addr && s.table != first.table && s.table != 0 && first.table != 0 {
			return fmt.Sprintf("two machines say hello with this UUID: from %s with one list of roots, and %s earlier from %s with another",
				first.addr, first.at.Sub(s.at).Round(time.Second), s.addr)
		}
		// There and back and there again: a lease does not do that.
		if s.addr != seen[i].addr && known[s.addr] {
			if returns++; returns >= 2 {
				return fmt.Sprintf("two machines say hello with this UUID: %s and %s took turns within %s", seen[i].addr, s.addr,
					first.at.Sub(s.at).Round(time.Second))
			}
		}
		known[s.addr] = true
	}
	return ""
}
