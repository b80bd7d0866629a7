package api

import (
	"context"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/desk"
)

func (s *Server) listBackups(ctx context.Context, _ *none) (BackupList, error) {
	out := BackupList{Backups: []BackupView{}}
	d, err := s.theDesk()
	if err != nil {
		return out, err
	}
	all, err := d.List(ctx)
	for _, e := range all {
		if e.Note.Backup.File != "" {
			out.Backups = append(out.Backups, toBackup(e.ID, e.Note.Backup))
		}
	}
	return out, err
}

// newBackup names a certificate; how the passphrase is handed over may be left out.
type newBackup struct {
	ID   string `path:"id" maxLength:"64"`
	Body *Handover
}

func (s *Server) createBackup(ctx context.Context, in *newBackup) (BackupFile, error) {
	d, err := s.theDesk()
	if err != nil {
		return BackupFile{}, err
	}
	e, passphrase, err := d.NewBackup(ctx, actor(ctx), in.ID, in.Body.desk())
	if err != nil {
		return BackupFile{}, err
	}
	return BackupFile{BackupView: toBackup(e.ID, e.Note.Backup), Passphrases: toPassphrases(passphrase)}, nil
}

func (h *Handover) desk() desk.Handover {
	if h == nil {
		return desk.Handover{}
	}
	return desk.Handover{WrapTo: []byte(h.WrapTo), Split: h.Split}
}

// toPassphrases is the one place where a backup's passphrase is shown.
func toPassphrases(p desk.Passphrase) Passphrases {
	out := Passphrases{Passphrase: p.Clear.Reveal(), Wrapped: p.Wrapped}
	for _, s := range p.Shares {
		out.Shares = append(out.Shares, s.Reveal())
	}
	return out
}

func (s *Server) getBackup(ctx context.Context, in *certID) (BackupFile, error) {
	d, err := s.theDesk()
	if err != nil {
		return BackupFile{}, err
	}
	e, data, err := d.ReadBackup(ctx, actor(ctx), in.ID)
	if err != nil {
		return BackupFile{}, err
	}
	return BackupFile{BackupView: toBackup(e.ID, e.Note.Backup), Data: data}, nil
}

func (s *Server) verifyBackup(ctx context.Context, in *certInput[BackupProof]) (BackupProven, error) {
	d, err := s.theDesk()
	if err != nil {
		return BackupProven{}, err
	}
	e, opened, err := d.VerifyBackup(ctx, in.ID, in.Body.Data, amt.NewSecret(in.Body.Passphrase))
	if err != nil {
		return BackupProven{}, err
	}
	return BackupProven{toBackup(e.ID, e.Note.Backup), string(opened)}, nil
}

func (s *Server) confirmBackup(ctx context.Context, in *certID) (BackupView, error) {
	d, err := s.theDesk()
	if err != nil {
		return BackupView{}, err
	}
	e, err := d.ConfirmBackup(ctx, actor(ctx), in.ID)
	if err != nil {
		return BackupView{}, err
	}
	return toBackup(e.ID, e.Note.Backup), nil
}

func (s *Server) restoreBackup(ctx context.Context, in *bodyInput[BackupProof]) (ImportResult, error) {
	d, err := s.theDesk()
	if err != nil {
		return ImportResult{}, err
	}
	var out desk.Imported
	out, err = d.RestoreBackup(ctx, actor(ctx), clean(in.Body.Name), in.Body.Data, amt.NewSecret(in.Body.Passphrase))
	return s.importResult(ctx, out, err)
}
