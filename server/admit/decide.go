package admit

import (
	"errors"
	"net/netip"
	"time"

	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// Question is all that a decision depends on.
type Question struct {
	Policy     Policy
	Hello      hello.Hello
	Device     store.Device // as the hello left it
	Before     store.SeenBefore
	Live       *store.Run // queued or running
	Authorised bool       // by UUID, serial, MAC or network
	FQDN       string     // the name that came with the authorisation
	Ended      time.Time  // of the last run, zero: there was none
	Now        time.Time
	// Match reports why no chain of ours suits the device.
	Match func() error
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
	Start     bool  // make a run
	HastenRun int64 // a waiting run to bring forward
	FQDN      string
}

// decide answers, in this order: is it a device at all, do we want it, may we
// reach it, is somebody at work already, and do we hold a certificate for it.
func decide(q Question) Decision {
	d := q.Device
	known := q.Before.Known
	switch {
	case d.Lifecycle == store.Retired:
		return Decision{Result: "denied_device", Event: "retired_device_hello", Reason: reason.Blocklisted,
			Detail: "a retired device said hello from " + d.Address.String()}
	case d.UUID.IsPlaceholder():
		return q.refuse("denied_device", store.Quarantined, reason.UUIDInvalid,
			"UUID "+d.UUID.String()+" is a placeholder that many machines carry; it cannot name a device")
	case q.Hello.Version == hello.VersionPSK:
		return q.refuse("denied_device", store.Failed, reason.HelloVersionUnsupported,
			"PSK hello (version 2) with PID "+q.Hello.PID+"; this server does PKI setup")
	case d.Lifecycle == store.Quarantined:
		return Decision{Result: "denied_device"}
	case !allowed(q.Policy.Networks, d.Address):
		return q.refuse("denied_network", store.Failed, reason.NetworkNotAllowed,
			"the hello came from "+d.Address.String()+", which provisioning.networks does not name")
	}

	if q.Live != nil {
		dec := Decision{Result: "duplicate"}
		if q.Before.AddressChanged {
			dec.Event, dec.Reason, dec.Detail = "address_changed", d.Reason, "from "+q.Before.Previous.Address.String()+" to "+d.Address.String()
		}
		if q.waiting() {
			dec.HastenRun, dec.Event = q.Live.ID, ""
		}
		return dec
	}

	managed := d.Lifecycle == store.Provisioned || d.Lifecycle == store.Drifted || d.Lifecycle == store.Maintaining
	approved := d.Approved
	if managed {
		if !d.ProvisionedAt.IsZero() && q.Hello.At.Before(d.ProvisionedAt.Add(time.Second)) {
			return Decision{Result: "duplicate"} // sent before the commit, read after it
		}
		switch q.Policy.Reprovision {
		case ReprovisionAuto:
			approved = true
		default:
			return Decision{Result: "denied_device", To: store.PendingApproval, Event: "reappeared_unprovisioned", Reason: reason.ReappearedUnprovisioned,
				Detail:   "a managed device says hello from " + d.Address.String() + ": its settings were erased or its board was changed",
				Evidence: map[string]any{"address": d.Address.String(), "previous_address": q.Before.Previous.Address.String()}}
		}
	}
	if d.Lifecycle == store.PendingApproval && d.Reason == reason.ReappearedUnprovisioned && !approved {
		return Decision{Result: "denied_device"}
	}
	if q.Policy.Mode != Open && !approved && !q.Authorised {
		return q.refuse("denied_device", store.PendingApproval, reason.NotAuthorized, approvalText(q.Policy.Mode))
	}
	if q.tooSoon() {
		return Decision{Result: "duplicate"}
	}
	if q.Hello.Version == hello.VersionPKI && len(q.Hello.Hashes) == 0 {
		return q.refuse(accepted(known), store.PendingCertificate, reason.RootNotTrusted, "the device announced no active root hash, so no certificate can convince it")
	}
	if err := q.Match(); err != nil {
		code := reason.InternalError
		var re *reason.Error
		if errors.As(err, &re) {
			code = re.Code
		}
		dec := q.refuse(accepted(known), store.PendingCertificate, code, err.Error())
		dec.FQDN = q.FQDN
		return dec
	}
	event := "certificate_matched"
	if managed {
		event = "reappeared_unprovisioned"
	}
	return Decision{Result: accepted(known), To: store.Queued, Event: event, Start: true, FQDN: q.FQDN,
		Evidence: map[string]any{"address": d.Address.String(), "hashes": len(q.Hello.Hashes), "via": string(q.Hello.Via)}}
}

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
	case store.Quarantined:
		return "quarantined"
	case store.PendingApproval:
		return "hello_received"
	}
	return "rejected"
}

func accepted(known bool) hello.Result {
	if known {
		return "duplicate"
	}
	return "accepted"
}

// waiting reports whether the live run sits out a pause that this hello, a
// proof that the device is there now, may cut short.
func (q Question) waiting() bool {
	return q.Live.State == store.RunQueued && q.Live.NotBefore.After(q.Now) &&
		q.Device.Attempts <= q.Policy.MostHastened && !q.Now.Before(q.Live.CreatedAt.Add(q.Policy.HelloPause))
}

// tooSoon holds back a device whose last attempt ended for a reason that a new
// hello alone does not change.
func (q Question) tooSoon() bool {
	d := q.Device
	if d.Lifecycle != store.Failed && d.Lifecycle != store.CredentialsUnknown || d.Attempts == 0 {
		return false
	}
	pause := q.Policy.HelloPause
	switch reason.Of(d.Reason).Retry {
	case reason.ForOperator, reason.Never:
		pause = q.Policy.StopPause
	case reason.ForCertificate:
		pause = min(time.Duration(d.Attempts)*time.Minute, q.Policy.StopPause)
	}
	return q.Now.Before(q.Ended.Add(pause))
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
