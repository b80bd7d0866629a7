package provision

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// simStore is the store's part of the truth, with its fences.
type simStore struct {
	w         *world
	lifecycle store.Lifecycle
	reason    reason.Code
	attempts  int
	fence     int64
	owner     string
	until     time.Time
	runs      []store.Run
	creds     []*store.Credential
	last      int64 // the newest credential's ID
	most      int
	row       store.Device // its facts
	auto      bool         // who reappears is set up again without a person
	claimant  netip.Addr   // who said hello from elsewhere last
	claimed   time.Time
	probed    time.Time
	later     time.Time
	skew      time.Duration // how far its clock is from the world's
	leapt     time.Time     // when it last went forward
	asked     bool          // an attempt ended at a stranger: a person looks at it
	profiles  []profile.Profile
	applied   int              // the version of its profile that the device was found, or made, to have
	before    map[int64]before // by fence
}

// now is the database's clock, the only one that says whether a lease is over.
func (d *simStore) now() time.Time { return d.w.now.Add(d.skew) }

func (d *simStore) live() *store.Run {
	for i := range d.runs {
		if s := d.runs[i].State; s == store.RunQueued || s == store.RunRunning {
			return &d.runs[i]
		}
	}
	return nil
}

// due is the queue's nudge, and the sweep for runs whose worker went away.
func (d *simStore) due() int64 {
	if !d.w.faulty && d.w.kinds["a stranger says hello"]+d.w.kinds["a stranger answers"] > 0 {
		d.operator()
	}
	if r := d.live(); r != nil && !d.now().Before(r.NotBefore) {
		return r.ID
	}
	if d.live() == nil && !d.row.ClaimDue.IsZero() && d.now().After(d.row.ClaimDue) && d.now().After(d.probed.Add(30*time.Second)) {
		d.row.ClaimDue, d.probed = time.Time{}, d.now()
		if d.sent() {
			d.runs = append(d.runs, store.Run{ID: int64(len(d.runs) + 1), Kind: KindProbe, State: store.RunQueued, Trigger: "hello",
				NotBefore: d.now()})
		}
		return 0
	}
	// Where a stranger ended it for good a person tries again once he is gone.
	if d.live() == nil && d.asked && !d.w.faulty {
		d.asked = false
		if d.cared() {
			d.order(KindRotate, "", "api", d.now())
		} else {
			d.start("api", d.now())
		}
	}
	d.release()
	d.visit()
	// A managed device whose last run failed is looked at again, as it is; what a
	// profile wants anew reaches it in a rollout.
	if d.live() == nil && d.cared() && (d.reason != "" || d.lifecycle == store.Drifted || !d.w.faulty && !d.asWanted()) &&
		d.now().After(d.later) {
		switch {
		case !d.w.faulty:
			d.order(KindMaintain, "", "timer", d.now())
		case d.w.odd.IntN(2) == 0:
			d.order(KindMaintain, TaskKept, "timer", d.now())
		default:
			d.order(KindRotate, "", "timer", d.now())
		}
	}
	return 0
}

// cared reports whether the device is under management.
func (d *simStore) cared() bool {
	return d.lifecycle == store.Provisioned || d.lifecycle == store.Drifted
}

func (d *simStore) start(trigger string, at time.Time) {
	id := int64(len(d.runs) + 1)
	d.runs = append(d.runs, store.Run{ID: id, Kind: KindProvision, State: store.RunQueued, Trigger: trigger, NotBefore: at})
	d.lifecycle = store.Queued
	if c := d.newest(store.KindAdmin); c == nil || c.State != store.CredentialCandidate {
		if d.w.mutant == "send before store" {
			return
		}
		rnd := simRand{d.w.rng}
		admin, _ := amt.NewAdminPassword(rnd)
		mebx, _ := amt.NewMEBxPassword(rnd)
		d.stage(id, 0, admin, mebx)
	}
}

// order makes a run on a device under management; it stages nothing itself.
func (d *simStore) order(kind, task, trigger string, at time.Time) {
	d.runs = append(d.runs, store.Run{ID: int64(len(d.runs) + 1), Kind: kind, Task: task, State: store.RunQueued, Trigger: trigger,
		NotBefore: at})
}

func (d *simStore) newest(kind string) *store.Credential {
	for i := len(d.creds) - 1; i >= 0; i-- {
		if d.creds[i].Kind == kind {
			return d.creds[i]
		}
	}
	return nil
}

