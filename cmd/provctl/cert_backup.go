package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
)

func (p *program) certBackup() *cobra.Command {
	var file string
	return group("backup", "Encrypted copies of certificates and their keys",
		list(p, verb[[]api.BackupView]{
			use: "list", short: "Backups and whether they are kept elsewhere",
			ask: func(ctx context.Context, c *api.Client, _ []string) ([]api.BackupView, error) {
				l, err := c.Backups(ctx)
				return l.Backups, err
			},
		}, "", "CERTIFICATE|FILE|NODE|WRITTEN|CONFIRMED|BY", func(b api.BackupView) []any {
			return []any{b.Certificate, b.File, b.Node, b.At, b.ConfirmedAt, b.ConfirmedBy}
		}),
		p.backupVerify(),
		verb[api.BackupFile]{
			use: "export ID --out FILE", short: "Copy the encrypted backup off the server", args: cobra.ExactArgs(1),
			flags: func(f *pflag.FlagSet) { outFlag(f, &file, "it") },
			check: func([]string) error {
				if file == "" {
					return usage("--out is needed")
				}
				return nil
			},
			ask: one((*api.Client).Backup), out: &file,
			bytes: func(b api.BackupFile) []byte { return b.Data },
			json:  func(b api.BackupFile) any { return b.BackupView },
			show: func(b api.BackupFile) {
				p.say("%s: the encrypted backup of %s, sha256 %s\n", file, b.Certificate, b.SHA256)
				p.say("it needs the passphrase that the import showed; keep both elsewhere, then: provctl cert backup confirm %s\n",
					b.Certificate)
			},
		}.command(p),
		verb[api.BackupView]{
			use: "confirm ID", short: "Say that the backup is kept elsewhere, which ends the reminders", args: cobra.ExactArgs(1),
			ask: one((*api.Client).ConfirmBackup),
			show: func(b api.BackupView) {
				p.say("noted: the backup of %s is kept elsewhere, says %s\n", b.Certificate, b.ConfirmedBy)
			},
		}.command(p),
		p.backupCreate(), p.backupRestore())
}

func (p *program) backupVerify() *cobra.Command {
	var file string
	var proof proofFlags
	return verb[api.BackupProven]{
		use: "verify ID", short: "Open a backup, on the server or a copy of it, and compare its key", args: cobra.ExactArgs(1),
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&file, "file", "", "a copy that was kept elsewhere")
			proof.add(f)
		},
		check: func([]string) error { return proof.read(p, file) },
		ask: func(ctx context.Context, c *api.Client, args []string) (api.BackupProven, error) {
			return c.VerifyBackup(ctx, args[0], proof.BackupProof)
		},
		findings: true,
		show: func(b api.BackupProven) {
			what := "the backup on " + b.Node
			switch {
			case file != "":
				what = file
			case b.Opened == "copy":
				what = "the database's copy of the backup (the file lies on " + b.Node + ")"
			}
			p.say("%s opens and holds the key of %s\n", what, b.Certificate)
		},
	}.command(p)
}

// proofFlags are what a backup is opened with.
type proofFlags struct {
	api.BackupProof
	passphrase string // its file
}

func (r *proofFlags) add(f *pflag.FlagSet) {
	f.StringVar(&r.passphrase, "passphrase-file", "", "a `FILE` with the passphrase (else PROVISIOND_BACKUP_PASSPHRASE, or asked for)")
}

func (r *proofFlags) read(p *program, file string) error {
	if file != "" {
		up, err := uploads([]string{file})
		if err != nil {
			return err
		}
		r.Name, r.Data = up[0].Name, up[0].Data
	}
	var err error
	r.Passphrase, err = p.onePassword(r.passphrase, "PROVISIOND_BACKUP_PASSPHRASE", "passphrase of the backup, or two parts of it")
	return err
}

func (p *program) backupCreate() *cobra.Command {
	var h handoverFlags
	return verb[api.BackupFile]{
		use: "create ID", short: "Write another backup, for when a passphrase is lost", args: cobra.ExactArgs(1),
		flags: h.add, check: func([]string) error { return h.read(p.ctx) }, findings: true,
		ask: func(ctx context.Context, c *api.Client, args []string) (api.BackupFile, error) {
			return c.CreateBackup(ctx, args[0], h.Handover)
		},
		show: func(b api.BackupFile) { p.sayBackup(&b.BackupView, b.Passphrases, b.Certificate) },
	}.command(p)
}

// handoverFlags say to whom the passphrase of a backup is handed.
type handoverFlags struct {
	api.Handover
	wrapTo string // a file
}

func (h *handoverFlags) add(f *pflag.FlagSet) {
	f.StringVar(&h.wrapTo, "wrap-to", "",
		"a `FILE` with an RSA public key or a certificate: the backup's passphrase is encrypted to it and not shown")
	f.IntVar(&h.Split, "split", 0, "split the backup's passphrase into `N` parts for different people; any two of them open the backup")
}

// read reads the public key that a passphrase is wrapped to. The server is sent
// that alone, whatever else the file holds.
func (h *handoverFlags) read(ctx context.Context) error {
	if h.wrapTo == "" {
		return nil
	}
	f, err := certs.ReadFile(h.wrapTo)
	if err != nil {
		return unusable("--wrap-to: %w", err)
	}
	w, err := certs.NewWrapper(ctx, f)
	if err != nil {
		return unusable("--wrap-to: %w", err)
	}
	text, err := w.PEM()
	h.WrapTo = string(text)
	return err
}

// sayBackup says where a new backup lies and what opens it.
func (p *program) sayBackup(b *api.BackupView, f api.Passphrases, id string) {
	p.say("encrypted backup: backups/%s in the data_dir of %s, opened again to prove it\n", b.File, b.Node)
	switch {
	case f.Wrapped != "":
		p.say("passphrase, %s: %s\n", b.Handed, f.Wrapped)
		p.say("open it with your key: base64 -d | openssl pkeyutl -decrypt -inkey KEY -pkeyopt rsa_padding_mode:oaep -pkeyopt " +
			"rsa_oaep_md:sha256\n")
	case len(f.Shares) > 0:
		p.say("passphrase in %d parts, shown this once; give each to somebody else. Any two, typed one after the other, open the backup:\n",
			len(f.Shares))
		for _, s := range f.Shares {
			p.say("  %s\n", s)
		}
	default:
		p.say("passphrase, shown this once: %s\n", f.Passphrase)
	}
	p.say("keep a copy elsewhere: provctl cert backup export %s --out FILE; then: provctl cert backup confirm %s\n", id, id)
}

func (p *program) backupRestore() *cobra.Command {
	var proof proofFlags
	return verb[api.ImportResult]{
		use: "restore FILE", short: "Import a backup again", args: cobra.ExactArgs(1),
		flags: proof.add, check: func(args []string) error { return proof.read(p, args[0]) }, findings: true,
		ask: func(ctx context.Context, c *api.Client, _ []string) (api.ImportResult, error) {
			return c.RestoreBackup(ctx, proof.BackupProof)
		},
		show: p.sayImport, status: wouldBeRefused,
	}.command(p)
}
