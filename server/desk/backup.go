package desk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/store"
)

// Backup is the encrypted copy of a certificate and its key, as it was written.
type Backup struct {
	File        string    `json:"file" doc:"its name under backups in the data_dir of the node"`
	Node        string    `json:"node"`
	SHA256      string    `json:"sha256"`
	At          time.Time `json:"at"`
	By          string    `json:"by,omitempty"`
	Handed      string    `json:"handed,omitempty" doc:"how the passphrase was handed over: shown, wrapped to KEY, or 2 of N parts"`
	ConfirmedAt time.Time `json:"confirmed_at,omitzero" doc:"when somebody said that it is kept elsewhere"`
	ConfirmedBy string    `json:"confirmed_by,omitempty"`
}

// Handover says how a new backup's passphrase reaches the operator. The zero
// value shows it.
type Handover struct {
	WrapTo []byte // PEM of an RSA public key or of a certificate over one
	Split  int    // into so many parts, of which any two open the backup; 0: not split
}

// Passphrase opens a backup, in the one form that was asked for. It is nowhere
// else: not in the store, not in the log.
type Passphrase struct {
	Clear   amt.Secret
	Wrapped string // base64, RSA-OAEP with SHA-256
	Shares  []amt.Secret
}

// IsZero reports whether no new backup was written.
func (p Passphrase) IsZero() bool {
	return p.Clear.IsZero() && p.Wrapped == "" && len(p.Shares) == 0
}

// prepare refuses what cannot be done before anything is written.
func (h Handover) prepare(ctx context.Context) (func(amt.Secret) (Passphrase, string, error), error) {
	switch {
	case len(h.WrapTo) > 0 && h.Split != 0:
		return nil, reason.Because(reason.CertInputInvalid, "a passphrase is either wrapped or split")
	case len(h.WrapTo) > 0:
		w, err := certs.NewWrapper(ctx, certs.File{Name: "wrap_to", Data: h.WrapTo})
		if err != nil {
			return nil, err
		}
		return func(s amt.Secret) (Passphrase, string, error) {
			text, err := w.Wrap(s)
			return Passphrase{Wrapped: text}, "wrapped to " + w.Fingerprint[:16], err
		}, nil
	case h.Split != 0:
		if h.Split < 2 || h.Split > certs.MaxShares {
			return nil, reason.Because(reason.CertInputInvalid, "a passphrase is split into 2 to %d parts, not into %d", certs.MaxShares,
				h.Split)
		}
		return func(s amt.Secret) (Passphrase, string, error) {
			shares, err := certs.SplitPassphrase(s, h.Split)
			return Passphrase{Shares: shares}, fmt.Sprintf("2 of %d parts", h.Split), err
		}, nil
	}
	return func(s amt.Secret) (Passphrase, string, error) { return Passphrase{Clear: s}, "shown", nil }, nil
}

// Confirmed reports whether somebody said that the backup is kept elsewhere.
func (b Backup) Confirmed() bool { return !b.ConfirmedAt.IsZero() }

func (d *Desk) backupPath(name string) string { return filepath.Join(d.Backups, filepath.Base(name)) }

// writeBackup makes an encrypted PKCS#12, opens it again, and writes it where
// only this user reads it.
func (d *Desk) writeBackup(ctx context.Context, p *certs.Provisioning) (*certs.Backup, Backup, error) {
	b, err := certs.NewBackup(ctx, p, d.Now())
	if err != nil {
		return nil, Backup{}, err
	}
	sum := sha256.Sum256(b.Data)
	view := Backup{File: fmt.Sprintf("%s-%s.p12", p.ID, hex.EncodeToString(sum[:4])), Node: d.Node, SHA256: hex.EncodeToString(sum[:])}
	if err := os.MkdirAll(d.Backups, 0o700); err != nil {
		return nil, view, fmt.Errorf("make the folder for backups: %w", err)
	}
	path := d.backupPath(view.File)
	if err := writeNew(path, b.Data); err != nil {
		return nil, view, fmt.Errorf("write the backup: %w", err)
	}
	// NewBackup has opened these bytes; what is on the disk has to be the same.
	onDisk, err := os.ReadFile(path)
	if err == nil && !bytes.Equal(onDisk, b.Data) {
		err = errors.New("it reads otherwise than it was written")
	}
	if err != nil {
		_ = os.Remove(path)
		return nil, view, fmt.Errorf("the backup %s does not open again: %w", path, err)
	}
	return b, view, nil
}

