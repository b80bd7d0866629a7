package admit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/store"
)

// Hellos that come at the same moment are decided together, in one transaction:
// when a site's power comes back there are thousands, and most of them change
// little. A hello is answered for only when the transaction is durable.
//
// Whatever is more than a row that waits is left to HandleHello's own road, one
// transaction for one hello: a device that may come in now, a run to hasten, a
// suspicion that two machines carry one UUID, and everything that an
// agent says. So is each hello of a batch that failed: one that the store does
// not take spoils no other.
type batch struct {
	mu      sync.Mutex
	waiting []*member // none has been taken
	leading int
}

// A member is a hello that waits for its batch.
type member struct {
	ctx  context.Context // a batch lasts as long as one of its members may wait
	h    hello.Hello
	lead chan struct{} // closed: run the next batch
	done chan struct{} // closed: the batch is over
	over bool          // decided and durable; guarded by done

	dev      store.Device
	decision Decision
}

// mostTogether is small enough that a batch holds SQLite's one writer for some
// milliseconds only; on Postgres it is a few kilobytes a statement.
const mostTogether = 96

// lanes are the batches under way at once. SQLite has one writer; on Postgres
// the second batch is decided while the first is made durable.
func lanes(engine string) int {
	if engine == store.Postgres {
		return 2
	}
	return 1
}

// together hands a hello to the next batch. It is false when the hello has to
// go its own way; nothing of it has been stored then.
func (a *Admitter) together(ctx context.Context, h hello.Hello) (*member, bool, error) {
	if h.Via != hello.ViaPlain || !h.OTP.IsZero() || h.FQDN != "" {
		return nil, false, nil
	}
	b := &a.batch
	m := &member{ctx: ctx, h: h, lead: make(chan struct{}), done: make(chan struct{})}
	b.mu.Lock()
	b.waiting = append(b.waiting, m)
	if b.leading < lanes(a.DB.Engine()) {
		b.leading++
		close(m.lead)
	}
	b.mu.Unlock()
	select {
	case <-m.done:
		return m, m.over, nil
	case <-m.lead:
		defer b.pass()
		a.run(b.take(m))
		return m, m.over, nil
	case <-ctx.Done():
		if b.leave(m) {
			return nil, false, fmt.Errorf("wait for the other hellos: %w", ctx.Err())
		}
		<-m.done // it is in a batch, which decides whether it is stored
		return m, m.over, nil
	}
}

// leave gives up a place in the queue; false when it is too late for that.
func (b *batch) leave(m *member) bool {
	b.mu.Lock()
	i := slices.Index(b.waiting, m)
	if i >= 0 {
		b.waiting = slices.Delete(b.waiting, i, i+1)
	}
	b.mu.Unlock()
	if i >= 0 && appointed(m) {
		b.pass()
	}
	return i >= 0
}

// take gives the leader's batch: itself, and those who wait longest.
func (b *batch) take(leader *member) []*member {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := []*member{leader}
	rest := b.waiting[:0]
	for _, m := range b.waiting {
		switch {
		case m == leader:
		case len(out) < mostTogether && !appointed(m):
			out = append(out, m)
		default:
			rest = append(rest, m)
		}
	}
	clear(b.waiting[len(rest):])
	b.waiting = rest
	return out
}

func appointed(m *member) bool {
	select {
	case <-m.lead:
		return true
	default:
		return false
	}
}

// pass lets the next one lead.
func (b *batch) pass() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.waiting {
		if !appointed(m) {
			close(m.lead)
			return
		}
	}
	b.leading--
}

// run decides a batch. Its members learn only whether they are done: why it
// failed is of no use to them, their own road will say.
func (a *Admitter) run(members []*member) {
	ctx := longest(members)
	defer func() {
		for _, m := range members {
			close(m.done)
		}
	}()
	var kept []*member
	err := a.DB.Write(ctx, func(tx *store.Tx) (err error) {
		kept, err = a.decideTogether(ctx, tx, members)
		return err
	})
	if err != nil {
		return
	}
	for _, m := range kept {
		m.over = true
	}
}

// longest is the context of the member that may wait longest. The leader is the one
// that has waited longest: where hellos wait for long its time is nearly over, and
// with it all the others would have to go their own roads.
func longest(members []*member) context.Context {
	out := members[0].ctx
	for _, m := range members[1:] {
		a, limited := out.Deadline()
		b, bounded := m.ctx.Deadline()
		if m.ctx.Err() == nil && (out.Err() != nil || limited && (!bounded || b.After(a))) {
			out = m.ctx
		}
	}
	return out
}

// errNotSo ends the look at a hello that has to go its own way.
var errNotSo = errors.New("not for a batch")

// decideTogether records those hellos of which little follows, and says which.
func (a *Admitter) decideTogether(ctx context.Context, tx *store.Tx, members []*member) ([]*member, error) {
	hellos := make([]store.SeenHello, len(members))
	for i, m := range members {
		hellos[i] = seen(m.h)
	}
	arrivals, err := tx.ReadArrivals(ctx, hellos)
	if err != nil {
		return nil, err
	}
	devices := make([]store.Device, len(arrivals))
	var known []amt.UUID
	f := factsOf(tx)
	for i, s := range arrivals {
		devices[i] = s.Device
		if s.Before.Known {
			known = append(known, s.Device.UUID)
		}
		if s.Device.TrustTable != 0 {
			f.roots[s.Device.TrustTable] = members[i].h.Hashes
		}
	}
	if err := f.about(ctx, devices); err != nil {
		return nil, err
	}
	live, err := tx.LiveRuns(ctx, known)
	if err != nil {
		return nil, err
	}
	var kept []*member
	var outcomes []store.Outcome
	policy := a.Policy()
	for i, m := range members {
		q, failed := a.question(ctx, f, m.h, arrivals[i].Device, nil)
		q.Before = arrivals[i].Before
		q.Twin = func() string { *failed = errNotSo; return "" }
		if run, ok := live[m.h.UUID]; ok {
			q.Live = &run
		}
		if err := ended(ctx, tx, &q); err != nil {
			return nil, err
		}
		d := Decide(q)
		switch {
		case errors.Is(*failed, errNotSo) || d.Start || d.HastenRun != 0 || d.Aside != nil ||
			moved(arrivals[i].Device, arrivals[i].Before, d) != (store.DeviceFacts{}):
			continue
		case *failed != nil:
			return nil, *failed
		}
		m.dev, m.decision = arrivals[i].Device, d
		kept = append(kept, m)
		outcomes = append(outcomes, a.waits(policy, arrivals[i], m.h, d, tx))
	}
	return kept, tx.WriteOutcomes(ctx, outcomes)
}

// waits is what carryOut and heard would do for a decision without a run.
func (a *Admitter) waits(p Policy, s store.Arrival, h hello.Hello, d Decision, tx *store.Tx) store.Outcome {
	out := store.Outcome{Arrival: s, FQDN: s.Device.FQDN, Profile: s.Device.Profile, Stray: !d.believed(), Claim: d.Claim}
	if until, ok := window(p, h, s.Device, s.Before, tx.Now()); ok && !out.Stray {
		out.WindowUntil = until
	}
	if id := d.Identity; id != nil {
		out.Profile = id.Profile
		if id.FQDN != "" {
			out.FQDN = id.FQDN
		}
	}
	if d.Event != "" {
		t := transition(s.Device, d)
		out.Move = &t
	}
	return out
}
