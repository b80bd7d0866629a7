package admit

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// Reconsider asks again about devices that wait for something which may have
// come: an authorisation, a profile, a certificate. It returns how many runs it
// started.
func (a *Admitter) Reconsider(ctx context.Context) (started int, err error) {
	for _, life := range []store.Lifecycle{store.PendingApproval, store.PendingIdentity, store.PendingCertificate, store.Failed} {
		after := ""
		for {
			var page, news []store.Device
			if err := a.DB.Read(ctx, func(tx *store.Tx) (err error) {
				news = news[:0]
				if page, err = tx.Devices(ctx, store.DeviceFilter{Lifecycle: []store.Lifecycle{life}, After: after, Limit: 200}); err != nil {
					return err
				}
				f := factsOf(tx)
				if err := f.about(ctx, page); err != nil {
					return err
				}
				for _, d := range page {
					if !a.mayWait(d) {
						continue
					}
					// Most wait on: looking costs no write.
					if dec, err := a.asked(ctx, f, d, nil); err != nil {
						return err
					} else if dec.Event != "" {
						news = append(news, d)
					}
				}
				return nil
			}); err != nil {
				return started, err
			}
			for _, d := range page {
				after = d.Cursor(store.ByUUID)
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
			if len(page) < 200 {
				break
			}
		}
	}
	return started, nil
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
			if _, err := tx.AddEvent(ctx, store.Event{UUID: now.UUID, Name: "approved", Actor: "system", Detail: "by the list of authorised devices"}); err != nil {
				return err
			}
		}
		return a.carryOut(ctx, tx, now, "timer", dec)
	})
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
		return false, nil // a hello was faster, or the row is gone
	}
	if err == nil && dec.Event != "" {
		a.Log.Info("reconsidered", zap.Stringer("device", d.UUID), zap.String("lifecycle", string(dec.To)), zap.String("reason", string(dec.Reason)))
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
	return dec, *failed
}
