package operate

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// Answer says why a device is, or is not, under management.
type Answer struct {
	Query   string
	Found   bool // false when the server never heard of it
	Device  store.Device
	Others  []store.Device // further devices that the query fits
	Says    string         // the answer in a sentence
	Since   time.Time      // when it came to stand there for this reason
	Tried   []string       // newest first
	Reason  *reason.Entry
	Next    string   // what happens by itself, and when
	Checks  []string // what a person can look at or do, first things first
	LastRun *store.Run
	Steps   []store.StepRecord // of the last run
}

// Why answers about the device that a text names: a UUID, an address, a MAC or a
// name, also of a device that was never seen.
func (r *Room) Why(ctx context.Context, tx *store.Tx, text string) (*Answer, error) {
	text = strings.TrimSpace(text)
	w := &Answer{Query: api.Clean(text)}
	if text == "" {
		return w, Wrong("want a UUID, an address, a MAC or a name")
	}
	found, err := find(ctx, tx, text)
	if err != nil {
		return w, err
	}
	if len(found) == 0 {
		return w, r.neverSeen(ctx, tx, text, w)
	}
	d := found[0]
	w.Found, w.Device, w.Others = true, d, found[1:]
	if err := r.history(ctx, tx, w, d); err != nil {
		return w, err
	}
	r.answer(w, d)
	if err := sharedName(ctx, tx, w, d); err != nil {
		return w, err
	}
	announced, err := tx.TrustHashes(ctx, d.TrustTable)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return w, err
	}
	var around []store.Device
	if suffixMatters(d) && d.Suffix == "" {
		if around, err = tx.Devices(ctx, neighbours(d)); err != nil {
			return w, err
		}
	}
	r.sideBySide(w, d, announced, around)
	for i, c := range w.Checks { // what is said can be typed
		w.Checks[i] = commandOnDevice.ReplaceAllString(c, "${1} "+d.UUID.String())
	}
	if err := r.whereabouts(ctx, tx, w, d); err != nil {
		return w, err
	}
	return w, r.paused(ctx, tx, w, d)
}

// commandOnDevice finds commands of the catalogue that speak of a device.
var commandOnDevice = regexp.MustCompile(`(provctl [a-z ]+) UUID\b`)

// history says since when a device stands where it does, and what was tried.
func (r *Room) history(ctx context.Context, tx *store.Tx, w *Answer, d store.Device) error {
	events, err := tx.Events(ctx, store.EventFilter{UUID: d.UUID, Newest: true, Limit: 200})
	if err != nil {
		return err
	}
	w.Since = since(d, events)
	if err := stopped(ctx, tx, w, d); err != nil {
		return err
	}
	runs, err := tx.Runs(ctx, d.UUID, 5)
	if err != nil {
		return err
	}
	for _, one := range runs {
		w.Tried = append(w.Tried, tried(one, r.now()))
	}
	if len(runs) > 0 {
		w.LastRun = &runs[0]
		if w.Steps, err = tx.Steps(ctx, runs[0].ID); err != nil {
			return err
		}
	}
	switch {
	case len(runs) > 0:
	case d.Lifecycle == store.PendingIdentity:
		w.Tried = append(w.Tried, "its name was asked for, and nobody has connected to it yet")
	case d.Lifecycle.Managed():
		w.Tried = append(w.Tried, "its setup is too long ago for its runs to be kept")
	default:
		w.Tried = append(w.Tried, "nobody has connected to it yet")
	}
	return nil
}

// stopped says which jobs were stopped before it was this device's turn, and why: it
// stays as it was until a person goes on with them or ends them.
func stopped(ctx context.Context, tx *store.Tx, w *Answer, d store.Device) error {
	jobs, err := tx.StoppedWith(ctx, d.UUID)
	for _, j := range jobs {
		what := j.Kind
		if j.Target != "" {
			what += " to " + j.Target
		}
		w.Tried = append(w.Tried, fmt.Sprintf("job %d (%s) was stopped before its turn, so it stays as it was: %s", j.ID, what,
			api.Clean(j.Detail)))
	}
	return err
}

