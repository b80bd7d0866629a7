package admit

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

var now = time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)

// verdict is the part of a decision that a row of the table is about.
type verdict struct {
	Result hello.Result
	To     store.Lifecycle
	Reason reason.Code
	Event  string
	Alarm  Alarm
	Start  bool
	Hasten int64
	Stray  Stray
	Claim  bool
}

// TestDecide goes through every branch. A row changes one device that would be
// let in: approve mode, approved, known, from an allowed network, with a hash
// list that one of our certificates suits.
func TestDecide(t *testing.T) {
	t.Parallel()
	accepted := verdict{Result: hello.Duplicate, To: store.Queued, Event: "certificate_matched", Start: true}
	same := func(to store.Lifecycle, code reason.Code) func(*Question) {
		// the device stands there already, for this reason
		return func(q *Question) {
			first := Decide(*q)
			if first.To != to || first.Reason != code {
				panic("the row repeats another decision: " + string(first.To) + " " + string(first.Reason))
			}
			q.Device.Lifecycle, q.Device.Reason, q.Device.Detail = to, code, first.Detail
			q.Before.Previous = q.Device
		}
	}
	managed := func(p Reprovision, l store.Lifecycle) func(*Question) {
		return func(q *Question) {
			q.Policy.Reprovision, q.Device.Lifecycle, q.Device.ProvisionedAt = p, l, now.Add(-time.Hour)
			q.Before.Previous.Lifecycle = l
		}
	}
	ended := func(l store.Lifecycle, code reason.Code, attempts int, ago time.Duration) func(*Question) {
		return func(q *Question) {
			q.Device.Lifecycle, q.Device.Reason, q.Device.Attempts, q.Ended = l, code, attempts, now.Add(-ago)
			q.Before.Previous = q.Device
		}
	}
	live := func(r store.Run) func(*Question) {
		return func(q *Question) {
			r.ID = 7
			q.Live = &r
			q.Device.Lifecycle, q.Before.Previous.Lifecycle = store.Queued, store.Queued
		}
	}
	both := func(list ...func(*Question)) func(*Question) {
		return func(q *Question) {
			for _, f := range list {
				f(q)
			}
		}
	}
	list := func(q *Question) { q.Policy.Mode, q.Device.Approved = AllowList, false }
	unapproved := func(q *Question) { q.Device.Approved = false }
	moved := func(q *Question) {
		q.Before.AddressChanged, q.Before.Previous.Address = true, netip.MustParseAddr("10.1.0.9")
	}
	twin := func(q *Question) { moved(q); q.Twin = func() string { return "two machines" } }
	// open: nobody has proved anything, and nobody has to
	open := func(q *Question) {
		q.Policy.Mode, q.Device.Approved, q.Before.Previous.Approved = Open, false, false
	}
	by := func(w store.AddressBy) func(*Question) { return func(q *Question) { q.Before.Previous.AddressBy = w } }
	listedThere := func(q *Question) { q.Listed = func(this, _ netip.Addr) bool { return this == q.Device.Address } }
	listedHere := func(q *Question) {
		q.Listed = func(this, _ netip.Addr) bool { return this == q.Before.Previous.Address }
	}
	outside := func(q *Question) {
		q.Device.Address = netip.MustParseAddr("192.0.2.1")
		q.Before.AddressChanged = true
	}
	absent := func(q *Question) {
		q.Device.Attempts, q.Device.Reason = 1, reason.DeviceUnreachable
		q.Before.Previous.Attempts, q.Before.Previous.Reason = 1, reason.DeviceUnreachable
	}
	sent := func(q *Question) { q.Sent = func() bool { return true } }
	pause := live(store.Run{Kind: "provision", State: store.RunQueued, NotBefore: now.Add(time.Hour), CreatedAt: now.Add(-time.Minute)})
	strange := func(s Stray, r hello.Result) verdict { return verdict{Result: r, Stray: s} }
	noCert := func(q *Question) {
		q.Match = func() error { return reason.Because(reason.RootNotTrusted, "no root of ours") }
	}

	for name, row := range map[string]struct {
		change func(*Question)
		want   verdict
	}{
		"approved, certificate fits":                           {func(*Question) {}, accepted},
		"first hello, open":                                    {func(q *Question) { q.Policy.Mode = Open; unapproved(q); q.Before = store.SeenBefore{} }, verdict{Result: hello.Accepted, To: store.Queued, Event: "certificate_matched", Start: true}},
		"first hello, nobody approved it":                      {func(q *Question) { unapproved(q); q.Before = store.SeenBefore{} }, verdict{Result: hello.DeniedDevice, To: store.PendingApproval, Reason: reason.NotAuthorized, Event: "hello_received"}},
		"again, nobody approved it":                            {both(unapproved, same(store.PendingApproval, reason.NotAuthorized)), verdict{Result: hello.DeniedDevice}},
		"authorised by a list":                                 {both(unapproved, func(q *Question) { q.Authorised = func() bool { return true } }), accepted},
		"allow-list, not on it":                                {list, verdict{Result: hello.DeniedDevice, To: store.PendingApproval, Reason: reason.NotAuthorized, Event: "hello_received"}},
		"allow-list, on it":                                    {both(list, func(q *Question) { q.Authorised = func() bool { return true } }), accepted},
		"allow-list, approved by a person":                     {both(list, func(q *Question) { q.Device.Approved = true }), accepted},
		"placeholder UUID":                                     {func(q *Question) { q.Device.UUID = amt.UUID{} }, verdict{Result: hello.DeniedDevice, To: store.Quarantined, Reason: reason.UUIDInvalid, Event: "quarantined", Alarm: AlarmPlaceholder}},
		"placeholder UUID in open mode":                        {func(q *Question) { q.Device.UUID = amt.UUID{}; q.Policy.Mode = Open }, verdict{Result: hello.DeniedDevice, To: store.Quarantined, Reason: reason.UUIDInvalid, Event: "quarantined", Alarm: AlarmPlaceholder}},
		"PSK hello":                                            {func(q *Question) { q.Hello.Version = hello.VersionPSK }, verdict{Result: hello.DeniedDevice, To: store.Failed, Reason: reason.HelloVersionUnsupported, Event: "rejected", Stray: StrayOutside}},
		"PSK hello, the first":                                 {func(q *Question) { q.Hello.Version = hello.VersionPSK; q.Before = store.SeenBefore{} }, verdict{Result: hello.DeniedDevice, To: store.Failed, Reason: reason.HelloVersionUnsupported, Event: "rejected"}},
		"PSK hello from elsewhere":                             {both(moved, func(q *Question) { q.Hello.Version = hello.VersionPSK }), strange(StrayOutside, hello.DeniedDevice)},
		"PSK hello again":                                      {both(func(q *Question) { q.Hello.Version = hello.VersionPSK }, same(store.Failed, reason.HelloVersionUnsupported)), strange(StrayOutside, hello.DeniedDevice)},
		"PSK hello, quarantined":                               {both(func(q *Question) { q.Hello.Version = hello.VersionPSK }, func(q *Question) { q.Device.Lifecycle = store.Quarantined }), strange(StrayQuarantined, hello.DeniedDevice)},
		"quarantined":                                          {func(q *Question) { q.Device.Lifecycle = store.Quarantined }, strange(StrayQuarantined, hello.DeniedDevice)},
		"PSK hello, managed":                                   {both(managed(ReprovisionAuto, store.Provisioned), func(q *Question) { q.Hello.Version = hello.VersionPSK }), strange(StrayOutside, hello.DeniedDevice)},
		"PSK hello, reappeared":                                {both(reappeared(ReprovisionApprove), func(q *Question) { q.Hello.Version = hello.VersionPSK }), strange(StrayOutside, hello.DeniedDevice)},
		"PSK hello, at work":                                   {both(live(store.Run{State: store.RunRunning}), func(q *Question) { q.Hello.Version = hello.VersionPSK }), strange(StrayOutside, hello.DeniedDevice)},
		"outside of the networks, managed":                     {both(managed(ReprovisionDeny, store.Drifted), outside), strange(StrayOutside, hello.DeniedNetwork)},
		"outside of the networks, known":                       {outside, strange(StrayOutside, hello.DeniedNetwork)},
		"outside of the networks, listed":                      {both(list, outside), strange(StrayOutside, hello.DeniedNetwork)},
		"outside of the networks, the first":                   {both(outside, func(q *Question) { q.Before = store.SeenBefore{} }), verdict{Result: hello.DeniedNetwork, To: store.Failed, Reason: reason.NetworkNotAllowed, Event: "rejected", Stray: StrayOutside}},
		"outside of the networks, imported without an address": {both(outside, func(q *Question) { q.Before.Previous.Address = netip.Addr{} }), verdict{Result: hello.DeniedNetwork, To: store.Failed, Reason: reason.NetworkNotAllowed, Event: "rejected", Stray: StrayOutside}},
		"no network is allowed":                                {func(q *Question) { q.Policy.Networks = nil }, strange(StrayOutside, hello.DeniedNetwork)},
		"no roots announced":                                   {func(q *Question) { q.Hello.Hashes = nil }, verdict{Result: hello.Duplicate, To: store.PendingCertificate, Reason: reason.RootNotTrusted, Event: "certificate_unmatched"}},
		"an agent announces no roots":                          {func(q *Question) { q.Hello.Version, q.Hello.Hashes = 0, nil }, accepted},
		"no certificate":                                       {noCert, verdict{Result: hello.Duplicate, To: store.PendingCertificate, Reason: reason.RootNotTrusted, Event: "certificate_unmatched"}},
		"no certificate, again":                                {both(noCert, same(store.PendingCertificate, reason.RootNotTrusted)), verdict{Result: hello.Duplicate}},
		"certificates cannot be read":                          {func(q *Question) { q.Match = func() error { return errors.New("broken") } }, verdict{Result: hello.Duplicate, To: store.PendingCertificate, Reason: reason.InternalError, Event: "certificate_unmatched"}},
		"a certificate came meanwhile": {func(q *Question) {
			q.Device.Lifecycle, q.Device.Reason = store.PendingCertificate, reason.RootNotTrusted
		}, accepted},
		"no name":                             {func(q *Question) { q.Identity = nameless }, verdict{Result: hello.Duplicate, To: store.PendingIdentity, Reason: reason.IdentityIncomplete, Event: "identity_missing"}},
		"no name, again":                      {both(func(q *Question) { q.Identity = nameless }, same(store.PendingIdentity, reason.IdentityIncomplete)), verdict{Result: hello.Duplicate}},
		"no name and no certificate":          {both(noCert, func(q *Question) { q.Identity = nameless }), verdict{Result: hello.Duplicate, To: store.PendingIdentity, Reason: reason.IdentityIncomplete, Event: "identity_missing"}},
		"dormant, speaks again":               {func(q *Question) { q.Device.Lifecycle, q.Device.Reason = store.Dormant, reason.SetupWindowExpired }, accepted},
		"imported, first hello":               {func(q *Question) { q.Device.Lifecycle = store.Discovered }, accepted},
		"set up by somebody else":             {func(q *Question) { q.Device.Lifecycle = store.External }, accepted},
		"run queued":                          {live(store.Run{State: store.RunQueued, NotBefore: now.Add(-time.Second), CreatedAt: now.Add(-time.Minute)}), verdict{Result: hello.Duplicate}},
		"run running":                         {live(store.Run{State: store.RunRunning, CreatedAt: now.Add(-time.Minute)}), verdict{Result: hello.Duplicate}},
		"run sits out a pause":                {live(store.Run{State: store.RunQueued, NotBefore: now.Add(time.Hour), CreatedAt: now.Add(-time.Minute)}), verdict{Result: hello.Duplicate, Hasten: 7}},
		"run sits out a pause, just made":     {live(store.Run{State: store.RunQueued, NotBefore: now.Add(time.Hour), CreatedAt: now.Add(-time.Second)}), verdict{Result: hello.Duplicate}},
		"run made tomorrow":                   {live(store.Run{State: store.RunQueued, NotBefore: now.Add(25 * time.Hour), CreatedAt: now.Add(24 * time.Hour)}), verdict{Result: hello.Duplicate, Hasten: 7}},
		"run hastened often enough":           {both(live(store.Run{State: store.RunQueued, NotBefore: now.Add(time.Hour), CreatedAt: now.Add(-time.Minute)}), func(q *Question) { q.Device.Attempts = 9 }), verdict{Result: hello.Duplicate}},
		"elsewhere while a run is at it":      {both(live(store.Run{State: store.RunRunning}), open, moved), verdict{Result: hello.Duplicate, Stray: StrayDuringRun, Claim: true}},
		"elsewhere, without hashes":           {both(pause, open, absent, moved, func(q *Question) { q.Hello.Hashes = nil }), verdict{Result: hello.Duplicate, Stray: StrayDuringRun}},
		"without hashes while a run is at it": {both(live(store.Run{State: store.RunRunning}), func(q *Question) { q.Hello.Hashes = nil }), verdict{Result: hello.Duplicate, Stray: StrayDuringRun}},
		"elsewhere in a pause":                {both(pause, open, moved), verdict{Result: hello.Duplicate, Stray: StrayDuringRun, Claim: true}},
		"moved in a pause, nobody was there":  {both(pause, open, absent, moved), verdict{Result: hello.Duplicate, Hasten: 7}},
		"approved there, nobody was there":    {both(pause, absent, moved), verdict{Result: hello.Duplicate, Stray: StrayDuringRun, Claim: true}},
		"moved, nobody proves anything":       {both(open, moved), accepted},
		"moved, approved there":               {moved, strange(StrayKeptOut, hello.DeniedDevice)},
		"moved, its agent says there":         {both(open, moved, by(store.ByAgent)), strange(StrayKeptOut, hello.DeniedDevice)},
		"moved, a person says there":          {both(open, moved, by(store.ByOperator)), strange(StrayKeptOut, hello.DeniedDevice)},
		"moved, imported there":               {both(open, moved, by(store.ByImport)), accepted},
		"moved, approved there, listed here":  {both(moved, listedThere, func(q *Question) { q.Authorised = func() bool { return true } }), accepted},
		"moved, not let in here":              {both(list, moved, func(q *Question) { q.Device.Lifecycle = store.PendingCertificate; q.Before.Previous.Approved = false }), strange(StrayKeptOut, hello.DeniedDevice)},
		"moved, it may hold a password":       {both(open, moved, sent, func(q *Question) { q.Before.Previous.Lifecycle, q.Device.Lifecycle = store.Failed, store.Failed }), verdict{Result: hello.Duplicate, Stray: StrayClaims, Claim: true}},
		"a twin":                              {both(open, twin), verdict{Result: hello.DeniedDevice, To: store.Quarantined, Reason: reason.UUIDDuplicate, Event: "duplicate_detected", Alarm: AlarmDuplicate, Stray: StrayKeptOut}},
		"a twin, approved there":              {twin, strange(StrayKeptOut, hello.DeniedDevice)},
		"a twin, imported there":              {both(open, twin, by(store.ByImport)), strange(StrayKeptOut, hello.DeniedDevice)},
		"a twin, its network is on the list":  {both(open, twin, listedHere), strange(StrayKeptOut, hello.DeniedDevice)},
		"a twin, the other's is on the list":  {both(open, twin, listedThere), accepted},
		"a twin under a run":                  {both(live(store.Run{State: store.RunRunning}), open, twin), verdict{Result: hello.Duplicate, Stray: StrayDuringRun, Claim: true}},
		"one of two, a person says this one": {func(q *Question) {
			q.Before.Previous.Lifecycle, q.Device.Lifecycle = store.Quarantined, store.Quarantined
			q.Before.Previous.Reason, q.Before.Previous.AddressBy = reason.UUIDDuplicate, store.ByOperator
		}, accepted},
		"one of two, a person says the other": {both(moved, func(q *Question) {
			q.Before.Previous.Lifecycle, q.Device.Lifecycle = store.Quarantined, store.Quarantined
			q.Before.Previous.Reason, q.Before.Previous.AddressBy = reason.UUIDDuplicate, store.ByOperator
		}), strange(StrayQuarantined, hello.DeniedDevice)},
		"a managed device elsewhere":     {both(managed(ReprovisionAuto, store.Provisioned), twin), verdict{Result: hello.Duplicate, Stray: StrayClaims, Claim: true}},
		"elsewhere while it is verified": {both(live(store.Run{State: store.RunRunning}), twin, func(q *Question) { q.Before.Previous.Lifecycle, q.Device.Lifecycle = store.Verifying, store.Verifying }), verdict{Result: hello.Duplicate, Stray: StrayDuringRun, Claim: true}},
		"elsewhere while it leaves": {both(moved, func(q *Question) {
			q.Before.Previous.Lifecycle, q.Device.Lifecycle = store.Unprovisioning, store.Unprovisioning
		}), verdict{Result: hello.Duplicate, Stray: StrayClaims, Claim: true}},
		"a managed device, nobody is there":     {both(managed(ReprovisionApprove, store.Provisioned), moved, func(q *Question) { q.Gone = true }), verdict{Result: hello.DeniedDevice, To: store.PendingApproval, Reason: reason.ReappearedUnprovisioned, Event: "reappeared_unprovisioned", Alarm: AlarmReappeared}},
		"the same, policy deny":                 {both(managed(ReprovisionDeny, store.Provisioned), moved, func(q *Question) { q.Gone = true }), verdict{Result: hello.DeniedDevice, Reason: reason.ReappearedUnprovisioned, Event: "reappeared_unprovisioned", Alarm: AlarmReappeared, Stray: StrayKeptOut}},
		"its agent says where it is":            {both(managed(ReprovisionApprove, store.Provisioned), moved, func(q *Question) { q.Hello.Via, q.Hello.Version = hello.ViaAgent, 0 }), verdict{Result: hello.Updated}},
		"retired":                               {func(q *Question) { q.Device.Lifecycle = store.Retired }, verdict{Result: hello.DeniedDevice, Reason: reason.Blocklisted, Event: "retired_device_hello", Alarm: AlarmRetired}},
		"retired, a minute later":               {retiredBefore(time.Minute), verdict{Result: hello.DeniedDevice, Reason: reason.Blocklisted, Alarm: AlarmRetired}},
		"retired, two hours later":              {retiredBefore(2 * time.Hour), verdict{Result: hello.DeniedDevice, Reason: reason.Blocklisted, Event: "retired_device_hello", Alarm: AlarmRetired}},
		"retired with a placeholder UUID":       {func(q *Question) { q.Device.Lifecycle, q.Device.UUID = store.Retired, amt.UUID{} }, verdict{Result: hello.DeniedDevice, Reason: reason.Blocklisted, Event: "retired_device_hello", Alarm: AlarmRetired}},
		"managed, policy approve":               {managed(ReprovisionApprove, store.Provisioned), verdict{Result: hello.DeniedDevice, To: store.PendingApproval, Reason: reason.ReappearedUnprovisioned, Event: "reappeared_unprovisioned", Alarm: AlarmReappeared}},
		"drifted, policy approve":               {managed(ReprovisionApprove, store.Drifted), verdict{Result: hello.DeniedDevice, To: store.PendingApproval, Reason: reason.ReappearedUnprovisioned, Event: "reappeared_unprovisioned", Alarm: AlarmReappeared}},
		"maintained, policy approve":            {managed(ReprovisionApprove, store.Maintaining), verdict{Result: hello.DeniedDevice, To: store.PendingApproval, Reason: reason.ReappearedUnprovisioned, Event: "reappeared_unprovisioned", Alarm: AlarmReappeared}},
		"managed, policy auto":                  {managed(ReprovisionAuto, store.Provisioned), verdict{Result: hello.Duplicate, To: store.Queued, Event: "reappeared_unprovisioned", Start: true, Alarm: AlarmReappeared}},
		"managed, policy auto, no root fits":    {both(managed(ReprovisionAuto, store.Provisioned), noCert), verdict{Result: hello.Duplicate, To: store.PendingCertificate, Reason: reason.RootNotTrusted, Event: "certificate_unmatched", Alarm: AlarmReappeared}},
		"managed, policy deny":                  {managed(ReprovisionDeny, store.Provisioned), verdict{Result: hello.DeniedDevice, Reason: reason.ReappearedUnprovisioned, Event: "reappeared_unprovisioned", Alarm: AlarmReappeared}},
		"managed, policy deny, again":           {both(managed(ReprovisionDeny, store.Provisioned), func(q *Question) { q.Device.Reason = reason.ReappearedUnprovisioned }), verdict{Result: hello.DeniedDevice, Reason: reason.ReappearedUnprovisioned, Alarm: AlarmReappeared}},
		"straggler from before the commit":      {both(managed(ReprovisionAuto, store.Provisioned), func(q *Question) { q.Hello.At = q.Device.ProvisionedAt.Add(-time.Second) }), strange(StrayLate, hello.Duplicate)},
		"straggler in the commit's second":      {both(managed(ReprovisionAuto, store.Provisioned), func(q *Question) { q.Hello.At = q.Device.ProvisionedAt.Add(999 * time.Millisecond) }), strange(StrayLate, hello.Duplicate)},
		"reappeared, still asks":                {reappeared(ReprovisionApprove), verdict{Result: hello.DeniedDevice}},
		"reappeared, denied meanwhile":          {reappeared(ReprovisionDeny), verdict{Result: hello.DeniedDevice}},
		"reappeared, policy auto meanwhile":     {reappeared(ReprovisionAuto), accepted},
		"unprovisioned here":                    {func(q *Question) { q.Device.Lifecycle = store.Unprovisioned; q.Policy.Mode = Open }, verdict{Result: hello.DeniedDevice, To: store.Unprovisioned, Reason: reason.NotAuthorized, Event: "rejected"}},
		"unprovisioned here, again":             {both(func(q *Question) { q.Device.Lifecycle = store.Unprovisioned }, same(store.Unprovisioned, reason.NotAuthorized)), verdict{Result: hello.DeniedDevice}},
		"unprovisioning, answer was lost":       {func(q *Question) { q.Device.Lifecycle = store.Unprovisioning }, verdict{Result: hello.DeniedDevice, To: store.Unprovisioned, Reason: reason.NotAuthorized, Event: "rejected"}},
		"its attempts are used up":              {both(ended(store.Failed, reason.DeviceUnreachable, 5, time.Minute), func(q *Question) { q.Policy.Attempts = 5 }), verdict{Result: hello.Duplicate}},
		"its attempts were used up an hour ago": {both(ended(store.Failed, reason.DeviceUnreachable, 5, 61*time.Minute), func(q *Question) { q.Policy.Attempts = 5 }), accepted},
		"one attempt is left":                   {both(ended(store.Failed, reason.DeviceUnreachable, 4, time.Minute), func(q *Question) { q.Policy.Attempts = 5 }), accepted},
		"our own fault counts for no attempt":   {both(ended(store.Failed, reason.DBUnavailable, 9, time.Minute), func(q *Question) { q.Policy.Attempts = 5 }), accepted},
		"failed a moment ago, for the net":      {ended(store.Failed, reason.DeviceUnreachable, 1, time.Second), verdict{Result: hello.Duplicate}},
		"failed tomorrow, for the net":          {ended(store.Failed, reason.DeviceUnreachable, 1, -24*time.Hour), accepted},
		"failed a while ago, for the net":       {ended(store.Failed, reason.DeviceUnreachable, 1, time.Minute), accepted},
		"failed, a person must look":            {ended(store.Failed, reason.FirmwareTooOld, 1, time.Minute), verdict{Result: hello.Duplicate}},
		"failed, a person had an hour":          {ended(store.Failed, reason.FirmwareTooOld, 1, 2*time.Hour), accepted},
		"its own certificate is odd":            {ended(store.Failed, reason.TLSPeerCertInvalid, 1, 59*time.Minute), verdict{Result: hello.Duplicate}},
		"it was odd an hour ago":                {ended(store.Failed, reason.TLSPeerCertInvalid, 1, 61*time.Minute), accepted},
		"it was odd three times":                {ended(store.Failed, reason.TLSPeerCertInvalid, 3, 179*time.Minute), verdict{Result: hello.Duplicate}},
		"it was odd three times, and waited":    {ended(store.Failed, reason.TLSPeerCertInvalid, 3, 181*time.Minute), accepted},
		"it was odd all year":                   {ended(store.Failed, reason.TLSPeerCertInvalid, 999, 25*time.Hour), accepted},
		"failed for the certificate":            {ended(store.Failed, reason.TLSClientCertRefused, 3, 2*time.Minute), verdict{Result: hello.Duplicate}},
		"failed for the certificate, waited":    {ended(store.Failed, reason.TLSClientCertRefused, 3, 4*time.Minute), accepted},
		"credentials unknown":                   {ended(store.CredentialsUnknown, reason.CredentialsUnknown, 1, time.Minute), verdict{Result: hello.Duplicate}},
		"failed, not attempted yet":             {ended(store.Failed, reason.NetworkNotAllowed, 0, 0), accepted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := letIn()
			row.change(&q)
			d := Decide(q)
			got := verdict{d.Result, d.To, d.Reason, d.Event, d.Alarm, d.Start, d.HastenRun, d.Stray, d.Claim}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if d.Reason != "" && d.Detail == "" {
				t.Error("a reason without a sentence")
			}
			if d.Reason != "" && !reason.Known(d.Reason) {
				t.Errorf("%s is not in the catalogue", d.Reason)
			}
		})
	}
}

