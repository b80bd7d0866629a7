package rest

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// AnyDevice names a device by whatever is known of it.
type AnyDevice struct {
	ID string `path:"id" maxLength:"255" doc:"a UUID, an address, a MAC or a name"`
}

func (s *Server) why(ctx context.Context, in *AnyDevice) (api.Why, error) {
	id := strings.TrimSpace(in.ID)
	w := api.Why{Query: api.Clean(id), Others: []api.DeviceSummary{}, Checks: []string{}, Tried: []string{}}
	if id == "" {
		return w, api.NewProblem(422, api.CodeInvalid, "want a UUID, an address, a MAC or a name")
	}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		found, err := s.find(ctx, tx, id)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return s.neverSeen(ctx, tx, id, &w)
		}
		d := found[0]
		w.Found = true
		dev := toDevice(d)
		w.Device = &dev
		for _, o := range found[1:] {
			w.Others = append(w.Others, toSummary(o))
		}
		runs, err := tx.Runs(ctx, d.UUID, 1)
		if err != nil {
			return err
		}
		if len(runs) > 0 {
			steps, err := tx.Steps(ctx, runs[0].ID)
			if err != nil {
				return err
			}
			r := toRun(runs[0], steps)
			w.LastRun = &r
		}
		if err := s.history(ctx, tx, &w, d); err != nil {
			return err
		}
		s.answer(&w, d)
		if err := sharedName(ctx, tx, &w, d); err != nil {
			return err
		}
		announced, err := tx.TrustHashes(ctx, d.TrustTable)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		var around []store.Device
		if suffixMatters(d) && d.Suffix == "" {
			if around, err = tx.Devices(ctx, neighbours(d)); err != nil {
				return err
			}
		}
		s.sideBySide(&w, d, announced, around)
		for i, c := range w.Checks { // what is said can be typed
			w.Checks[i] = commandOnDevice.ReplaceAllString(c, "${1} "+d.UUID.String())
		}
		if err := s.whereabouts(ctx, tx, &w, d); err != nil {
			return err
		}
		return s.paused(ctx, tx, &w, d)
	})
	return w, err
}

// commandOnDevice finds commands of the catalogue that speak of a device.
var commandOnDevice = regexp.MustCompile(`(provctl [a-z ]+) UUID\b`)

// history says since when a device stands where it does, and what was tried.
func (s *Server) history(ctx context.Context, tx *store.Tx, w *api.Why, d store.Device) error {
	events, err := tx.Events(ctx, store.EventFilter{UUID: d.UUID, Newest: true, Limit: 200})
	if err != nil {
		return err
	}
	w.Since = timeOrNull(since(d, events))
	if err := stopped(ctx, tx, w, d); err != nil {
		return err
	}
	runs, err := tx.Runs(ctx, d.UUID, 5)
	if err != nil {
		return err
	}
	for _, r := range runs {
		w.Tried = append(w.Tried, tried(r, s.now()))
	}
	switch {
	case len(runs) > 0:
	case d.Lifecycle == store.PendingIdentity:
		w.Tried = append(w.Tried, "its name was asked for, and nobody has connected to it yet")
	case managed(d.Lifecycle):
		w.Tried = append(w.Tried, "its setup is too long ago for its runs to be kept")
	default:
		w.Tried = append(w.Tried, "nobody has connected to it yet")
	}
	return nil
}