// since is when a device came to stand where it does for the reason it has.
// Attempts in between that ended the same way do not count.
func since(d store.Device, newestFirst []store.Event) time.Time {
	var at time.Time
	for _, e := range newestFirst {
		to, _ := e.Data["lifecycle"].(string)
		switch {
		case to == "" && e.Reason != d.Reason, to == string(store.Provisioning), to == string(store.Verifying):
			if to != "" && to == string(d.Lifecycle) {
				return e.At
			}
			continue // says nothing of where it stands, or is an attempt on the way
		case to != "" && to != string(d.Lifecycle), e.Reason != d.Reason:
			if at.IsZero() {
				continue
			}
			return at
		}
		at = e.At
	}
	if at.IsZero() {
		return d.FirstSeen
	}
	return at
}

// tried is one run in a sentence.
func tried(r store.Run, now time.Time) string {
	text := fmt.Sprintf("run %d (%s)", r.ID, r.Kind)
	switch r.State {
	case store.RunDone:
		return text + " came through " + Ago(now.Sub(r.FinishedAt)) + " ago"
	case store.RunRunning:
		return text + " is at work since " + r.StartedAt.UTC().Format(time.RFC3339)
	case store.RunQueued:
		return text + " has not begun"
	case store.RunCancelled:
		text += " was stopped "
	default:
		text += " failed "
	}
	text += Ago(now.Sub(r.FinishedAt)) + " ago"
	if r.Reason != "" {
		text += ": " + reason.Of(r.Reason).Title
	}
	if r.Detail != "" {
		text += " (" + api.Clean(r.Detail) + ")"
	}
	return text
}

// neverSeen answers for a device that this server has not heard of: the fault
// is on the road from the firmware to us.
func (r *Room) neverSeen(ctx context.Context, tx *store.Tx, id string, w *Answer) error {
	w.Says = fmt.Sprintf("No hello from %s has ever reached this server, so nothing was decided about it", w.Query)
	w.Next = "nothing, until its firmware says hello"
	zones := "SUFFIX"
	if len(r.Zones) > 0 {
		zones = strings.Join(r.Zones, ", provisionserver.")
	}
	w.Checks = append(w.Checks,
		"is AMT enabled in the BIOS and in MEBx, and is remote setup (TLS PKI) on there?",
		"does DHCP give the device a DNS suffix (option 15) on its wired port?",
		"does provisionserver."+zones+" resolve to this server, from the device's own network?",
	)
	if r.HelloAt != "" {
		w.Checks = append(w.Checks, "may the device reach TCP 9971 here? This server listens on "+r.HelloAt)
		if ap, err := netip.ParseAddrPort(r.HelloAt); err == nil && ap.Addr().IsLoopback() {
			w.Checks = append(w.Checks, "hello.listen is loopback: no device can reach it")
		}
	} else {
		w.Checks = append(w.Checks, "may the device reach TCP 9971 here?")
	}
	w.Checks = append(w.Checks, "firmware stops saying hello some hours after power came: disconnect the machine's power for a moment, "+
		"or start its setup from an agent")
	if a, err := netip.ParseAddr(id); err == nil && r.Networks != nil && !Inside(r.Networks, a) {
		w.Checks = append(w.Checks, a.String()+" is in none of provisioning.networks: its hello would be kept, but nobody would connect "+
			"back")
	}
	last, err := tx.Devices(ctx, store.DeviceFilter{Order: store.ByLastSeen, Limit: 1})
	if err != nil {
		return err
	}
	if len(last) == 0 {
		w.Checks = append(w.Checks, "no device at all has said hello so far, so look at DNS and the firewall first")
	} else {
		w.Checks = append(w.Checks, fmt.Sprintf("the last hello of any device came %s ago, from %s", Ago(r.now().Sub(last[0].LastSeen)),
			last[0].Address))
	}
	return nil
}

