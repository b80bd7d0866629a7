package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
)

// counts are the largest numbers first, a few of them.
func counts(m map[string]int) string {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		if m[a] != m[b] {
			return m[b] - m[a]
		}
		return strings.Compare(a, b)
	})
	var out []string
	for i, k := range keys {
		if i == 4 {
			out = append(out, fmt.Sprintf("%d more", len(keys)-i))
			break
		}
		out = append(out, fmt.Sprintf("%s: %d", k, m[k]))
	}
	return dash(strings.Join(out, ", "))
}

// outFile is a file that was not there before; nil writes nowhere.
type outFile struct {
	f    *os.File
	flag string
}

// newFile makes the file before anything is asked for, so that nothing is lost
// to a wrong name or a full disk.
func newFile(flag, name string) (*outFile, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, unusable("%s: %w", flag, err)
	}
	return &outFile{f, flag}, nil
}

// clientAndFile makes the new file of --out, if one is named, and then finds the
// server: without one no file is left behind.
func (p *program) clientAndFile(name string) (*api.Client, *outFile, error) {
	out, err := newFile("--out", name)
	if err != nil {
		return nil, nil, err
	}
	c, err := p.client()
	if err != nil {
		return nil, nil, out.drop(err)
	}
	return c, out, nil
}

// drop takes the file away again and passes err on.
func (o *outFile) drop(err error) error {
	if o != nil {
		_ = o.f.Close()
		_ = os.Remove(o.f.Name())
	}
	return err
}

func (o *outFile) write(data []byte) error {
	if o == nil {
		return nil
	}
	_, err := o.f.Write(data)
	if err2 := o.f.Close(); err == nil {
		err = err2
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o.flag, err)
	}
	return nil
}

func (p *program) certBackup() *cobra.Command {
	return group("backup", "Encrypted copies of certificates and their keys",
		p.backupList(), p.backupVerify(), p.backupExport(), p.backupConfirm(), p.backupCreate(), p.backupRestore())
}

func (p *program) backupList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Backups and whether they are kept elsewhere", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			l, err := c.Backups(cmd.Context())
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(l.Backups)
			}
			var t table
			t.row("CERTIFICATE", "FILE", "NODE", "WRITTEN", "CONFIRMED", "BY")
			for _, b := range l.Backups {
				t.row(b.Certificate, b.File, b.Node, when(b.At), when(b.ConfirmedAt), dash(b.ConfirmedBy))
			}
			t.print(clean{p.out})
			return nil
		},
	}
}

func (p *program) backupVerify() *cobra.Command {
	var file, passphrase string
	cmd := &cobra.Command{
		Use: "verify ID", Short: "Open a backup, on the server or a copy of it, and compare its key", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			proof, err := p.proof(file, passphrase)
			if err != nil {
				return err
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			b, err := c.VerifyBackup(cmd.Context(), args[0], proof)
			if err != nil {
				return p.withFindings(err)
			}
			if p.json {
				return p.printJSON(b)
			}
			what := "the backup on " + b.Node
			switch {
			case file != "":
				what = file
			case b.Opened == "copy":
				what = "the database's copy of the backup (the file lies on " + b.Node + ")"
			}
			p.say("%s opens and holds the key of %s\n", what, b.Certificate)
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "a copy that was kept elsewhere")
	passphraseFlag(cmd, &passphrase)
	return cmd
}

func passphraseFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "passphrase-file", "", "a `FILE` with the passphrase (else PROVISIOND_BACKUP_PASSPHRASE, or asked for)")
}

func (p *program) proof(file, passphrase string) (api.BackupProof, error) {
	var proof api.BackupProof
	if file != "" {
		up, err := uploads([]string{file})
		if err != nil {
			return proof, err
		}
		proof.Name, proof.Data = up[0].Name, up[0].Data
	}
	var err error
	proof.Passphrase, err = p.onePassword(passphrase, "PROVISIOND_BACKUP_PASSPHRASE", "passphrase of the backup, or two parts of it")
	return proof, err
}