// stopped says which jobs were stopped before it was this device's turn, and why: it
// stays as it was until a person goes on with them or ends them.
func stopped(ctx context.Context, tx *store.Tx, w *api.Why, d store.Device) error {
	jobs, err := tx.StoppedWith(ctx, d.UUID)
	for _, j := range jobs {
		what := j.Kind
		if j.Target != "" {
			what += " to " + j.Target
		}
		w.Tried = append(w.Tried, fmt.Sprintf("job %d (%s) was stopped before its turn, so it stays as it was: %s", j.ID, what, api.Clean(j.Detail)))
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
		return text + " came through " + ago(now.Sub(r.FinishedAt)) + " ago"
	case store.RunRunning:
		return text + " is at work since " + r.StartedAt.UTC().Format(time.RFC3339)
	case store.RunQueued:
		return text + " has not begun"
	case store.RunCancelled:
		text += " was stopped "
	default:
		text += " failed "
	}
	text += ago(now.Sub(r.FinishedAt)) + " ago"
	if r.Reason != "" {
		text += ": " + reason.Of(r.Reason).Title
	}
	if r.Detail != "" {
		text += " (" + api.Clean(r.Detail) + ")"
	}
	return text
}

// find looks a device up by UUID in both byte orders, then by what else the
// text may be; what fits exactly stands first.
func (s *Server) find(ctx context.Context, tx *store.Tx, id string) ([]store.Device, error) {
	if u, err := amt.ParseUUID(id); err == nil {
		for _, v := range []amt.UUID{u, amt.FromSMBIOS([16]byte(u))} {
			d, err := tx.Device(ctx, v)
			if err == nil {
				return []store.Device{d}, nil
			}
			if !errors.Is(err, store.ErrNotFound) {
				return nil, err
			}
		}
		return nil, nil
	}
	const most = 20
	f := store.DeviceFilter{Query: id, Order: store.ByLastSeen, Limit: most}
	if a, err := netip.ParseAddr(id); err == nil {
		f.Query, f.Network = "", netip.PrefixFrom(a.Unmap().WithZone(""), a.Unmap().BitLen())
	}
	// Its name, as people say it, before all names that it is a part of.
	if found, err := tx.DevicesCalled(ctx, id, most); err != nil || len(found) > 0 {
		return found, err
	}
	found, err := tx.Devices(ctx, f)
	if err != nil {
		return nil, err
	}
	if mac, ok := macOf(id); ok && len(found) == 0 {
		for _, form := range []string{colons(mac), mac, strings.ReplaceAll(colons(mac), ":", "-")} {
			if found, err = tx.Devices(ctx, store.DeviceFilter{Query: form, Limit: most}); err != nil || len(found) > 0 {
				break
			}
		}
	}
	for i, d := range found {
		if strings.EqualFold(d.FQDN, id) || strings.EqualFold(d.HostName, id) || strings.EqualFold(d.Serial, id) {
			found[0], found[i] = found[i], found[0]
			break
		}
	}
	return found, err
}

// macOf reads 12 hexadecimal digits, in one group or in some of one length: the
// head of a UUID, of eight and four, is none.
func macOf(s string) (string, bool) {
	groups := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return strings.ContainsRune(":-.", r) })
	for _, g := range groups {
		if len(g) != len(groups[0]) || strings.Trim(g, "0123456789abcdef") != "" {
			return "", false
		}
	}
	t := strings.Join(groups, "")
	return t, len(t) == 12
}

func colons(mac string) string {
	var parts []string
	for i := 0; i+2 <= len(mac); i += 2 {
		parts = append(parts, mac[i:i+2])
	}
	return strings.Join(parts, ":")
}

