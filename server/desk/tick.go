package desk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// Tick is for every few minutes on every node: reminders and the trash.
func (d *Desk) Tick(ctx context.Context) error {
	return errors.Join(d.remind(ctx), d.purge(ctx))
}

// remind writes one event for each of certs.Reminders that a certificate in use
// has come to.
func (d *Desk) remind(ctx context.Context) error {
	all, err := d.List(ctx)
	if err != nil {
		return err
	}
	for _, e := range all {
		due := certs.Reminder(e.Leaf.NotAfter, d.Now())
		if e.State != Active || due < 0 || e.Note.Reminded != nil && *e.Note.Reminded == due {
			continue
		}
		err := d.DB.Write(ctx, func(tx *store.Tx) error {
			// The audit's head is locked, so that one node of several says it.
			if err := tx.Audit(ctx, store.AuditRecord{Actor: "system", Action: "cert.remind", Subject: e.ID,
				Detail: map[string]any{"days": due}}); err != nil {
				return err
			}
			n, err := d.note(ctx, tx, e.ID)
			if err != nil || n.Reminded != nil && *n.Reminded == due {
				return errors.Join(err, errSaid)
			}
			n.Reminded = &due
			if err := d.putNote(ctx, tx, e.ID, n); err != nil {
				return err
			}
			name, code := "certificate_expiring", reason.CertExpiring
			if due == 0 {
				name, code = "certificate_expired", reason.CertExpired
			}
			_, err = tx.AddEvent(ctx, store.Event{Name: name, Reason: code, Actor: "system", Detail: expiryText(e, all, d.Now()),
				Data: map[string]any{"certificate": e.ID, "days": due}})
			return err
		})
		if errors.Is(err, errSaid) {
			continue
		}
		if err != nil {
			return fmt.Errorf("remind of certificate %s: %w", e.ID, err)
		}
		d.Log.Warn("cert.expiring", zap.String("certificate", e.Name), zap.String("id", e.ID), zap.Time("not_after", e.Leaf.NotAfter))
	}
	return nil
}

// errSaid rolls back: another node was faster.
var errSaid = errors.New("said already")

func expiryText(e Entry, all []Entry, now time.Time) string {
	end := e.Leaf.NotAfter.UTC().Format(time.DateOnly)
	left := int(e.Leaf.NotAfter.Sub(now).Hours() / 24)
	how := fmt.Sprintf("ends in %d days, on %s", left, end)
	switch {
	case !now.Before(e.Leaf.NotAfter):
		how = fmt.Sprintf("expired on %s: no device is set up with it", end)
	case left == 0:
		how = "ends within a day, on " + end
	case left == 1:
		how = "ends in 1 day, on " + end
	}
	return fmt.Sprintf("%s (%s) %s; %s", e.Name, e.ID, how, nextStep(e, all))
}

// purge empties the trash of what is older than UndoFor. The encrypted
// backup stays on the disk of the node that wrote it.
func (d *Desk) purge(ctx context.Context) error {
	all, err := d.List(ctx)
	if err != nil {
		return err
	}
	for _, e := range all {
		if e.State != Removed || d.Now().Before(e.UndoUntil()) {
			continue
		}
		err := d.change(ctx, store.AuditRecord{Actor: "system", Action: "cert.purge", Subject: e.ID,
			Detail: map[string]any{"name": e.Name}}, func(tx *store.Tx) error {
			if err := tx.PutSetting(ctx, copyKey(e.ID), ""); err != nil {
				return err
			}
			return tx.DeleteCertificate(ctx, e.ID)
		})
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("empty the trash: %w", err)
		}
	}
	return nil
}

// Banner is something that an operator should see wherever they look.
type Banner = api.Banner

// Banners are what is to be said at present: no certificate, ends that are near
// and backups that nobody has confirmed. It asks nobody, so that a page may call
// it as often as it likes.
func (d *Desk) Banners() []Banner {
	d.mu.Lock()
	all := d.all
	d.mu.Unlock()
	out := []Banner{}
	good := 0
	for _, e := range all {
		if e.State != Active {
			continue
		}
		if e.Serving(d.Now()) {
			good++
		}
		switch due := certs.Reminder(e.Leaf.NotAfter, d.Now()); {
		case due == 0:
			out = append(out, Banner{Code: string(reason.CertExpired), Level: "error", Text: expiryText(e, all, d.Now())})
		case due > 0:
			level := "warn"
			if due <= 7 {
				level = "error"
			}
			out = append(out, Banner{Code: string(reason.CertExpiring), Level: level, Text: expiryText(e, all, d.Now())})
		}
	}
	if good == 0 {
		out = append(out, Banner{Code: string(reason.NoProvisioningCertificate), Level: "error",
			Text: "no provisioning certificate is in use: every hello is kept, and devices wait in pending_certificate"})
	}
	for _, e := range all {
		if e.Desk && e.State != Removed && e.Note.Backup.File != "" && !e.Note.Backup.Confirmed() {
			out = append(out, Banner{Code: "cert_backup_unconfirmed", Level: "warn",
				Text: fmt.Sprintf("the backup of %s (%s) lies only on this server: keep a copy elsewhere, then provctl cert backup "+
					"confirm %s", e.Name, e.ID, e.ID)})
		}
	}
	return out
}