func (p *program) backupExport() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "export ID --out FILE", Short: "Copy the encrypted backup off the server", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usage("--out is needed")
			}
			c, out, err := p.clientAndFile(file)
			if err != nil {
				return err
			}
			b, err := c.Backup(cmd.Context(), args[0])
			if err != nil {
				return out.drop(err)
			}
			if err := out.write(b.Data); err != nil {
				return &exitError{exitFailed, err}
			}
			if p.json {
				return p.printJSON(b.BackupView)
			}
			p.say("%s: the encrypted backup of %s, sha256 %s\nit needs the passphrase that the import showed; keep both elsewhere, then: provctl cert backup confirm %s\n", file, b.Certificate, b.SHA256, b.Certificate)
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "out", "", "write it to a new `FILE`")
	return cmd
}

func (p *program) backupConfirm() *cobra.Command {
	return &cobra.Command{
		Use: "confirm ID", Short: "Say that the backup is kept elsewhere, which ends the reminders", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			b, err := c.ConfirmBackup(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(b)
			}
			p.say("noted: the backup of %s is kept elsewhere, says %s\n", b.Certificate, b.ConfirmedBy)
			return nil
		},
	}
}

func (p *program) backupCreate() *cobra.Command {
	var wrapTo string
	var h api.Handover
	cmd := &cobra.Command{
		Use: "create ID", Short: "Write another backup, for when a passphrase is lost", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.wrapKey(wrapTo, &h); err != nil {
				return err
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			b, err := c.CreateBackup(cmd.Context(), args[0], h)
			if err != nil {
				return p.withFindings(err)
			}
			if p.json {
				return p.printJSON(b)
			}
			p.say("encrypted backup: backups/%s in the data_dir of %s, opened again to prove it\n", b.File, b.Node)
			p.printPassphrase(b.Passphrases, b.Handed)
			p.say("keep a copy elsewhere: provctl cert backup export %s --out FILE; then: provctl cert backup confirm %s\n", b.Certificate, b.Certificate)
			return nil
		},
	}
	handoverFlags(cmd, &wrapTo, &h)
	return cmd
}

func handoverFlags(cmd *cobra.Command, wrapTo *string, h *api.Handover) {
	cmd.Flags().StringVar(wrapTo, "wrap-to", "", "a `FILE` with an RSA public key or a certificate: the backup's passphrase is encrypted to it and not shown")
	cmd.Flags().IntVar(&h.Split, "split", 0, "split the backup's passphrase into `N` parts for different people; any two of them open the backup")
}

// wrapKey reads the public key that a passphrase is wrapped to. The server is
// sent that alone, whatever else the file holds.
func (p *program) wrapKey(file string, h *api.Handover) error {
	if file == "" {
		return nil
	}
	f, err := certs.ReadFile(file)
	if err != nil {
		return unusable("--wrap-to: %w", err)
	}
	w, err := certs.NewWrapper(p.ctx, f)
	if err != nil {
		return unusable("--wrap-to: %w", err)
	}
	text, err := w.PEM()
	h.WrapTo = string(text)
	return err
}

func (p *program) printPassphrase(f api.Passphrases, handed string) {
	switch {
	case f.Wrapped != "":
		p.say("passphrase, %s: %s\n", handed, f.Wrapped)
		p.say("open it with your key: base64 -d | openssl pkeyutl -decrypt -inkey KEY -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256\n")
	case len(f.Shares) > 0:
		p.say("passphrase in %d parts, shown this once; give each to somebody else. Any two, typed one after the other, open the backup:\n", len(f.Shares))
		for _, s := range f.Shares {
			p.say("  %s\n", s)
		}
	default:
		p.say("passphrase, shown this once: %s\n", f.Passphrase)
	}
}

func (p *program) backupRestore() *cobra.Command {
	var passphrase string
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Import a backup again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			proof, err := p.proof(args[0], passphrase)
			if err != nil {
				return err
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			r, err := c.RestoreBackup(cmd.Context(), proof)
			if err != nil {
				return p.withFindings(err)
			}
			return p.printImport(r)
		},
	}
	passphraseFlag(cmd, &passphrase)
	return cmd
}
