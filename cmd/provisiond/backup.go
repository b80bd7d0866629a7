package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/typed"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/seal"
)

var errNoTerminal = errors.New("there is no terminal to ask for the passphrase on: give --passphrase-file")

func newBackup() *cobra.Command {
	root := &cobra.Command{Use: "backup", Short: "Save the database with its keys in one file, check and restore it",
		Long: `A backup is one file, sealed under a passphrase: the whole database and the master
key that opens its passwords. It is made from either engine, while the daemon runs
or not, and restored on either: this is also the way from SQLite to Postgres.`}
	root.AddCommand(newBackupCreate(), newBackupVerify(), newBackupRestore())
	return root
}

// passphraseFlag adds --passphrase-file. The passphrase itself is never an
// argument: arguments are visible to every user of the machine.
func passphraseFlag(cmd *cobra.Command) func(twice bool) (amt.Secret, error) {
	file := cmd.Flags().String("passphrase-file", "", "read the passphrase from `FILE` instead of asking for it")
	return func(twice bool) (amt.Secret, error) {
		if *file == "" {
			return askPassphrase(cmd.ErrOrStderr(), twice)
		}
		phrase, err := passphraseIn(*file)
		if err != nil {
			return amt.Secret{}, fmt.Errorf("--passphrase-file: %w", err)
		}
		return phrase, nil
	}
}

// passphraseIn is the passphrase in a file.
func passphraseIn(file string) (amt.Secret, error) {
	line, err := passwordIn(file)
	return amt.NewSecret(line), err
}

// passwordIn reads a file as a person would type what stands in it.
func passwordIn(file string) (string, error) {
	line, err := typed.PasswordFile(file)
	switch {
	case err != nil:
		return "", err
	case line == "":
		return "", fmt.Errorf("%s is empty", file)
	}
	return line, nil
}

// askPassphrase asks on the terminal, twice when a typing error would lock the
// file for ever.
func askPassphrase(out io.Writer, twice bool) (amt.Secret, error) {
	first, err := readHidden(out, "Passphrase of the backup: ")
	if err != nil || !twice {
		return first, err
	}
	second, err := readHidden(out, "Once more: ")
	if err == nil && !second.Equal(first) {
		err = errors.New("the two passphrases differ")
	}
	return second, err
}

// storeConfig loads the configuration and minds only what concerns the
// database: a backup must be possible while a certificate's file is away.
func storeConfig(cmd *cobra.Command, given func() (path string, flags map[string]string)) (Config, error) {
	path, flags := given()
	cfg, _, problems := Load(cmd.Context(), path, os.Environ(), flags)
	problems = slices.DeleteFunc(problems, func(p Problem) bool {
		return p.Key != "" && !strings.HasPrefix(p.Key, "data_dir") && !strings.HasPrefix(p.Key, "database") &&
			!strings.HasPrefix(p.Key, "master_key")
	})
	for _, p := range problems {
		fmt.Fprintln(cmd.ErrOrStderr(), p)
	}
	if len(problems) > 0 {
		return cfg, errConfig
	}
	return cfg, nil
}

// presentKeyring opens the master key and never makes one.
func presentKeyring(ctx context.Context, cfg Config) (*seal.Keyring, error) {
	src := seal.Source{File: string(cfg.MasterKey.File), Env: cfg.MasterKey.Env, Credential: cfg.MasterKey.Credential,
		Command: cfg.MasterKey.Exec}
	if src.File == "" && src.Env == "" && src.Credential == "" && len(src.Command) == 0 {
		src.File = filepath.Join(cfg.DataDir, "master.key")
	}
	master, err := seal.Load(ctx, src)
	if err != nil {
		return nil, err
	}
	return seal.New(master)
}

// openBeside opens the database that the daemon may be running on.
func openBeside(ctx context.Context, cfg Config) (*store.DB, error) {
	keys, err := presentKeyring(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return store.Open(ctx, store.Options{URL: string(cfg.Database.URL), Dir: cfg.DataDir, Keys: keys, Log: zap.NewNop(), Beside: true})
}

// onStore makes a command of one that needs the database and no daemon.
func onStore(cmd *cobra.Command, do func(cmd *cobra.Command, db *store.DB) error) *cobra.Command {
	given := configFlags(cmd)
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := storeConfig(cmd, given)
		if err != nil {
			return err
		}
		db, err := openBeside(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		defer db.Close()
		return do(cmd, db)
	}
	return cmd
}

func newBackupCreate() *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "Write a backup and open it again; the daemon may go on running"}
	out := cmd.Flags().StringP("out", "o", "", "write the backup to `FILE`; one that is there is replaced once the new one is whole")
	passphrase := passphraseFlag(cmd)
	_ = cmd.MarkFlagRequired("out")
	return onStore(cmd, func(cmd *cobra.Command, db *store.DB) error {
		phrase, err := passphrase(true)
		if err != nil {
			return err
		}
		report, size, err := writeBackup(cmd.Context(), db, *out, phrase)
		if err != nil {
			return err
		}
		name, err := filepath.Abs(*out)
		if err != nil {
			name = *out
		}
		ctx := cmd.Context()
		err = db.Write(ctx, func(tx *store.Tx) error {
			return errors.Join(
				tx.PutLastBackup(ctx, store.LastBackup{At: report.Created, File: name, Size: size}),
				tx.Audit(ctx, store.AuditRecord{Actor: "command line", Action: "backup.create", Subject: name,
					Detail: map[string]any{"devices": report.Rows["devices"]}}))
		})
		if err != nil {
			return fmt.Errorf("the backup %s is whole, but that it was made could not be noted: %w", *out, err)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %d bytes, verified\n", *out, size)
		printBackup(cmd.OutOrStdout(), report)
		return nil
	})
}