// paused says so when no attempts are made in a device's network.
func (r *Room) paused(ctx context.Context, tx *store.Tx, w *Answer, d store.Device) error {
	network := store.NetworkOf(d.Address)
	p, err := tx.PausedNetwork(ctx, network)
	if errors.Is(err, store.ErrNotFound) || !network.IsValid() {
		return nil
	}
	if err != nil {
		return err
	}
	if !p.Until.After(r.now()) {
		w.Checks = append(w.Checks, fmt.Sprintf("its network %s was paused until %s; one device there is tried first", network,
			p.Until.UTC().Format(time.RFC3339)))
		return nil
	}
	text := fmt.Sprintf("its network %s is paused until %s: attempt after attempt failed there for the network's sake, so look at the "+
		"road to it", network, p.Until.UTC().Format(time.RFC3339))
	if w.LastRun != nil && w.LastRun.State == store.RunQueued {
		w.Next = text
		return nil
	}
	w.Checks = append(w.Checks, text)
	return nil
}

// Inside reports whether one of the networks holds an address.
func Inside(networks []netip.Prefix, a netip.Addr) bool {
	for _, p := range networks {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

// answer says where a known device stands, why, and what happens next.
func (r *Room) answer(w *Answer, d store.Device) {
	now := r.now()
	w.Says = sentence(d, now)
	if d.Reason != "" {
		e := reason.Of(d.Reason)
		w.Reason = &e
		for _, c := range e.Causes {
			w.Checks = append(w.Checks, "possible cause: "+c)
		}
		for _, f := range e.Fix {
			if !strings.Contains(f, "provctl device why") { // this is its answer
				w.Checks = append(w.Checks, f)
			}
		}
	}
	if seen := hex.EncodeToString(d.PeerSeen); seen != "" {
		w.Checks = append(w.Checks, fmt.Sprintf("what answered last at %s showed the certificate sha256:%s and was told no password; "+
			"once you know that it is the device's: provctl device trust %s --fingerprint %s", amt.Text(d.Address), seen, d.UUID, seen))
	}
	switch word := Vouched(d.Vouched); word {
	case "":
	case "first":
		w.Checks = append(w.Checks, "a person trusts whoever answers first at its address; the next contact takes that")
	default:
		w.Checks = append(w.Checks, "a person vouched for the certificate sha256:"+word+"; the next contact takes that")
	}
	if d.Lifecycle == store.Unprovisioning && d.Reason != "" {
		w.Checks = append(w.Checks, "if the machine is gone for good: provctl device retire "+d.UUID.String())
	}
	if r := w.LastRun; d.Lifecycle == store.Queued && r != nil && r.State == store.RunQueued && r.NotBefore.Sub(now) > time.Minute {
		w.Says = strings.Replace(w.Says, standing[store.Queued], "waits for the time of its next attempt", 1)
	}
	w.Next = next(d, w.LastRun, now)
	if d.Lifecycle == store.Failed && (w.LastRun == nil || !w.LastRun.FinishedAt.IsZero()) &&
		reason.Of(d.Reason).GivenUp(d.Attempts, r.MostAttempts) {
		w.Next = fmt.Sprintf("nothing, until a person has looked: attempts in a row that failed: %d, of %d that "+
			"provisioning.retry.attempts allows; then: provctl device retry %s", d.Attempts, r.MostAttempts, d.UUID)
	}
	if !d.WindowUntil.IsZero() && listens(d) {
		if d.WindowUntil.After(now) {
			w.Checks = append(w.Checks, fmt.Sprintf("its setup window closes in %s; after that it needs a power cycle",
				Ago(d.WindowUntil.Sub(now))))
		} else {
			w.Checks = append(w.Checks, "its setup window has probably closed: disconnect its power for a moment")
		}
	}
	if r.Networks != nil && d.Address.IsValid() && !Inside(r.Networks, d.Address) && !d.Lifecycle.Managed() {
		w.Checks = append(w.Checks, d.Address.String()+" is in none of provisioning.networks, so nobody connects back to it")
	}
}

func sentence(d store.Device, now time.Time) string {
	name := api.Clean(d.FQDN)
	if name == "" {
		name = d.UUID.String()
	}
	s := name + " " + standing[d.Lifecycle]
	if onlyListed(d) {
		s = name + " is known from an import, has said no hello, and nobody has connected to it"
	}
	if d.Lifecycle == store.Discovered && takenOut(d) {
		s = name + " was under management when it was taken out, and has not been looked at since it was taken back"
	}
	if lostSetup(d) {
		s = name + " was under management and has lost its setup"
	}
	if d.Lifecycle == store.Provisioned && !d.ProvisionedAt.IsZero() {
		s += ", since " + d.ProvisionedAt.UTC().Format(time.RFC3339)
	}
	if d.Reason != "" {
		s += ": " + reason.Of(d.Reason).Title
	}
	if d.Detail != "" {
		s += " (" + api.Clean(d.Detail) + ")"
	}
	if d.Reason == reason.CertNotYetValid {
		s += "; " + certs.Clock(now)
	}
	if d.Health == "unreachable" {
		s += "; it does not answer at the moment"
	}
	if !d.LastSeen.IsZero() && !d.Lifecycle.Managed() {
		s += "; its last hello came " + Ago(now.Sub(d.LastSeen)) + " ago"
	}
	return s
}

func next(d store.Device, last *store.Run, now time.Time) string {
	switch d.Lifecycle {
	case store.Provisioned, store.Drifted:
		return nextManaged(d, last, now)
	case store.Retired:
		return "nothing; a hello of it raises an alarm. To take it back: provctl device restore " + d.UUID.String()
	case store.PendingApproval:
		return "nothing, until it is approved: provctl device approve " + d.UUID.String()
	case store.Unprovisioned:
		if !listens(d) {
			return "nothing: it is silent until its setup is begun at the machine, by an agent or a USB key; its hello then waits for " +
				"provctl device approve " + d.UUID.String()
		}
		return "nothing, until it is approved again: provctl device approve " + d.UUID.String()
	case store.Quarantined:
		if d.Reason == reason.UUIDInvalid {
			return "nothing, until the machine has a UUID of its own"
		}
		if d.Reason == reason.Rejected {
			return "nothing: a person turned it away. To let it in after all: provctl device approve " + d.UUID.String()
		}
		return "nothing, until a person has looked: provctl device release " + d.UUID.String() + ", or retire"
	case store.PendingIdentity:
		text := "it goes on as soon as its name is known: provctl device name " + d.UUID.String() + " FQDN"
		if d.Reason == reason.NoProfileRule {
			text = "it goes on as soon as the profile is there: provctl profile apply"
		}
		if d.NextRetry.After(now) {
			text += "; it is looked up again in " + Ago(d.NextRetry.Sub(now))
		}
		return text
	case store.Dormant:
		return "it is taken up again at its next hello: disconnect its power for a moment, or reopen its setup from an agent or MEBx"
	case store.CredentialsUnknown:
		if last == nil || last.State != store.RunQueued && last.State != store.RunRunning {
			return "nothing by itself, so that it locks nobody out: provctl device adopt " + d.UUID.String() +
				" --password-file FILE tries a password, or reset it at the machine"
		}
	}
	if text := underWay(last, now); text != "" {
		return text
	}
	if d.NextRetry.After(now) {
		return "the next attempt begins in " + Ago(d.NextRetry.Sub(now))
	}
	if onlyListed(d) {
		text := "it is set up at its first hello. If somebody else has set it up it says none: provctl device adopt " + d.UUID.String() +
			" --password-file FILE, or provctl device retry where its domain's digest master password is known"
		if !d.Address.IsValid() {
			text += ", once provctl device import has given its address"
		}
		return text
	}
	if d.Lifecycle == store.Discovered && takenOut(d) {
		return "nothing by itself, since it says no hello: provctl device retry " + d.UUID.String() +
			" looks whether it is under management still"
	}
	if d.Reason == reason.PeerUnverified {
		return "nothing, until a person vouches for its certificate: provctl device trust " + d.UUID.String() +
			" --fingerprint SHA256, or --first for whoever answers first"
	}
	switch reason.Of(d.Reason).Retry {
	case reason.ForCertificate:
		return whenAnother(d)
	case reason.ForHello:
		return "it is tried again at its next hello"
	case reason.ForOperator:
		return "nothing, until a person changes something; then: provctl device retry " + d.UUID.String()
	case reason.Never:
		return "nothing: another attempt would end the same way"
	}
	return "it is tried again at its next hello, or now: provctl device retry " + d.UUID.String()
}

// whenAnother is next for a device that waits for a certificate: one that refused
// what it was offered is not offered the same again.
func whenAnother(d store.Device) string {
	text := "it is tried again when a fitting certificate is loaded"
	if d.Reason == reason.CertNotYetValid {
		text = "it is set up by itself when the certificate begins, or when another one is loaded that fits"
	}
	if d.Lifecycle == store.Failed {
		text = "it refused what fits it, so it is tried again when that changes: another certificate, another suffix, another address, " +
			"or at a hello after a pause; now: provctl device retry " + d.UUID.String()
	}
	return text
}

// underWay says what the run at hand does, "" when there is none.
func underWay(last *store.Run, now time.Time) string {
	switch {
	case last == nil:
	case last.State == store.RunRunning:
		return fmt.Sprintf("run %d is working on it", last.ID)
	case last.State == store.RunQueued && last.NotBefore.After(now):
		return fmt.Sprintf("run %d tries again in %s", last.ID, Ago(last.NotBefore.Sub(now)))
	case last.State == store.RunQueued:
		return fmt.Sprintf("run %d starts as soon as a worker is free", last.ID)
	}
	return ""
}

// nextManaged is next for a device under management, with which something may be wrong.
func nextManaged(d store.Device, last *store.Run, now time.Time) string {
	if text := underWay(last, now); text != "" {
		return text
	}
	maintain := "provctl maintain " + d.UUID.String()
	switch {
	case d.Reason == "" && d.Lifecycle == store.Provisioned:
		return "nothing has to happen"
	case anotherFace(d.Reason):
		if d.Reason == reason.TLSPinnedKeyChanged {
			return "it is told nothing until a person has vouched for its key: provctl device trust " + d.UUID.String() +
				" --fingerprint SHA256, or --first for whoever answers first"
		}
		return "it is told nothing until a person has looked: provctl device release " + d.UUID.String() + " believes what it shows next"
	case lostSetup(d):
		return "its next hello decides, as provisioning.reprovision says; if it says none: disconnect its power for a moment. To look " +
			"again now: " + maintain + " --task check"
	case d.Lifecycle == store.Drifted:
		return "maintenance brings it back when its turn comes; now: " + maintain + " --task clock,cert,name,tls,settings"
	}
	return "maintenance looks at it again by itself; now: " + maintain + " --task check"
}

// sharedName says of a managed device whose name others bear that they do: an earlier
// release gave it to several.
func sharedName(ctx context.Context, tx *store.Tx, w *Answer, d store.Device) error {
	if d.FQDN == "" || !d.Lifecycle.Managed() {
		return nil
	}
	shared, err := tx.SharedNames(ctx, d.FQDN, 1)
	if err != nil {
		return err
	}
	for _, n := range shared {
		others := slices.DeleteFunc(n.Devices, func(u amt.UUID) bool { return u == d.UUID })
		var of []string
		for i, u := range others {
			if i == 3 {
				of = append(of, fmt.Sprintf("%d more", len(others)-i))
				break
			}
			of = append(of, u.String())
		}
		w.Says += fmt.Sprintf(" Its name %s is also that of %s; they keep it, and no other device gets it.", api.Clean(d.FQDN),
			strings.Join(of, ", "))
		w.Checks = append(w.Checks, "give it a name of its own: provctl device name UUID FQDN",
			"or, if the other is gone: provctl device retire "+others[0].String())
	}
	return nil
}