// neverSeen answers for a device that this server has not heard of: the fault
// is on the road from the firmware to us.
func (s *Server) neverSeen(ctx context.Context, tx *store.Tx, id string, w *api.Why) error {
	w.Says = fmt.Sprintf("No hello from %s has ever reached this server, so nothing was decided about it", w.Query)
	w.Next = "nothing, until its firmware says hello"
	zones := "SUFFIX"
	if len(s.Zones) > 0 {
		zones = strings.Join(s.Zones, ", provisionserver.")
	}
	w.Checks = append(w.Checks,
		"is AMT enabled in the BIOS and in MEBx, and is remote setup (TLS PKI) on there?",
		"does DHCP give the device a DNS suffix (option 15) on its wired port?",
		"does provisionserver."+zones+" resolve to this server, from the device's own network?",
	)
	if s.HelloAt != "" {
		w.Checks = append(w.Checks, "may the device reach TCP 9971 here? This server listens on "+s.HelloAt)
		if ap, err := netip.ParseAddrPort(s.HelloAt); err == nil && ap.Addr().IsLoopback() {
			w.Checks = append(w.Checks, "hello.listen is loopback: no device can reach it")
		}
	} else {
		w.Checks = append(w.Checks, "may the device reach TCP 9971 here?")
	}
	w.Checks = append(w.Checks, "firmware stops saying hello some hours after power came: disconnect the machine's power for a moment, or start its setup from an agent")
	if a, err := netip.ParseAddr(id); err == nil && s.Networks != nil && !inside(s.Networks, a) {
		w.Checks = append(w.Checks, a.String()+" is in none of provisioning.networks: its hello would be kept, but nobody would connect back")
	}
	last, err := tx.Devices(ctx, store.DeviceFilter{Order: store.ByLastSeen, Limit: 1})
	if err != nil {
		return err
	}
	if len(last) == 0 {
		w.Checks = append(w.Checks, "no device at all has said hello so far, so look at DNS and the firewall first")
	} else {
		w.Checks = append(w.Checks, fmt.Sprintf("the last hello of any device came %s ago, from %s", ago(s.now().Sub(last[0].LastSeen)), last[0].Address))
	}
	return nil
}

// paused says so when no attempts are made in a device's network.
func (s *Server) paused(ctx context.Context, tx *store.Tx, w *api.Why, d store.Device) error {
	network := store.NetworkOf(d.Address)
	p, err := tx.PausedNetwork(ctx, network)
	if errors.Is(err, store.ErrNotFound) || !network.IsValid() {
		return nil
	}
	if err != nil {
		return err
	}
	if !p.Until.After(s.now()) {
		w.Checks = append(w.Checks, fmt.Sprintf("its network %s was paused until %s; one device there is tried first", network, p.Until.UTC().Format(time.RFC3339)))
		return nil
	}
	text := fmt.Sprintf("its network %s is paused until %s: attempt after attempt failed there for the network's sake, so look at the road to it", network, p.Until.UTC().Format(time.RFC3339))
	if w.LastRun != nil && w.LastRun.State == store.RunQueued {
		w.Next = text
		return nil
	}
	w.Checks = append(w.Checks, text)
	return nil
}

