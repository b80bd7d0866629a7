package rest

import (
	"context"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/desk"
)

func (s *Server) listBackups(ctx context.Context, _ *none) (api.BackupList, error) {
	out := api.BackupList{Backups: []api.BackupView{}}
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
	Body *api.Handover
}

func (s *Server) createBackup(ctx context.Context, in *newBackup) (api.BackupFile, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.BackupFile{}, err
	}
	e, passphrase, err := d.NewBackup(ctx, actor(ctx), in.ID, handover(in.Body))
	if err != nil {
		return api.BackupFile{}, err
	}
	return api.BackupFile{BackupView: toBackup(e.ID, e.Note.Backup), Passphrases: toPassphrases(passphrase)}, nil
}

func handover(h *api.Handover) desk.Handover {
	if h == nil {
		return desk.Handover{}
	}
	return desk.Handover{WrapTo: []byte(h.WrapTo), Split: h.Split}
}

// toPassphrases is the one place where a backup's passphrase is shown.
func toPassphrases(p desk.Passphrase) api.Passphrases {
	out := api.Passphrases{Passphrase: p.Clear.Reveal(), Wrapped: p.Wrapped}
	for _, s := range p.Shares {
		out.Shares = append(out.Shares, s.Reveal())
	}
	return out
}

func (s *Server) getBackup(ctx context.Context, in *certID) (api.BackupFile, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.BackupFile{}, err
	}
	e, data, err := d.ReadBackup(ctx, actor(ctx), in.ID)
	if err != nil {
		return api.BackupFile{}, err
	}
	return api.BackupFile{BackupView: toBackup(e.ID, e.Note.Backup), Data: data}, nil
}

func (s *Server) verifyBackup(ctx context.Context, in *certInput[api.BackupProof]) (api.BackupProven, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.BackupProven{}, err
	}
	e, opened, err := d.VerifyBackup(ctx, in.ID, in.Body.Data, amt.NewSecret(in.Body.Passphrase))
	if err != nil {
		return api.BackupProven{}, err
	}
	return api.BackupProven{BackupView: toBackup(e.ID, e.Note.Backup), Opened: string(opened)}, nil
}

func (s *Server) confirmBackup(ctx context.Context, in *certID) (api.BackupView, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.BackupView{}, err
	}
	e, err := d.ConfirmBackup(ctx, actor(ctx), in.ID)
	if err != nil {
		return api.BackupView{}, err
	}
	return toBackup(e.ID, e.Note.Backup), nil
}

func (s *Server) restoreBackup(ctx context.Context, in *bodyInput[api.BackupProof]) (api.ImportResult, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.ImportResult{}, err
	}
	var out desk.Imported
	out, err = d.RestoreBackup(ctx, actor(ctx), api.Clean(in.Body.Name), in.Body.Data, amt.NewSecret(in.Body.Passphrase))
	return s.importResult(ctx, out, err)
}