func (d *simStore) stage(run int64, setup int, admin, mebx amt.Secret) (a, m store.Credential) {
	if d.w.mutant == "delete old secret" {
		d.creds = slices.DeleteFunc(d.creds, func(c *store.Credential) bool {
			return c.State == store.CredentialCandidate && (c.Kind == store.KindAdmin || !mebx.IsZero())
		})
	}
	if d.w.mutant == "overwrite old secret" {
		for _, c := range d.creds {
			if c.Kind == store.KindAdmin {
				c.Password = admin
			} else if !mebx.IsZero() {
				c.Password = mebx
			}
		}
	}
	gen := 1
	if c := d.newest(store.KindAdmin); c != nil {
		gen = c.Generation + 1
	}
	if setup == 0 {
		setup = gen
	}
	d.last++
	first := &store.Credential{ID: d.last, Generation: gen, Kind: store.KindAdmin, State: store.CredentialCandidate, Password: admin,
		RunID: run, Setup: setup}
	d.creds = append(d.creds, first)
	if mebx.IsZero() {
		return *first, m
	}
	d.last++
	second := &store.Credential{ID: d.last, Generation: gen, Kind: store.KindMEBx, State: store.CredentialCandidate, Password: mebx,
		RunID: run, Setup: setup}
	d.creds = append(d.creds, second)
	return *first, *second
}

// learn takes in what a run writes down of whom a password is for.
func (d *simStore) learn(f *Facts) error {
	if f == nil {
		return nil
	}
	if id := f.Identity; id != nil {
		strange := id.Version != d.w.dev.version
		if d.row.LastContact = d.now(); d.takes("version", strange) {
			d.row.Version = id.Version
		}
		if d.takes("realm", strange) {
			d.row.Realm = id.Realm
		}
		if d.takes("MAC", strange) {
			d.row.MAC = id.MAC
		}
	}
	if f.HostName != "" && d.takes("name", f.HostName != d.w.dev.hostName) {
		d.row.HostName, d.row.Domain, d.row.FQDN = f.HostName, f.Domain, f.HostName+"."+f.Domain
	}
	if !f.CertUntil.IsZero() {
		d.row.DeviceCertNotAfter = f.CertUntil
	}
	if f.Found.IsValid() {
		d.row.Address, d.row.GoodAddress, d.row.AddressBy = f.Found, f.Found, f.FoundBy
	}
	if f.Peer != nil {
		d.row.PeerFingerprint = f.Peer.Fingerprint
	}
	if k := f.Known; k != nil {
		for _, c := range d.creds {
			if c.Kind == store.KindAdmin && c.Generation == k.Setup {
				c.Setup, c.Proofs = k.Setup, slices.Clone(k.Proofs)
				if k.Commits && d.w.mutant != "the commit is not noted" {
					c.CommittedAt = d.now()
				}
			}
		}
	}
	return nil
}

func (d *simStore) cred(id int64) *store.Credential {
	for _, c := range d.creds {
		if c.ID == id {
			return c
		}
	}
	return nil
}

// told reports whether a password was noted as sent before it went.
func (d *simStore) told(pw string) bool {
	for _, c := range d.creds {
		if c.Password.Reveal() == pw {
			return !c.SentAt.IsZero()
		}
	}
	return false
}

func (d *simStore) holds(kind, pw string) bool {
	for _, c := range d.creds {
		if c.Kind == kind && c.Password.Reveal() == pw {
			return true
		}
	}
	return false
}

var simUUID = amt.UUID{1, 2, 3}

func (d *simStore) claim(id int64, owner string, lease time.Duration) (*Job, error) {
	i := slices.IndexFunc(d.runs, func(r store.Run) bool { return r.ID == id })
	r := &d.runs[i]
	if r.State != store.RunQueued && r.State != store.RunRunning {
		return nil, nil
	}
	own := d.w.mutant == "same node re-claims its own live lease" && d.owner == owner
	now := d.now()
	if d.w.mutant == "a node's wall clock decides" {
		now = d.w.clock(owner)
	}
	if now.Before(d.until) && !own {
		return nil, &Held{Until: d.until}
	}
	d.fence++
	d.owner, d.until = owner, d.now().Add(lease)
	r.State, r.Attempt, r.Fence = store.RunRunning, r.Attempt+1, d.fence
	d.attempts++
	if r.Kind != KindProbe {
		d.lifecycle = underWay(r.Kind)
	}
	p := d.profiles[len(d.profiles)-1]
	if keeps(*r) && d.applied > 0 {
		p = d.profiles[d.applied-1]
	}
	d.watch()
	job := &Job{Run: *r, Fence: d.fence, Hashes: []amt.TrustHash{{Algorithm: amt.SHA256, Sum: []byte{byte(d.row.TrustTable)}}}, Profile: p,
		FQDN: d.row.FQDN}
	job.Device = d.device()
	if what, ok := strings.CutPrefix(d.w.mutant, believed); ok {
		job.Device.ProvisionedAt = time.Time{}
		if what == ", its name" {
			job.FQDN = ""
		}
	}
	switch {
	case d.w.mutant == "the first that answers is believed":
		job.Device.Vouched = store.VouchFirst
	case !d.w.faulty && d.reason == reason.TLSPinnedKeyChanged && d.w.dev.state == amt.StateIn:
		// The way out: a person compared the fingerprint. A device whose commit was
		// noted and lost needs it when its firmware made itself another certificate.
		job.Device.Vouched = d.w.dev.peer(true).Fingerprint
	}
	for i := len(d.creds) - 1; i >= 0; i-- {
		if c := *d.creds[i]; c.Kind == store.KindAdmin {
			switch d.w.mutant {
			case "what was handed out is for anybody":
				c.SentAt = time.Time{}
			case "all set-ups are one":
				for _, o := range d.creds {
					c.Proofs, _ = store.AddProofs(c.Proofs, o.Proofs...)
				}
			case "an active password is for anybody":
				if c.State == store.CredentialActive {
					c.State, c.SentAt = store.CredentialCandidate, time.Time{}
				}
			}
			job.Admin = append(job.Admin, c)
		} else {
			job.MEBx = append(job.MEBx, c)
		}
	}
	if d.w.mutant == "send before store" && len(job.Admin) == 0 {
		rnd := simRand{d.w.rng}
		admin, _ := amt.NewAdminPassword(rnd)
		mebx, _ := amt.NewMEBxPassword(rnd)
		job.Admin = []store.Credential{{ID: 0, RunID: r.ID, Kind: store.KindAdmin, State: store.CredentialCandidate, Password: admin}}
		job.MEBx = []store.Credential{{ID: 0, RunID: r.ID, Kind: store.KindMEBx, State: store.CredentialCandidate, Password: mebx}}
		// It would be stored at the end, with the success.
		d.creds = append(d.creds, &store.Credential{Kind: "none"})
	}
	return job, nil
}