// writeBackup writes beside the name, opens what it wrote, and only then gives
// it the name: there is never half a backup under it.
func writeBackup(ctx context.Context, db *store.DB, name string, phrase amt.Secret) (r store.BackupReport, size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*") // mode 0600
	if err != nil {
		return r, 0, fmt.Errorf("write the backup: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := db.Backup(ctx, f, phrase, buildVersion()); err != nil {
		return r, 0, err
	}
	if err := f.Sync(); err != nil {
		return r, 0, fmt.Errorf("write the backup: %w", err)
	}
	if size, err = f.Seek(0, io.SeekCurrent); err != nil {
		return r, 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return r, 0, err
	}
	if r, err = store.VerifyBackup(ctx, f, phrase); err != nil {
		return r, 0, fmt.Errorf("the backup was written and does not open again: %w", err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return r, 0, fmt.Errorf("write the backup: %w", err)
	}
	if d, err := os.Open(filepath.Dir(name)); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
	return r, size, nil
}

func newBackupVerify() *cobra.Command {
	cmd := &cobra.Command{Use: "verify FILE", Short: "Read a backup to its end, open every password in it and walk its audit chain",
		Args: cobra.ExactArgs(1)}
	passphrase := passphraseFlag(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f, phrase, err := openBackup(args[0], passphrase)
		if err != nil {
			return err
		}
		defer f.Close()
		r, err := store.VerifyBackup(cmd.Context(), f, phrase)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), map[string]any{"created": r.Created, "engine": r.Engine, "schema": r.Schema,
				"program": r.Program,
				"rows":    r.Rows, "opened": r.Opened, "audit": r.Audit})
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is whole\n", args[0])
		printBackup(cmd.OutOrStdout(), r)
		return nil
	}
	return cmd
}

func openBackup(name string, passphrase func(bool) (amt.Secret, error)) (*os.File, amt.Secret, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, amt.Secret{}, err
	}
	// Asked before the passphrase: nobody shall type one for a wrong file.
	if err = store.IsBackup(f); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return nil, amt.Secret{}, fmt.Errorf("%s: %w", name, err)
	}
	phrase, err := passphrase(false)
	if err != nil {
		_ = f.Close()
	}
	return f, phrase, err
}

func newBackupRestore() *cobra.Command {
	cmd := &cobra.Command{Use: "restore FILE", Short: "Fill the empty database that the configuration names", Args: cobra.ExactArgs(1),
		Long: `Fills the empty database that the configuration names, SQLite in data_dir or
Postgres, whatever engine the backup came from. The file is verified to its end
before the database is touched. What was sealed is given to the master key of the
configuration, which is made when there is none.

Stop the daemon that the backup was taken from before the restored one starts:
two of them would set up the same devices with different passwords.`}
	given := configFlags(cmd)
	passphrase := passphraseFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := storeConfig(cmd, given)
		if err != nil {
			return err
		}
		f, phrase, err := openBackup(args[0], passphrase)
		if err != nil {
			return err
		}
		defer f.Close()
		start := time.Now()
		r, err := store.RestoreBackup(cmd.Context(), f, phrase, func() (store.Options, error) {
			if err := vacant(cfg); err != nil {
				return store.Options{}, err
			}
			if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
				return store.Options{}, fmt.Errorf("data_dir: %w", err)
			}
			keys, err := keyring(cmd.Context(), cfg)
			return store.Options{URL: string(cfg.Database.URL), Dir: cfg.DataDir, Keys: keys, Log: zap.NewNop()}, err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		where := filepath.Join(cfg.DataDir, store.DatabaseFile)
		if cfg.Database.URL != "" {
			where = cfg.Database.URL.String()
		}
		fmt.Fprintf(cmd.OutOrStdout(), "restored into %s in %s\n", where, time.Since(start).Round(10*time.Millisecond))
		printBackup(cmd.OutOrStdout(), r)
		fmt.Fprintln(cmd.OutOrStdout(), "Tokens work as before. Next: provisiond doctor, then provisiond serve.")
		return nil
	}
	return cmd
}

// vacant refuses a data directory with a database before anything is opened or
// a key made in it.
func vacant(cfg Config) error {
	if cfg.Database.URL != "" {
		return nil
	}
	file := filepath.Join(cfg.DataDir, store.DatabaseFile)
	switch _, err := os.Stat(file); {
	case err == nil:
		return fmt.Errorf("%s is there already, and a backup is restored into an empty database only: name another data_dir, or move it "+
			"away", file)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}

func printBackup(out io.Writer, r store.BackupReport) {
	fmt.Fprintf(out, "  taken %s from %s, schema %d, by provisiond %s\n  %d devices, %d passwords and keys opened, %d audit records in "+
		"an unbroken chain\n",
		r.Created.Format("2006-01-02 15:04:05 MST"), r.Engine, r.Schema, r.Program, r.Rows["devices"], r.Opened, r.Audit)
}
