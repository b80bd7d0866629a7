package provision

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// Run is one attempt at one device.
type Run struct {
	Job
	Device   Device // the open session; nil between sessions
	Identity session.Identity
	Profile  profile.Profile

	e     *Engine
	log   *zap.Logger
	lease *lease
	trace string // the attempt's trace; "" when nobody watches

	admin, mebx store.Credential // the candidates this run hands out
	mebxHeld    int64            // the MEBx password the device is believed to hold, 0: unknown
	mebxNew     bool             // it cannot have had the one that it was just told before
	verified    bool             // a login with r.admin succeeded
	trusted     bool             // the device let us in with a stored password: what it says is believed
	withheld    int              // stored passwords that the session's peer may not hear
	offered     []int64          // those the session was handed
	setup       bool             // the device asked for the setup certificate
	unheard     bool             // it never said hello: it is adopted or left
	again       bool             // an earlier attempt told it something
	denied      []int64          // stored passwords it refused in this attempt
	untried     int              // stored passwords it was not offered yet
	fitting     []string         // the certificates that fit it, as certs.Offers says them
	facts       Facts
	material    *session.TLSMaterial
	keyHandle   string
	certHandle  string
	host        string
	domain      string

	cert certs.Candidate // the chain the device accepted

	// Of a device under management:
	next     store.Credential // the password it is to get
	tasks    tasks            // what this run is to look at
	fixed    []string         // what was changed
	differs  []string         // what was found to differ and is left so
	misnamed error            // why it cannot have the name that it is to have
	unsaved  bool             // a change waits for CommitChanges
	oldCerts []string         // handles of certificates no longer in use
	believed netip.Addr       // where it was said to be at first
	found    Lead             // where it answered
	looked   []Look           // where it was looked for before that
	met      bool             // a machine with its key answered
	guarded  []guarded        // changes that could shut us out and are not proved yet
	rope     Device           // the session that made them, open over their commit
	// toldConsoles are names of consoles that the device has, had, or may have got from a run.
	toldConsoles []string

	under      string // the name under which the device let us in; "" our own
	other      bool   // it is met with TLS, and was without before
	changed    bool   // it may have been told something that changes it
	unanswered bool   // a commit got no answer: it may still arrive

	settings map[string]store.DeviceSetting // what became of the profile's settings in this attempt
	usersIn  []int64                        // passwords with which the device let its users in

	// Of a device on its way out:
	goneEvidence     string // how the device shows that it is no longer managed; "": it still is
	unprovisionAcked bool   // the device said yes to the unprovision
	unprovisionSent  bool   // a run may have sent the unprovision

	seq  int
	book []store.StepRecord // not yet written
}

// lease is the right to touch the device, kept alive by the engine's beat.
type lease struct {
	Lease
	mu     sync.Mutex
	end    time.Time
	margin time.Duration
	dev    Device
	cancel context.CancelCauseFunc
}

// extend moves the end; the start of the renewing call counts, not its answer.
func (l *lease) extend(end time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if end.After(l.end) {
		l.end = end
		if l.dev != nil {
			l.dev.SetDeadline(end.Add(-l.margin))
		}
	}
}

// guard puts a session under the lease's deadline.
func (l *lease) guard(d Device) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dev = d
	if d != nil {
		d.SetDeadline(l.end.Add(-l.margin))
	}
}

// call opens a conversation, for as long as the lease lasts: whoever has the device
// after us must not meet us at its door.
func (r *Run) call(ctx context.Context, t session.Target) (Device, error) {
	over := reason.Because(reason.LeaseLost, "the lease on the device ended before %s answered", t.Addr)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	door := &atDoor{clock: r.e.Clock, leave: func() { cancel(over) }}
	r.lease.guard(door)
	defer door.timer.Stop()
	defer r.lease.guard(nil)
	if errors.Is(context.Cause(ctx), over) {
		return nil, over
	}
	return r.e.Dial(ctx, t)
}

// atDoor is a device that has not answered yet: the lease's end is all it hears.
type atDoor struct {
	Device
	clock Clock
	leave func()
	timer *time.Timer // guarded by the lease
}

func (d *atDoor) SetDeadline(t time.Time) {
	left := t.Sub(d.clock.Now())
	if left <= 0 {
		d.leave()
	}
	if d.timer == nil {
		d.timer = time.AfterFunc(left, d.leave)
	} else {
		d.timer.Reset(left)
	}
}

func (l *lease) left(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end.Sub(now)
}

// committed reports whether the device has left setup mode.
func (r *Run) committed() bool { return r.Identity.State == amt.StatePost }