func (d *simStore) fenced(l Lease) bool {
	if d.w.mutant == "no fence on writes" {
		return false
	}
	return l.Fence != d.fence || !d.now().Before(d.until)
}

func (d *simStore) renew(l Lease, step string) error {
	if d.w.mutant == "check, then act" && step != "" {
		return nil // the write is not fenced and renews nothing
	}
	if d.fenced(l) {
		return store.ErrFenced
	}
	d.until = d.now().Add(l.For)
	if step == commitChanges.Name {
		d.lifecycle = store.Verifying
	}
	return nil
}

func (d *simStore) settle(l Lease, v Verdict) error {
	if d.fenced(l) {
		return store.ErrFenced
	}
	i := slices.IndexFunc(d.runs, func(r store.Run) bool { return r.ID == l.RunID })
	for _, id := range v.Refused {
		if c := d.cred(id); c != nil {
			c.RefusedAt = d.now()
		}
	}
	_ = d.learn(&v.Facts)
	m := &d.w.dev
	if d.row.Address == d.w.rogue.addr {
		m = &d.w.rogue // who goes through a whole set-up before the device is known cannot be told from it
	}
	if v.OK && v.Kind != KindProbe && m.state != amt.StatePost {
		d.w.broken("I7", "reported as provisioned while the device is in %s mode", m.state)
	}
	for _, id := range v.Active {
		c := d.cred(id)
		if c == nil {
			continue
		}
		for _, o := range d.creds {
			if o.Kind == c.Kind && o.State == store.CredentialActive && o != c {
				o.State = store.CredentialRetired
			}
		}
		c.State, c.RefusedAt = store.CredentialActive, time.Time{}
		if v.OK && c.Kind == store.KindAdmin && c.Password.Reveal() != m.admin {
			d.w.broken("I7", "reported as provisioned with a password the device does not take")
		}
	}
	if d.runs[i].State != store.RunQueued && d.runs[i].State != store.RunRunning {
		return nil
	}
	d.until, d.owner = d.now().Add(v.Quiet), ""
	d.undisturbed(l.Fence, v)
	if v.Kind == KindProbe {
		d.settleProbe(&d.runs[i], v)
		return nil
	}
	if v.OK {
		d.runs[i].State, d.lifecycle, d.reason, d.attempts = store.RunDone, v.Ended, v.Reason, 0
		d.row.LastContact, d.row.ClaimDue, d.later = d.now(), time.Time{}, d.now().Add(time.Minute)
		if v.Profile != "" {
			d.applied = v.ProfileVersion
		}
		if v.Kind == KindProvision {
			d.row.ProvisionedAt = d.now()
		}
		return nil
	}
	d.runs[i].State, d.lifecycle, d.reason = store.RunFailed, v.Ended, v.Reason
	d.later = d.now().Add(v.Later)
	d.asked = d.asked || (d.w.met[l.Fence] || v.Reason == reason.LockoutAverted && !d.cared()) && v.Again == 0
	if v.Later > 0 {
		d.attempts = 0
	}
	switch {
	case v.Again > 0 && (v.Kind == KindRotate || v.Kind == KindMaintain):
		d.order(v.Kind, d.runs[i].Task, "timer", d.now().Add(v.Again))
	case v.Again > 0:
		d.start("timer", d.now().Add(v.Again))
		d.lifecycle = v.Ended
	}
	return nil
}