// letIn is the question of a device that is set up at once.
func letIn() Question {
	a := netip.MustParseAddr("10.1.0.5")
	d := store.Device{UUID: amt.UUID{0x11, 0x22}, Lifecycle: store.Discovered, Approved: true, Address: a, LastSeen: now}
	return Question{
		Policy: Policy{Mode: Approve, Reprovision: ReprovisionApprove, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
			HelloPause: 3 * time.Second, MostHastened: 6, StopPause: time.Hour},
		Hello:  hello.Hello{Message: hello.Message{Version: hello.VersionPKI, UUID: d.UUID, Hashes: amt.HashesOf([]byte("root"))}, At: now},
		Device: d, Before: store.SeenBefore{Known: true, Previous: d}, Now: now,
		Twin: func() string { return "" }, Stray: func() time.Time { return time.Time{} }, Authorised: func() bool { return false },
		Listed: func(_, _ netip.Addr) bool { return false }, Sent: func() bool { return false },
		Identity: func() Identity { return Identity{} }, Match: func() error { return nil },
	}
}

func nameless() Identity {
	return Identity{Reason: reason.IdentityIncomplete, Missing: "nobody gave it a name"}
}

func retiredBefore(ago time.Duration) func(*Question) {
	return func(q *Question) {
		q.Device.Lifecycle = store.Retired
		q.Device.Reason, q.Device.Detail = reason.Blocklisted, Decide(*q).Detail
		q.Before.Previous = q.Device
		q.Before.Previous.LastSeen = now.Add(-ago)
	}
}

