package admit

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// Reconsider asks again about devices that wait for something which may have
// come: an authorisation, a profile, a certificate. It returns how many runs it
// started.
func (a *Admitter) Reconsider(ctx context.Context) (started int, err error) {
	for _, life := range waiting {
		after := ""
		for {
			var news []store.Device
			next := ""
			if err := a.DB.Read(ctx, func(tx *store.Tx) (err error) {
				news, _, next, err = a.changed(ctx, factsOf(tx), life, after)
				return err
			}); err != nil {
				return started, err
			}
			for _, d := range news {
				ok, err := a.reconsider(ctx, d, nil)
				if err != nil {
					return started, fmt.Errorf("device %s: %w", d.UUID, err)
				}
				if ok {
					started++
				}
			}
			if after = next; after == "" {
				break
			}
		}
	}
	return started, nil
}

// Change is what a person is about to change, for WouldStart.
type Change struct {
	Rules   []profile.Rule // all of them; nil: those that are stored
	Profile string         // a profile that there will be, "" none
}

// WouldStart counts the runs that Reconsider would start once the change is made.
func (a *Admitter) WouldStart(ctx context.Context, tx *store.Tx, c Change) (n int, err error) {
	f := factsOf(tx)
	if c.Rules != nil {
		f.rules, f.haveRule = c.Rules, true
	}
	if c.Profile != "" {
		f.profiles[c.Profile] = nil
	}
	for _, life := range waiting {
		for after := ""; ; {
			_, started, next, err := a.changed(ctx, f, life, after)
			if err != nil {
				return n, err
			}
			n += started
			if after = next; after == "" {
				break
			}
		}
	}
	return n, nil
}

var waiting = []store.Lifecycle{store.PendingApproval, store.PendingIdentity, store.PendingCertificate, store.Failed}

// changed looks at a page of the devices that wait: those about which something else
// is decided now, and how many of them are set up. Most wait on, and looking costs no
// write.
func (a *Admitter) changed(ctx context.Context, f *facts, life store.Lifecycle, after string) (news []store.Device, started int,
	next string, err error) {
	const most = 200
	page, err := f.tx.Devices(ctx, store.DeviceFilter{Lifecycle: []store.Lifecycle{life}, After: after, Limit: most})
	if err != nil {
		return nil, 0, "", err
	}
	if err := f.about(ctx, page); err != nil {
		return nil, 0, "", err
	}
	for _, d := range page {
		if !a.mayWait(d) {
			continue
		}
		dec, err := a.asked(ctx, f, d, nil)
		if err != nil {
			return nil, 0, "", err
		}
		if dec.Event != "" {
			news = append(news, d)
		}
		if dec.Start {
			if _, err := f.tx.LiveRun(ctx, d.UUID); errors.Is(err, store.ErrNotFound) {
				started++
			} else if err != nil {
				return nil, 0, "", err
			}
		}
	}
	if len(page) == most {
		next = page[most-1].Cursor(store.ByUUID)
	}
	return news, started, next, nil
}

// mayWait leaves out what only a person or a hello can change.
func (a *Admitter) mayWait(d store.Device) bool {
	switch d.Lifecycle {
	case store.PendingApproval:
		return d.Reason == reason.NotAuthorized
	case store.PendingIdentity:
		return true
	}
	return reason.Of(d.Reason).Retry == reason.ForCertificate
}

// reconsider decides about a device as if it had just said hello again.
func (a *Admitter) reconsider(ctx context.Context, d store.Device, answers map[profile.Source]answer) (started bool, err error) {
	var dec Decision
	err = a.DB.Write(ctx, func(tx *store.Tx) error {
		dec = Decision{}
		now, err := tx.Device(ctx, d.UUID)
		if err != nil {
			return err
		}
		if now.Lifecycle != d.Lifecycle {
			return nil
		}
		if _, err := tx.LiveRun(ctx, d.UUID); err == nil || !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if dec, err = a.asked(ctx, factsOf(tx), now, answers); err != nil {
			return err
		}
		for s, got := range answers {
			if dec.Identity != nil && dec.Identity.Source == string(s) && got.name != "" {
				if err := tx.PutName(ctx, store.Name{UUID: now.UUID, FQDN: dec.Identity.FQDN, Source: string(s)}); err != nil {
					return err
				}
			}
		}
		if now.Lifecycle == store.PendingApproval && dec.Event != "" {
			if _, err := tx.AddEvent(ctx, store.Event{UUID: now.UUID, Name: "approved", Actor: "system",
				Detail: "by the list of authorised devices"}); err != nil {
				return err
			}
		}
		return a.carryOut(ctx, tx, now, store.SeenBefore{Known: true, Previous: now}, "timer", dec)
	})
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
		return false, nil // a hello was faster, or the row is gone
	}
	if err == nil && dec.Event != "" {
		a.Log.Info("reconsidered", zap.Stringer("device", d.UUID), zap.String("lifecycle", string(dec.To)),
			zap.String("reason", string(dec.Reason)))
	}
	return err == nil && dec.Start, err
}

// asked decides about a device that waits, as things stand now; an empty event
// means that nothing has changed.
func (a *Admitter) asked(ctx context.Context, f *facts, d store.Device, answers map[profile.Source]answer) (Decision, error) {
	if !allowed(a.Policy().Networks, d.Address) {
		return Decision{}, nil
	}
	h := hello.Hello{Message: hello.Message{UUID: d.UUID}, At: f.tx.Now()}
	if d.TrustTable != 0 {
		hashes, _, err := f.hashes(ctx, d.TrustTable)
		if err != nil {
			return Decision{}, err
		}
		h.Version, h.Hashes = hello.VersionPKI, hashes
	} else if last, err := f.tx.Hellos(ctx, d.UUID, 1); err != nil {
		return Decision{}, err
	} else if len(last) == 1 {
		h.Version = uint16(last[0].Version) // firmware that announced no root; an agent announces none either
	}
	q, failed := a.question(ctx, f, h, d, answers)
	if !q.letIn() {
		return Decision{}, *failed
	}
	dec := q.ready("certificate_matched")
	if dec.Start && reason.Of(d.Reason).Retry == reason.ForCertificate {
		if same, err := a.refusedTheSame(ctx, f, d, h.Hashes); err != nil || same {
			return Decision{}, err
		}
	}
	return dec, *failed
}

// refusedTheSame reports whether a device would be asked what it refused at its last
// attempt: nothing is another since that could change its answer.
func (a *Admitter) refusedTheSame(ctx context.Context, f *facts, d store.Device, hashes []amt.TrustHash) (bool, error) {
	was, err := f.tx.LastRefusal(ctx, d.UUID)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	now := store.Refusal{Certificates: certs.Offers(f.match(a.Config.Match, hashes, d).fit), Suffix: d.Suffix, Address: d.Address.String()}
	return err == nil && was.Differs(now) == "", err
}