// writeNew writes a file that was not there before, and the folder's entry.
func writeNew(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(path)
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// copyKey is where the database keeps the encrypted file, so that every node can
// give it out and the loss of one node's disk takes nothing.
func copyKey(id string) string { return "certificate_backup." + id }

// noteBackup writes down who made a backup, when and where, and keeps a copy.
func (d *Desk) noteBackup(ctx context.Context, tx *store.Tx, id, actor string, n *Note, view Backup, data []byte) error {
	view.At, view.By = tx.Now().UTC(), actor
	n.Backup = view
	sum, err := hex.DecodeString(view.SHA256)
	if err != nil {
		return err
	}
	if err := tx.NoteBackup(ctx, store.CertificateBackup{Certificate: id, Digest: sum, Actor: actor}); err != nil {
		return err
	}
	return tx.PutSetting(ctx, copyKey(id), base64.StdEncoding.EncodeToString(data))
}

// NewBackup writes another backup, for when the passphrase of the first is lost.
func (d *Desk) NewBackup(ctx context.Context, actor, id string, h Handover) (Entry, Passphrase, error) {
	hand, err := h.prepare(ctx)
	if err != nil {
		return Entry{}, Passphrase{}, err
	}
	e, err := d.imported(ctx, id)
	if err != nil {
		return e, Passphrase{}, err
	}
	b, view, err := d.writeBackup(ctx, e.Provisioning)
	if err != nil {
		return e, Passphrase{}, err
	}
	var out Passphrase
	if out, view.Handed, err = hand(b.Passphrase); err == nil {
		err = d.change(ctx, store.AuditRecord{Actor: actor, Action: "cert.backup", Subject: e.ID,
			Detail: map[string]any{"sha256": view.SHA256, "handed": view.Handed}}, func(tx *store.Tx) error {
			n, err := d.note(ctx, tx, e.ID)
			if err != nil {
				return err
			}
			if err := d.noteBackup(ctx, tx, e.ID, actor, &n, view, b.Data); err != nil {
				return err
			}
			e.Note = n
			return d.putNote(ctx, tx, e.ID, n)
		})
	}
	if err != nil && !errors.Is(err, store.ErrUnknownOutcome) {
		_ = os.Remove(d.backupPath(view.File))
	}
	return e, out, err
}

// ReadBackup gives the encrypted file, to be kept elsewhere: the one on this
// node's disk, or the database's copy where that is damaged or lies elsewhere.
func (d *Desk) ReadBackup(ctx context.Context, actor, id string) (Entry, []byte, error) {
	e, err := d.imported(ctx, id)
	if err != nil {
		return e, nil, err
	}
	data, err := d.backupFile(e)
	if err != nil && e.Note.Backup.File != "" {
		var err2 error
		if data, err2 = d.backupCopy(ctx, e); err2 == nil {
			err = nil
		}
	}
	if err != nil {
		return e, nil, err
	}
	err = d.DB.Write(ctx, func(tx *store.Tx) error {
		return tx.Audit(ctx, store.AuditRecord{Actor: actor, Action: "cert.backup_export", Subject: e.ID,
			Detail: map[string]any{"sha256": e.Note.Backup.SHA256}})
	})
	return e, data, err
}

// backupFile reads what lies on this node's disk.
func (d *Desk) backupFile(e Entry) ([]byte, error) {
	b := e.Note.Backup
	if b.File == "" {
		return nil, refused("certificate %s has no backup; write one: provctl cert backup create %s", e.ID, e.ID)
	}
	data, err := os.ReadFile(d.backupPath(b.File))
	if err != nil {
		return nil, refused("the backup %s cannot be read: %v; provctl cert backup export %s gives the database's copy, provctl cert "+
			"backup create %s writes another", d.backupPath(b.File), err, e.ID, e.ID)
	}
	if !b.is(data) {
		return nil, refused("the backup %s is not what was written: its SHA-256 differs; provctl cert backup export %s gives the "+
			"database's copy, provctl cert backup create %s writes another", d.backupPath(b.File), e.ID, e.ID)
	}
	return data, nil
}

// backupCopy reads what the database keeps.
func (d *Desk) backupCopy(ctx context.Context, e Entry) ([]byte, error) {
	text, err := d.stored(ctx, copyKey(e.ID))
	if err != nil {
		return nil, fmt.Errorf("read the backup of %s: %w", e.ID, err)
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil || !e.Note.Backup.is(data) {
		return nil, refused("the backup %s lies on node %s, and the database holds no copy of it; ask there, or write another: provctl "+
			"cert backup create %s", e.Note.Backup.File, e.Note.Backup.Node, e.ID)
	}
	return data, nil
}

func (b Backup) is(data []byte) bool {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]) == b.SHA256
}