func reappeared(p Reprovision) func(*Question) {
	return func(q *Question) {
		q.Policy.Reprovision = p
		q.Device.Lifecycle, q.Device.Reason, q.Device.ProvisionedAt = store.PendingApproval, reason.ReappearedUnprovisioned,
			now.Add(-time.Hour)
		q.Before.Previous = q.Device
	}
}

// TestTwinEvidence: what two machines with one UUID look like from here, and
// what one machine that moves does not look like.
func TestTwinEvidence(t *testing.T) {
	t.Parallel()
	type sight struct {
		from  string
		table int64
		ago   time.Duration
		via   string
	}
	const a, b = "10.1.0.5:40000", "10.1.0.9:40000"
	for name, row := range map[string]struct {
		seen []sight // newest first
		want bool
	}{
		"one address":                        {[]sight{{a, 1, 0, ""}, {a, 1, time.Minute, ""}}, false},
		"another lease":                      {[]sight{{b, 1, 0, ""}, {a, 1, time.Minute, ""}, {a, 1, 2 * time.Minute, ""}}, false},
		"another lease and back":             {[]sight{{a, 1, 0, ""}, {b, 1, time.Minute, ""}, {a, 1, 2 * time.Minute, ""}}, false},
		"two lists of roots, two addresses":  {[]sight{{b, 2, 0, ""}, {a, 1, time.Minute, ""}}, true},
		"two lists of roots, one address":    {[]sight{{a, 2, 0, ""}, {a, 1, time.Minute, ""}}, false},
		"two lists, long apart":              {[]sight{{b, 2, 0, ""}, {a, 1, time.Hour, ""}}, false},
		"an agent announced no list":         {[]sight{{b, 2, 0, ""}, {a, 0, time.Minute, ""}}, false},
		"the same board twice, taking turns": {[]sight{{a, 1, 0, ""}, {b, 1, time.Minute, ""}, {a, 1, 2 * time.Minute, ""}, {b, 1, 3 * time.Minute, ""}}, true},
		"taking turns long ago":              {[]sight{{a, 1, 0, ""}, {b, 1, time.Hour, ""}, {a, 1, 2 * time.Hour, ""}, {b, 1, 3 * time.Hour, ""}}, false},
		"behind two relays":                  {[]sight{{a, 1, 0, "relay"}, {b, 2, time.Minute, "relay"}}, false},
		"the first hello":                    {[]sight{{a, 1, 0, ""}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var recent []store.HelloRecord
			for _, s := range row.seen {
				via := "plain"
				if s.via != "" {
					via = s.via
				}
				recent = append(recent, store.HelloRecord{From: s.from, TrustTable: s.table, At: now.Add(-s.ago), Via: via})
			}
			if got := twinEvidence(recent, now, 10*time.Minute); (got != "") != row.want {
				t.Errorf("evidence %q", got)
			}
		})
	}
}
