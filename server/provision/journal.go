package provision

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/store"
)

// Journal is the Store of the daemon: each method one transaction of *store.DB.
type Journal struct {
	DB *store.DB
	// Node is the owner written on leases: node id and boot nonce.
	Node string
	// Enqueue puts a run into the work queue in the caller's transaction.
	Enqueue func(ctx context.Context, tx *store.Tx, runID int64, at time.Time, priority int) error
	// Profile finds the document a run was made for.
	Profile func(ctx context.Context, tx *store.Tx, d store.Device, name string) (profile.Profile, error)
	// Kept finds the version of its profile that a managed device has, for a run
	// that is to leave it that one; known is false when it is kept nowhere, and the
	// newest is given. nil is Profile.
	Kept func(ctx context.Context, tx *store.Tx, d store.Device) (p profile.Profile, known bool, err error)
	// OTPRequired is the policy for devices an agent should have announced.
	OTPRequired func(d store.Device) bool
	// Hold may put a run off in the transaction that would claim it: a limit is
	// reached. A zero time lets it begin; nil always does.
	Hold func(ctx context.Context, tx *store.Tx, runID int64) (until time.Time, err error)
	// Claims is told how a probe ended; nil: nobody.
	Claims Claims
}

// Claim takes the device for a run, and loads all the attempt needs.
func (j *Journal) Claim(ctx context.Context, runID int64, lease time.Duration) (*Job, error) {
	var job *Job
	var hold time.Time
	err := j.DB.Write(ctx, func(tx *store.Tx) error {
		job, hold = nil, time.Time{}
		if j.Hold != nil {
			var err error
			if hold, err = j.Hold(ctx, tx, runID); err != nil || !hold.IsZero() {
				return err
			}
		}
		c, err := tx.Claim(ctx, runID, j.Node, lease)
		if err != nil {
			return err
		}
		loaded, err := j.load(ctx, tx, c)
		if err != nil {
			return err
		}
		job = loaded
		if c.Run.Kind == KindProbe {
			return nil // it stays what it is, and its timeline is spared
		}
		loaded.Device.Attempts++
		if err := tx.UpdateDevice(ctx, c.Device.UUID, store.DeviceFacts{Attempts: &loaded.Device.Attempts}); err != nil {
			return err
		}
		if err := tx.Transition(ctx, store.Transition{
			UUID: c.Device.UUID, To: underWay(c.Run.Kind), Event: "attempt_started", Actor: "node:" + j.Node, RunID: runID,
			Data: map[string]any{"attempt": c.Run.Attempt, "kind": c.Run.Kind, "address": c.Device.Address.String()},
		}); err != nil {
			return err
		}
		return nil
	})
	var held store.ErrHeld
	switch {
	case errors.As(err, &held):
		return nil, &Held{Until: held.Until}
	case errors.Is(err, store.ErrGone), errors.Is(err, store.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case !hold.IsZero():
		return nil, &Held{Until: hold}
	}
	return job, nil
}

// underWay is the word for a device while a run of this kind is at it.
func underWay(kind string) store.Lifecycle {
	switch kind {
	case KindMaintain, KindRotate:
		return store.Maintaining
	case KindUnprovision:
		return store.Unprovisioning
	}
	return store.Provisioning
}

func (j *Journal) load(ctx context.Context, tx *store.Tx, c store.Claim) (*Job, error) {
	job := &Job{Run: c.Run, Device: c.Device, Fence: c.Fence, FQDN: c.Device.FQDN}
	var err error
	if c.Device.TrustTable != 0 {
		if job.Hashes, err = tx.TrustHashes(ctx, c.Device.TrustTable); err != nil {
			return nil, fmt.Errorf("load the device's trust hashes: %w", err)
		}
	}
	if keeps(c.Run) && j.Kept != nil {
		known := false
		job.Profile, known, err = j.Kept(ctx, tx, c.Device)
		job.Blind = !known
	} else {
		job.Profile, err = j.Profile(ctx, tx, c.Device, c.Run.Profile)
	}
	if err != nil {
		return nil, fmt.Errorf("load profile %q: %w", c.Run.Profile, err)
	}
	if job.Unprotected = job.Profile.TLS == profile.TLSNone; !job.Unprotected && c.Run.Kind != KindProvision && metWithoutTLS(c.Device) &&
		j.Kept != nil {
		had, _, err := j.Kept(ctx, tx, c.Device)
		if err != nil {
			return nil, fmt.Errorf("load the profile that the device has: %w", err)
		}
		job.Unprotected = had.TLS == profile.TLSNone
	}
	if job.Admin, err = tx.Credentials(ctx, c.Device.UUID, store.KindAdmin); err != nil {
		return nil, err
	}
	if job.MEBx, err = tx.Credentials(ctx, c.Device.UUID, store.KindMEBx); err != nil {
		return nil, err
	}
	if job.Profile.Wanted() {
		if job.Settings, err = tx.DeviceSettings(ctx, c.Device.UUID); err != nil {
			return nil, err
		}
		if job.Users, err = tx.UserPasswords(ctx, c.Device.UUID, ""); err != nil {
			return nil, err
		}
	}
	if otp, err := tx.OTPFor(ctx, c.Device.UUID); err == nil {
		job.OTP = otp.Password
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	// Of a device that said no hello somebody else knows the password: Intel SCS
	// may have derived it.
	if job.Profile.DerivedPassword() || c.Run.Kind == KindProvision && c.Device.HelloCount == 0 && c.Device.Generation == 0 {
		_, domain, _ := strings.Cut(c.Device.FQDN, ".")
		if job.Master, err = MasterPassword(ctx, tx, first(c.Device.Domain, c.Device.Suffix, domain)); err != nil &&
			!errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
	}
	if c.Run.Kind == KindUnprovision {
		if job.Told, err = told(ctx, tx, c.Device.UUID); err != nil {
			return nil, err
		}
	}
	job.OTPRequired = j.OTPRequired != nil && j.OTPRequired(c.Device)
	return job, nil
}

// told reports whether an attempt since the device was last set up may have
// told it to go back to its factory state.
func told(ctx context.Context, tx *store.Tx, uuid amt.UUID) (bool, error) {
	runs, err := tx.Runs(ctx, uuid, 50)
	if err != nil {
		return false, err
	}
	for _, run := range runs {
		if run.Kind != KindUnprovision {
			break
		}
		steps, err := tx.Steps(ctx, run.ID)
		if err != nil {
			return false, err
		}
		for _, s := range steps {
			if s.Name == unprovision.Name && s.State != "skipped" {
				return true, nil
			}
		}
	}
	return false, nil
}

// MasterPassword is the digest master password kept for a DNS domain or the
// nearest one above it, then the one kept for all ("*"); store.ErrNotFound when
// there is none. Domains are opted in one by one: provctl secret master set.
func MasterPassword(ctx context.Context, tx *store.Tx, domain string) (amt.Secret, error) {
	for domain = strings.ToLower(strings.Trim(domain, ".")); domain != ""; _, domain, _ = strings.Cut(domain, ".") {
		s, err := tx.SealedSetting(ctx, store.MasterPasswordKey(domain))
		if err == nil || !errors.Is(err, store.ErrNotFound) {
			return s, err
		}
	}
	return tx.SealedSetting(ctx, store.MasterPasswordKey("*"))
}

// Journal writes steps and facts under the fence and renews the lease.
func (j *Journal) Journal(ctx context.Context, l Lease, steps []store.StepRecord, facts *Facts) error {
	return j.DB.Write(ctx, func(tx *store.Tx) error { return j.write(ctx, tx, l, steps, facts) })
}

func (j *Journal) write(ctx context.Context, tx *store.Tx, l Lease, steps []store.StepRecord, facts *Facts) error {
	if err := tx.Renew(ctx, l.UUID, l.Fence, l.For); err != nil {
		return err
	}
	if err := tx.PutSteps(ctx, l.RunID, steps); err != nil {
		return err
	}
	if n := len(steps); n > 0 && steps[n-1].Name == commitChanges.Name {
		if err := tx.Transition(ctx, store.Transition{UUID: l.UUID, To: store.Verifying, Event: "commit_sent", Actor: "node:" + j.Node,
			RunID: l.RunID}); err != nil {
			return err
		}
	}
	if facts == nil {
		return nil
	}
	return j.update(ctx, tx, l.UUID, *facts)
}

// Stage makes new candidates durable.
func (j *Journal) Stage(ctx context.Context, l Lease, setup int, admin, mebx amt.Secret) (a, m store.Credential, err error) {
	err = j.DB.Write(ctx, func(tx *store.Tx) error {
		if err := tx.Renew(ctx, l.UUID, l.Fence, l.For); err != nil {
			return err
		}
		gen, err := tx.StageWithin(ctx, l.UUID, l.RunID, setup, admin, mebx)
		if err != nil {
			return err
		}
		if err := tx.Audit(ctx, store.AuditRecord{Actor: "node:" + j.Node, Action: "secret.staged", Subject: l.UUID.String(),
			Detail: map[string]any{"generation": gen, "run": l.RunID}}); err != nil {
			return err
		}
		for _, want := range []struct {
			kind string
			into *store.Credential
		}{{store.KindAdmin, &a}, {store.KindMEBx, &m}} {
			if want.kind == store.KindMEBx && mebx.IsZero() {
				continue
			}
			list, err := tx.Credentials(ctx, l.UUID, want.kind)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return fmt.Errorf("the staged %s password is not there", want.kind)
			}
			*want.into = list[0]
		}
		return nil
	})
	return a, m, err
}

// StageUser makes a user's password durable.
func (j *Journal) StageUser(ctx context.Context, l Lease, name string, pw amt.Secret) (u store.UserPassword, err error) {
	err = j.DB.Write(ctx, func(tx *store.Tx) error {
		if err := tx.Renew(ctx, l.UUID, l.Fence, l.For); err != nil {
			return err
		}
		if u, err = tx.StageUser(ctx, l.UUID, l.RunID, name, pw); err != nil {
			return err
		}
		return tx.Audit(ctx, store.AuditRecord{Actor: "node:" + j.Node, Action: "secret.sent", Subject: l.UUID.String(),
			Detail: map[string]any{"user": name, "generation": u.Generation, "run": l.RunID}})
	})
	return u, err
}

// Sending records who is about to receive which password: the audit record is
// durable before the password leaves.
func (j *Journal) Sending(ctx context.Context, l Lease, steps []store.StepRecord, out Handout) error {
	return j.DB.Write(ctx, func(tx *store.Tx) error {
		if err := j.write(ctx, tx, l, steps, nil); err != nil {
			return err
		}
		if err := tx.MarkSent(ctx, out.Credential, out.User, out.Realm, out.Peer, out.Address, out.Commits); err != nil {
			return err
		}
		return tx.Audit(ctx, store.AuditRecord{Actor: "node:" + j.Node, Action: "secret.sent", Subject: l.UUID.String(),
			Detail: map[string]any{"credentials": []int64{out.Credential}, "run": l.RunID, "address": out.Address.String()}})
	})
}

// Name is Config.Name, under the fence: who lost the device claims nothing for it.
func (j *Journal) Name(ctx context.Context, l Lease, name, keep string) (holder amt.UUID, err error) {
	err = j.DB.Write(ctx, func(tx *store.Tx) error {
		if err := tx.Renew(ctx, l.UUID, l.Fence, l.For); err != nil {
			return err
		}
		holder, err = tx.ClaimName(ctx, l.UUID, name, keep)
		return err
	})
	return holder, err
}

// Renew renews many leases in one transaction.
func (j *Journal) Renew(ctx context.Context, leases []Lease) (lost []Lease, err error) {
	err = j.DB.Write(ctx, func(tx *store.Tx) error {
		lost = lost[:0]
		for _, l := range leases {
			switch err := tx.Renew(ctx, l.UUID, l.Fence, l.For); {
			case errors.Is(err, store.ErrFenced):
				lost = append(lost, l)
			case err != nil:
				return err
			}
		}
		return nil
	})
	return lost, err
}

// Settle ends the attempt in one transaction.
func (j *Journal) Settle(ctx context.Context, l Lease, v Verdict) error {
	said := func() {}
	err := j.DB.Write(ctx, func(tx *store.Tx) (err error) {
		if err := tx.CheckFence(ctx, l.UUID, l.Fence); err != nil {
			return err
		}
		if err := tx.PutSteps(ctx, l.RunID, v.Steps); err != nil {
			return err
		}
		if err := j.update(ctx, tx, l.UUID, v.Facts); err != nil {
			return err
		}
		if err := tx.MarkRefused(ctx, v.Refused); err != nil {
			return err
		}
		for _, id := range v.Active {
			if err := tx.Activate(ctx, id); err != nil {
				return err
			}
		}
		switch {
		case v.Kind == KindProbe:
			said, err = j.settleProbe(ctx, tx, l, v)
		case v.OK && v.Kept:
			said, err = j.settleKept(ctx, tx, l, v)
		case v.OK:
			err = j.settleOK(ctx, tx, l, v)
		default:
			err = j.settleFailed(ctx, tx, l, v)
		}
		return err
	})
	if err == nil {
		said()
	}
	return err
}

func (j *Journal) settleOK(ctx context.Context, tx *store.Tx, l Lease, v Verdict) error {
	now := tx.Now()
	none, healthy := 0, "ok"
	facts := store.DeviceFacts{LastContact: &now, Attempts: &none, Health: &healthy, ClaimDue: &time.Time{}}
	if v.Health != "" {
		facts.Health = &v.Health
	}
	if v.Profile != "" {
		facts.Profile, facts.ProfileVersion = &v.Profile, &v.ProfileVersion
	}
	t := store.Transition{UUID: l.UUID, To: v.Ended, Reason: v.Reason, Detail: v.Detail, Actor: "node:" + j.Node, RunID: l.RunID}
	switch v.Kind {
	case KindMaintain:
		t.Event = "maintained"
		if v.Ended == store.Drifted {
			t.Event = "drift_found"
		}
		if len(v.Did) > 0 {
			t.Data = map[string]any{"done": v.Did}
		}
	case KindRotate:
		t.Event = "credential_rotated"
	case KindUnprovision:
		// Whoever says hello under this UUID from now on is asked about anew.
		no, unknown := false, ""
		anywhere := store.ByHello
		facts.Approved, facts.Health, facts.AddressBy = &no, &unknown, &anywhere
		t.Event = "unprovision_confirmed"
	default:
		facts.ProvisionedAt, facts.PasswordChanged = &now, &now
		t.To, t.Event = store.Provisioned, "verified"
		if v.Chosen != "" {
			t.Data = map[string]any{"certificate": v.Chosen}
		}
		if err := spendOTP(ctx, tx, l.UUID); err != nil {
			return err
		}
	}
	if err := tx.UpdateDevice(ctx, l.UUID, facts); err != nil {
		return err
	}
	if err := tx.MarkAnswered(ctx, l.UUID); err != nil {
		return err
	}
	if err := tx.Transition(ctx, t); err != nil {
		return err
	}
	if err := tx.FinishRun(ctx, l.RunID, store.RunDone, "", v.Detail, string(reason.NoBlame)); err != nil {
		return err
	}
	if err := tx.Release(ctx, l.UUID, l.Fence, time.Time{}); err != nil || v.Then == "" {
		return err
	}
	run, err := tx.CreateRun(ctx, store.NewRun{UUID: l.UUID, Kind: KindMaintain, Trigger: "timer", Profile: v.Profile, NotBefore: now,
		Task: v.Then})
	if err != nil {
		return err
	}
	return j.Enqueue(ctx, tx, run.ID, now, queue.Background)
}

// spendOTP marks the one-time password that was compared as used.
func spendOTP(ctx context.Context, tx *store.Tx, uuid amt.UUID) error {
	otp, err := tx.OTPFor(ctx, uuid)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return tx.UseOTP(ctx, otp.ID)
}

// managedKind reports whether runs of a kind talk to a device that stays ours.
func managedKind(kind string) bool { return kind == KindMaintain || kind == KindRotate }

// unproved keeps that a change may have reached the device and no login came
// after it, and says so aloud when the device cannot be spoken to any more.
func (j *Journal) unproved(ctx context.Context, tx *store.Tx, l Lease, v Verdict) error {
	if !managedKind(v.Kind) {
		return nil
	}
	sent := v.Changed
	if !sent {
		var err error
		if sent, err = tx.StepCutOff(ctx, l.RunID); err != nil {
			return err
		}
	}
	return MarkLost(ctx, tx, l.UUID, l.RunID, sent, v.Reason, v.Detail)
}

// MarkLost notes that a change was sent to a device, and that it is lost when the
// reason says that it does not answer.
func MarkLost(ctx context.Context, tx *store.Tx, uuid amt.UUID, runID int64, sent bool, code reason.Code, detail string) error {
	lost, err := tx.MarkUnproved(ctx, uuid, sent, Unanswered(code))
	if err != nil || !lost {
		return err
	}
	_, err = tx.AddEvent(ctx, store.Event{UUID: uuid, RunID: runID, Name: "contact_lost", Actor: "system", Reason: code, Detail: detail})
	return err
}

func (j *Journal) settleFailed(ctx context.Context, tx *store.Tx, l Lease, v Verdict) error {
	now := tx.Now()
	var next, shown time.Time
	switch {
	case v.Again > 0:
		next = now.Add(v.Again)
		shown = next
	case v.Later > 0:
		// The row starts over: it is managed, and looked at again another day.
		shown = now.Add(v.Later)
		none := 0
		if err := tx.UpdateDevice(ctx, l.UUID, store.DeviceFacts{Attempts: &none}); err != nil {
			return err
		}
	}
	if v.Health != "" {
		if err := tx.UpdateDevice(ctx, l.UUID, store.DeviceFacts{Health: &v.Health}); err != nil {
			return err
		}
	}
	if err := j.unproved(ctx, tx, l, v); err != nil {
		return err
	}
	t := store.Transition{UUID: l.UUID, To: v.Ended, Reason: v.Reason, Detail: v.Detail, Event: store.AttemptFailed,
		Actor: "node:" + j.Node, NextRetry: shown, RunID: l.RunID, Data: evidence(v)}
	if len(v.Offered) > 0 {
		d, err := tx.Device(ctx, l.UUID)
		if err != nil {
			return err
		}
		t.Data = store.Refusal{Certificates: v.Offered, Suffix: d.Suffix, Address: d.Address.String()}.Data()
	}
	if err := tx.Transition(ctx, t); err != nil {
		return err
	}
	old, err := tx.Run(ctx, l.RunID)
	if err != nil {
		return err
	}
	if err := tx.FinishRun(ctx, l.RunID, store.RunFailed, v.Reason, v.Detail, string(v.Blame)); err != nil {
		return err
	}
	var quiet time.Time
	if v.Quiet > 0 {
		quiet = now.Add(v.Quiet)
	}
	if err := tx.Release(ctx, l.UUID, l.Fence, quiet); err != nil {
		return err
	}
	if next.IsZero() || old.Forged { // what the row says was not ordered: nothing follows it
		return nil
	}
	if d, err := tx.Device(ctx, l.UUID); err != nil {
		return err
	} else if old.Kind == KindProvision && v.Blame == reason.TheNet && !d.ClaimDue.IsZero() && j.Claims != nil {
		if err := j.Claims.Absent(ctx, tx, d); err != nil {
			return err
		}
	}
	trigger := "timer"
	if old.Kind != KindProvision {
		trigger = old.Trigger // its few attempts are still whoever asked for the first one
	}
	run, err := tx.CreateRun(ctx, store.NewRun{UUID: l.UUID, Kind: old.Kind, Trigger: trigger, Profile: old.Profile, NotBefore: next,
		Task: old.Task})
	if err != nil {
		return err
	}
	priority := queue.Background // a managed device has no window
	if old.Kind == KindProvision {
		d, err := tx.Device(ctx, l.UUID)
		if err != nil {
			return err
		}
		priority = queue.Normal
		if !d.WindowUntil.IsZero() {
			priority = queue.Priority(d.WindowUntil, next)
		}
		priority = queue.Behind(priority, 1)
	}
	return j.Enqueue(ctx, tx, run.ID, next, priority)
}

// update writes what a run learnt about the device.
func (j *Journal) update(ctx context.Context, tx *store.Tx, uuid amt.UUID, f Facts) error {
	var d store.DeviceFacts
	if id := f.Identity; id != nil {
		suffix, secure := first(id.TrustedSuffix, id.DHCPSuffix), id.TrustedSuffix != ""
		d.Version, d.Realm = &id.Version, &id.Realm
		if suffix != "" {
			d.Suffix, d.SecureDNS = &suffix, &secure
		}
		if id.SKU != "" {
			d.SKU = &id.SKU
		}
		if id.MAC != "" {
			d.MAC = &id.MAC
		}
	}
	if f.ModeKnown {
		mode := f.DeviceMode.String()
		d.DeviceMode = &mode
	}
	if p := f.Peer; p != nil {
		version := tls.VersionName(p.TLSVersion)
		if len(p.Fingerprint) == 0 {
			version = withoutTLS
		}
		d.TLSVersion, d.PeerFingerprint = &version, &p.Fingerprint
		d.PeerSeen = &[]byte{}
	}
	if p := f.SetupPeer; p != nil {
		rung := verifiedNone
		if p.Verified == verifiedODCA {
			rung = verifiedODCA
		}
		d.PeerVerified = &rung
	}
	if f.Seen != nil {
		d.PeerSeen = f.Seen
	}
	d.Vouched = f.Vouched
	if l := f.LoginAs; l != nil {
		if err := tx.LoginAs(ctx, l.Credential, l.User); err != nil {
			return err
		}
	}
	if k := f.Known; k != nil {
		if err := tx.Known(ctx, uuid, k.Setup, k.Proofs, k.Commits); err != nil {
			return err
		}
	}
	if f.UsersIn != nil {
		for _, id := range *f.UsersIn {
			if err := tx.ActivateUser(ctx, id); err != nil {
				return err
			}
		}
	}
	if f.Settings != nil {
		if err := tx.PutDeviceSettings(ctx, uuid, *f.Settings); err != nil {
			return err
		}
	}
	if f.Certificate != "" {
		d.Certificate = &f.Certificate
	}
	if f.HostName != "" {
		d.HostName, d.Domain = &f.HostName, &f.Domain
		name := f.HostName
		if f.Domain != "" {
			name += "." + f.Domain
		}
		d.FQDN = &name
	}
	if !f.WindowUntil.IsZero() {
		d.WindowUntil = &f.WindowUntil
	}
	if !f.CertUntil.IsZero() {
		d.DeviceCertNotAfter = &f.CertUntil
	}
	if f.Record != nil {
		raw, err := json.Marshal(f.Record)
		if err == nil {
			msg := json.RawMessage(raw)
			d.Record = &msg
		}
	}
	now := tx.Now()
	if f.Identity != nil {
		d.LastContact = &now
	}
	if f.Found.IsValid() {
		if err := located(ctx, tx, uuid, f, &d, "node:"+j.Node); err != nil {
			return err
		}
	}
	return tx.UpdateDevice(ctx, uuid, d)
}

// located makes the address where a device answered the believed one.
func located(ctx context.Context, tx *store.Tx, uuid amt.UUID, f Facts, d *store.DeviceFacts, actor string) error {
	d.Address, d.GoodAddress, d.AddressBy = &f.Found, &f.Found, &f.FoundBy
	if f.WordUsed {
		d.AgentAddress = &netip.Addr{}
	}
	if f.FoundFrom == f.Found {
		return nil
	}
	_, err := tx.AddEvent(ctx, store.Event{UUID: uuid, Name: "address_changed", Actor: actor,
		Detail: "from " + f.FoundFrom.String() + " to " + f.Found.String() + ": it answered there with its key",
		Data:   map[string]any{"address": f.Found.String(), "previous_address": f.FoundFrom.String(), "by": string(f.FoundBy)}})
	return err
}

// evidence is what a failed attempt leaves in its event for those who look into
// it: where the device was looked for, or the certificate that it showed and
// that cannot be used.
func evidence(v Verdict) map[string]any {
	data := looks(v.Looked)
	if len(v.OddCertificate) > 0 {
		if data == nil {
			data = map[string]any{}
		}
		data["device_certificate"] = base64.StdEncoding.EncodeToString(v.OddCertificate)
	}
	return data
}

// looks is where a device was looked for, as an event's data.
func looks(list []Look) map[string]any {
	if len(list) == 0 {
		return nil
	}
	return map[string]any{"looked": list}
}