// Opened says which file a proof opened.
type Opened string

const (
	OpenedFile Opened = "file" // the one on this node's disk
	OpenedCopy Opened = "copy" // the database's, since the file lies on another node
	OpenedSent Opened = "sent" // one that was handed in
)

// VerifyBackup opens a backup and compares its key with the one in use. data is
// a copy that was kept elsewhere; nil opens the file on this node, or the
// database's copy of one that another node wrote.
func (d *Desk) VerifyBackup(ctx context.Context, id string, data []byte, passphrase amt.Secret) (Entry, Opened, error) {
	e, err := d.imported(ctx, id)
	if err != nil {
		return e, "", err
	}
	opened := OpenedSent
	switch b := e.Note.Backup; {
	case len(data) > 0:
	case b.File == "" || b.Node == d.Node:
		opened = OpenedFile
		data, err = d.backupFile(e)
	default:
		opened = OpenedCopy
		data, err = d.backupCopy(ctx, e)
	}
	if err != nil {
		return e, opened, err
	}
	done, err := d.oneAtATime(ctx)
	if err != nil {
		return e, opened, err
	}
	defer done()
	_, err = certs.VerifyBackup(ctx, data, passphrase, e.Note.Key, d.Now())
	return e, opened, err
}

// ConfirmBackup notes that the backup is kept elsewhere, which ends the
// reminders.
func (d *Desk) ConfirmBackup(ctx context.Context, actor, id string) (Entry, error) {
	e, err := d.imported(ctx, id)
	if err != nil {
		return e, err
	}
	if e.Note.Backup.File == "" {
		return e, refused("certificate %s has no backup; write one: provctl cert backup create %s", e.ID, e.ID)
	}
	err = d.change(ctx, store.AuditRecord{Actor: actor, Action: "cert.backup_confirm", Subject: e.ID}, func(tx *store.Tx) error {
		n, err := d.note(ctx, tx, e.ID)
		if err != nil {
			return err
		}
		n.Backup.ConfirmedAt, n.Backup.ConfirmedBy = tx.Now().UTC(), actor
		e.Note = n
		return d.putNote(ctx, tx, e.ID, n)
	})
	return e, err
}

// RestoreBackup imports a backup again.
func (d *Desk) RestoreBackup(ctx context.Context, actor, name string, data []byte, passphrase amt.Secret) (Imported, error) {
	return d.Import(ctx, ImportOptions{Files: []certs.File{{Name: name, Data: data}}, Passwords: certs.PassphraseForms(passphrase),
		Actor: actor})
}

// imported finds a certificate that was imported here.
func (d *Desk) imported(ctx context.Context, id string) (Entry, error) {
	all, err := d.List(ctx)
	if err != nil {
		return Entry{}, err
	}
	e, err := find(all, id)
	if err == nil && !e.Desk {
		err = refused("%s comes from a file that the configuration names; what was not imported here is not handled here", e.Name)
	}
	return e, err
}