// walk takes the device through the plan.
func (r *Run) walk(ctx context.Context, plan []Step) error {
	for _, s := range plan {
		r.seq++
		switch {
		case s.Needed != nil && !s.Needed(r):
			r.note(s, "skipped", r.e.Clock.Now(), nil)
			continue
		case s.Setup && r.committed():
			r.note(s, "skipped", r.e.Clock.Now(), nil)
			continue
		}
		if err := r.step(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return nil
}

// step asks, writes down what it is about to do, and does it.
func (r *Run) step(ctx context.Context, s Step) error {
	began := r.e.Clock.Now()
	if s.Done != nil {
		done, err := s.Done(ctx, r)
		if err != nil {
			r.note(s, "failed", began, err)
			return err
		}
		if done || s.Apply == nil {
			r.note(s, "done", began, nil)
			return nil
		}
	}
	if err := r.intend(ctx, s, began); err != nil {
		return err
	}
	r.changed = r.changed || s.Name != stagePassword.Name // which tells the device nothing
	err := s.Apply(ctx, r)
	state := "done"
	if err != nil {
		state = "failed"
	}
	r.note(s, state, began, err)
	return err
}

// intend makes the step's start durable, under the fence, and renews the lease.
// The steps that hand out a password record which one in the same write.
func (r *Run) intend(ctx context.Context, s Step, began time.Time) error {
	steps := append(r.book, store.StepRecord{Seq: r.seq, Name: s.Name, State: "started", Attempt: r.Job.Run.Attempt, StartedAt: began})
	t0 := r.e.Clock.Now()
	var err error
	if s.Before != nil {
		s.Before(r)
	}
	if s.Hands != nil {
		c := s.Hands(r)
		out := Handout{Credential: c.ID, User: r.user(), Realm: r.Identity.Realm, Peer: r.Device.Peer().Fingerprint,
			Address: r.Job.Device.Address, Commits: r.committed()}
		err = r.e.Store.Sending(ctx, r.lease.Lease, steps, out)
		if err == nil {
			r.handed(c, out)
		}
	} else {
		facts := r.learnt()
		err = r.e.Store.Journal(ctx, r.lease.Lease, steps, news(facts))
		if err == nil {
			r.noted(facts)
		}
	}
	if err != nil {
		return storeError("write down the step before making it", err)
	}
	r.book = r.book[:0]
	r.lease.extend(t0.Add(r.e.Lease))
	if r.lease.left(r.e.Clock.Now()) <= r.e.Margin {
		// The write took so long that the lease it renewed is nearly over.
		return reason.Because(reason.LeaseLost, "the database answered too slowly to act on its answer")
	}
	return nil
}

// handed keeps with the password what was just written down about it.
func (r *Run) handed(c *store.Credential, out Handout) {
	c.SentAt, c.Peer, c.Address, c.Realm, c.User = r.e.Clock.Now(), out.Peer, out.Address, out.Realm, out.User
	if out.Commits {
		c.CommittedAt = c.SentAt
	}
	r.keep(*c)
}

// keep puts a password's new state in its place among the stored ones.
func (r *Run) keep(c store.Credential) {
	for _, list := range [][]store.Credential{r.Job.Admin, r.Job.MEBx} {
		for i := range list {
			if list[i].ID == c.ID && c.ID != 0 {
				proofs := list[i].Proofs
				list[i], list[i].Proofs = c, proofs
			}
		}
	}
}

// learnt is what may be written down of what was learnt. A device that was set up
// before is described by what it said when it let us in: until it does so again,
// who answers under its UUID overwrites nothing of that (I14).
func (r *Run) learnt() Facts {
	if len(r.settings) > 0 {
		list := slices.Collect(maps.Values(r.settings))
		r.facts.Settings = &list
	}
	if len(r.usersIn) > 0 {
		list := slices.Clone(r.usersIn)
		r.facts.UsersIn = &list
	}
	if r.trusted || r.Job.Device.ProvisionedAt.IsZero() {
		return r.facts
	}
	return Facts{Known: r.facts.Known, Vouched: r.facts.Vouched, Seen: r.facts.Seen}
}

// noted takes what was written down off the list of what is to be.
func (r *Run) noted(f Facts) {
	if f.Known != nil && f.Known.Commits {
		r.admin.CommittedAt = r.e.Clock.Now()
		r.keep(r.admin)
	}
	if f == r.facts {
		r.facts = Facts{}
		return
	}
	r.facts.Known, r.facts.Vouched, r.facts.Seen = nil, nil, nil
}

// news is nil for nothing.
func news(f Facts) *Facts {
	if f.none() {
		return nil
	}
	return &f
}

// note keeps the step's outcome for the next write, and counts it.
func (r *Run) note(s Step, state string, began time.Time, err error) {
	now := r.e.Clock.Now()
	rec := store.StepRecord{Seq: r.seq, Name: s.Name, State: state, Attempt: r.Job.Run.Attempt, StartedAt: began, FinishedAt: now}
	if err != nil {
		rec.Detail = clip(err.Error())
		rec.Reason = codeOf(err)
	}
	r.book = append(r.book, rec)
	r.e.metrics.step(s.label(), state, now.Sub(began), r.trace)
	if t := r.e.Tracer; t != nil {
		t.Step(r.Job.Run.ID, rec)
	}
}

// storeError turns a store's failure into a reason: nothing was sent.
func storeError(doing string, err error) error {
	if errors.Is(err, store.ErrFenced) {
		return &reason.Error{Code: reason.LeaseLost, Err: fmt.Errorf("%s: %w", doing, err)}
	}
	return &reason.Error{Code: reason.DBUnavailable, Err: fmt.Errorf("%s: %w", doing, err)}
}

// clip makes a detail of the record of what may be a stranger's words.
func clip(s string) string { return amt.ClipTo(s, 500) }

// codeOf finds the reason an error carries; internal_error when it has none.
func codeOf(err error) reason.Code {
	var re *reason.Error
	if errors.As(err, &re) {
		return re.Code
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return reason.WorkerCrashed
	}
	return reason.InternalError
}

// sent reports whether a change was on its way as the error happened, under whatever
// reason the attempt then ended.
func sent(err error) bool {
	if re, ok := err.(*reason.Error); ok && re.Sent { //nolint:errorlint // each link of the chain is looked at
		return true
	}
	switch e := err.(type) { //nolint:errorlint // as above
	case interface{ Unwrap() error }:
		return sent(e.Unwrap())
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), sent)
	}
	return false
}

// mayArrive reports whether a change may still be on its way as the attempt ends with
// an error: a quiet time has to pass before the next one asks.
func (r *Run) mayArrive(err error) bool { return r.unanswered || sent(err) }