func inside(networks []netip.Prefix, a netip.Addr) bool {
	for _, p := range networks {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

// answer says where a known device stands, why, and what happens next.
func (s *Server) answer(w *api.Why, d store.Device) {
	now := s.now()
	w.Says = sentence(d, now)
	if d.Reason != "" {
		e := reason.Of(d.Reason)
		r := api.ReasonOf(e)
		w.Reason = &r
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
		w.Checks = append(w.Checks, fmt.Sprintf("what answered last at %s showed the certificate sha256:%s and was told no password; once you know that it is the device's: provctl device trust %s --fingerprint %s", amt.Text(d.Address), seen, d.UUID, seen))
	}
	switch word := vouched(d.Vouched); word {
	case "":
	case "first":
		w.Checks = append(w.Checks, "a person trusts whoever answers first at its address; the next contact takes that")
	default:
		w.Checks = append(w.Checks, "a person vouched for the certificate sha256:"+word+"; the next contact takes that")
	}
	if d.Lifecycle == store.Unprovisioning && d.Reason != "" {
		w.Checks = append(w.Checks, "if the machine is gone for good: provctl device retire "+d.UUID.String())
	}
	if r := w.LastRun; d.Lifecycle == store.Queued && r != nil && r.State == store.RunQueued && r.NotBefore != nil && r.NotBefore.Sub(now) > time.Minute {
		w.Says = strings.Replace(w.Says, words[store.Queued], "waits for the time of its next attempt", 1)
	}
	w.Next = next(d, w.LastRun, now)
	if d.Lifecycle == store.Failed && (w.LastRun == nil || w.LastRun.FinishedAt != nil) && reason.Of(d.Reason).GivenUp(d.Attempts, s.MostAttempts) {
		w.Next = fmt.Sprintf("nothing, until a person has looked: attempts in a row that failed: %d, of %d that provisioning.retry.attempts allows; then: provctl device retry %s", d.Attempts, s.MostAttempts, d.UUID)
	}
	if !d.WindowUntil.IsZero() && listens(d) {
		if d.WindowUntil.After(now) {
			w.Checks = append(w.Checks, fmt.Sprintf("its setup window closes in %s; after that it needs a power cycle", ago(d.WindowUntil.Sub(now))))
		} else {
			w.Checks = append(w.Checks, "its setup window has probably closed: disconnect its power for a moment")
		}
	}
	if s.Networks != nil && d.Address.IsValid() && !inside(s.Networks, d.Address) && !managed(d.Lifecycle) {
		w.Checks = append(w.Checks, d.Address.String()+" is in none of provisioning.networks, so nobody connects back to it")
	}
}

// listens reports whether a setup window means anything to the device: it waits
// for its setup.
func listens(d store.Device) bool {
	switch d.Lifecycle {
	case store.Retired, store.Unprovisioning, store.External, store.CredentialsUnknown:
		return false
	case store.Unprovisioned: // at factory settings it is silent until somebody begins its setup there
		return d.Reason != "" || d.DeviceMode == amt.StateIn.String()
	}
	return !managed(d.Lifecycle) && !((d.Lifecycle == store.Discovered || d.Lifecycle == store.Quarantined) && takenOut(d))
}

// onlyListed reports whether all that is known of a device is what an import
// said.
func onlyListed(d store.Device) bool {
	return d.Lifecycle == store.Discovered && d.HelloCount == 0 && d.LastContact.IsZero()
}

func managed(l store.Lifecycle) bool {
	switch l {
	case store.Provisioned, store.Drifted, store.Maintaining:
		return true
	}
	return false
}

// words say what a lifecycle means to somebody who asks why.
var words = map[store.Lifecycle]string{
	store.Discovered:         "said hello and has not been looked at yet",
	store.PendingApproval:    "waits for somebody to approve it",
	store.PendingIdentity:    "waits for a name or a profile",
	store.PendingCertificate: "waits for a provisioning certificate that it trusts",
	store.Queued:             "waits for a free worker",
	store.Provisioning:       "is being set up right now",
	store.Verifying:          "has been set up and is being checked",
	store.Provisioned:        "is under management",
	store.Drifted:            "is under management but differs from its profile",
	store.Maintaining:        "is under management and is being worked on",
	store.Failed:             "is not under management: the last attempt failed",
	store.Dormant:            "is not under management and has fallen silent",
	store.Quarantined:        "is kept out",
	store.External:           "was set up by somebody else",
	store.CredentialsUnknown: "takes none of the passwords known here",
	store.Unprovisioning:     "is going back to factory settings",
	store.Unprovisioned:      "is back at factory settings",
	store.Retired:            "is retired: it is kept for the records only",
}

func sentence(d store.Device, now time.Time) string {
	name := api.Clean(d.FQDN)
	if name == "" {
		name = d.UUID.String()
	}
	s := name + " " + words[d.Lifecycle]
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
	if !d.LastSeen.IsZero() && !managed(d.Lifecycle) {
		s += "; its last hello came " + ago(now.Sub(d.LastSeen)) + " ago"
	}
	return s
}

// lostSetup reports whether a managed device was found without its setup.
func lostSetup(d store.Device) bool {
	return managed(d.Lifecycle) && d.Reason == reason.ReappearedUnprovisioned
}

func next(d store.Device, last *api.Run, now time.Time) string {
	switch d.Lifecycle {
	case store.Provisioned, store.Drifted:
		return nextManaged(d, last, now)
	case store.Retired:
		return "nothing; a hello of it raises an alarm. To take it back: provctl device restore " + d.UUID.String()
	case store.PendingApproval:
		return "nothing, until it is approved: provctl device approve " + d.UUID.String()
	case store.Unprovisioned:
		if !listens(d) {
			return "nothing: it is silent until its setup is begun at the machine, by an agent or a USB key; its hello then waits for provctl device approve " + d.UUID.String()
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
			text += "; it is looked up again in " + ago(d.NextRetry.Sub(now))
		}
		return text
	case store.Dormant:
		return "it is taken up again at its next hello: disconnect its power for a moment, or reopen its setup from an agent or MEBx"
	case store.CredentialsUnknown:
		if last == nil || last.State != "queued" && last.State != "running" {
			return "nothing by itself, so that it locks nobody out: provctl device adopt " + d.UUID.String() + " --password-file FILE tries a password, or reset it at the machine"
		}
	}
	if text := underWay(last, now); text != "" {
		return text
	}
	if d.NextRetry.After(now) {
		return "the next attempt begins in " + ago(d.NextRetry.Sub(now))
	}
	if onlyListed(d) {
		text := "it is set up at its first hello. If somebody else has set it up it says none: provctl device adopt " + d.UUID.String() + " --password-file FILE, or provctl device retry where its domain's digest master password is known"
		if !d.Address.IsValid() {
			text += ", once provctl device import has given its address"
		}
		return text
	}
	if d.Lifecycle == store.Discovered && takenOut(d) {
		return "nothing by itself, since it says no hello: provctl device retry " + d.UUID.String() + " looks whether it is under management still"
	}
	if d.Reason == reason.PeerUnverified {
		return "nothing, until a person vouches for its certificate: provctl device trust " + d.UUID.String() + " --fingerprint SHA256, or --first for whoever answers first"
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
		text = "it refused what fits it, so it is tried again when that changes: another certificate, another suffix, another address, or at a hello after a pause; now: provctl device retry " + d.UUID.String()
	}
	return text
}

// underWay says what the run at hand does, "" when there is none.
func underWay(last *api.Run, now time.Time) string {
	switch {
	case last == nil:
	case last.State == store.RunRunning:
		return fmt.Sprintf("run %d is working on it", last.ID)
	case last.State == store.RunQueued && last.NotBefore != nil && last.NotBefore.After(now):
		return fmt.Sprintf("run %d tries again in %s", last.ID, ago(last.NotBefore.Sub(now)))
	case last.State == store.RunQueued:
		return fmt.Sprintf("run %d starts as soon as a worker is free", last.ID)
	}
	return ""
}

// nextManaged is next for a device under management, with which something may be wrong.
func nextManaged(d store.Device, last *api.Run, now time.Time) string {
	if text := underWay(last, now); text != "" {
		return text
	}
	maintain := "provctl maintain " + d.UUID.String()
	switch {
	case d.Reason == "" && d.Lifecycle == store.Provisioned:
		return "nothing has to happen"
	case anotherFace(d.Reason):
		if d.Reason == reason.TLSPinnedKeyChanged {
			return "it is told nothing until a person has vouched for its key: provctl device trust " + d.UUID.String() + " --fingerprint SHA256, or --first for whoever answers first"
		}
		return "it is told nothing until a person has looked: provctl device release " + d.UUID.String() + " believes what it shows next"
	case lostSetup(d):
		return "its next hello decides, as provisioning.reprovision says; if it says none: disconnect its power for a moment. To look again now: " + maintain + " --task check"
	case d.Lifecycle == store.Drifted:
		return "maintenance brings it back when its turn comes; now: " + maintain + " --task clock,cert,name,tls,settings"
	}
	return "maintenance looks at it again by itself; now: " + maintain + " --task check"
}

// ago writes a duration for people.
func ago(d time.Duration) string {
	switch d = d.Abs(); {
	case d < 2*time.Second:
		return "a second"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d seconds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
