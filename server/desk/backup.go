package desk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/store"
)

// Backup is the encrypted copy of a certificate and its key, as it was written.
type Backup struct {
	File        string    `json:"file" doc:"its name under backups in the data_dir of the node"`
	Node        string    `json:"node"`
	SHA256      string    `json:"sha256"`
	At          time.Time `json:"at"`
	ConfirmedAt time.Time `json:"confirmed_at,omitzero" doc:"when somebody said that it is kept elsewhere"`
	ConfirmedBy string    `json:"confirmed_by,omitempty"`
}

// Confirmed reports whether somebody said that the backup is kept elsewhere.
func (b Backup) Confirmed() bool { return !b.ConfirmedAt.IsZero() }

func (d *Desk) backupPath(name string) string { return filepath.Join(d.Backups, filepath.Base(name)) }

// writeBackup makes an encrypted PKCS#12, opens it again, and writes it where
// only this user reads it.
func (d *Desk) writeBackup(p *certs.Provisioning) (*certs.Backup, Backup, error) {
	b, err := certs.NewBackup(p, d.Now())
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

// NewBackup writes another backup, for when the passphrase of the first is lost.
func (d *Desk) NewBackup(ctx context.Context, actor, id string) (Entry, amt.Secret, error) {
	e, err := d.imported(ctx, id)
	if err != nil {
		return e, amt.Secret{}, err
	}
	b, view, err := d.writeBackup(e.Provisioning)
	if err != nil {
		return e, amt.Secret{}, err
	}
	err = d.change(ctx, store.AuditRecord{Actor: actor, Action: "cert.backup", Subject: e.ID, Detail: map[string]any{"sha256": view.SHA256}}, func(tx *store.Tx) error {
		n, err := d.note(ctx, tx, e.ID)
		if err != nil {
			return err
		}
		view.At = tx.Now().UTC()
		n.Backup = view
		e.Note = n
		sum, err := hex.DecodeString(view.SHA256)
		if err != nil {
			return err
		}
		if err := tx.NoteBackup(ctx, store.CertificateBackup{Certificate: e.ID, Digest: sum, Actor: actor}); err != nil {
			return err
		}
		return d.putNote(ctx, tx, e.ID, n)
	})
	return e, b.Passphrase, err
}

// ReadBackup gives the encrypted file, to be kept elsewhere.
func (d *Desk) ReadBackup(ctx context.Context, actor, id string) (Entry, []byte, error) {
	e, err := d.imported(ctx, id)
	if err != nil {
		return e, nil, err
	}
	data, err := d.backupFile(e)
	if err != nil {
		return e, nil, err
	}
	err = d.DB.Write(ctx, func(tx *store.Tx) error {
		return tx.Audit(ctx, store.AuditRecord{Actor: actor, Action: "cert.backup_export", Subject: e.ID, Detail: map[string]any{"sha256": e.Note.Backup.SHA256}})
	})
	return e, data, err
}

func (d *Desk) backupFile(e Entry) ([]byte, error) {
	b := e.Note.Backup
	if b.File == "" {
		return nil, refused("certificate %s has no backup; write one: provctl cert backup create %s", e.ID, e.ID)
	}
	data, err := os.ReadFile(d.backupPath(b.File))
	switch {
	case errors.Is(err, fs.ErrNotExist) && b.Node != d.Node:
		return nil, refused("the backup %s lies on node %s; ask there, or give the file", b.File, b.Node)
	case err != nil:
		return nil, refused("the backup %s cannot be read: %v", d.backupPath(b.File), err)
	}
	sum := sha256.Sum256(data)
	if hex.EncodeToString(sum[:]) != b.SHA256 {
		return nil, refused("the backup %s is not what was written: its SHA-256 differs; write another: provctl cert backup create %s", d.backupPath(b.File), e.ID)
	}
	return data, nil
}

// VerifyBackup opens a backup and compares its key with the one in use. data is
// a copy that was kept elsewhere; nil opens the file on this node.
func (d *Desk) VerifyBackup(ctx context.Context, id string, data []byte, passphrase amt.Secret) (Entry, error) {
	e, err := d.imported(ctx, id)
	if err != nil {
		return e, err
	}
	if len(data) == 0 {
		if data, err = d.backupFile(e); err != nil {
			return e, err
		}
	}
	_, err = certs.VerifyBackup(data, passphrase, e.Note.Key, d.Now())
	return e, err
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
	return d.Import(ctx, ImportOptions{Files: []certs.File{{Name: name, Data: data}}, Passwords: certs.PassphraseForms(passphrase), Actor: actor})
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
