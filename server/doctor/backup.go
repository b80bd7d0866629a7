package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store"
)

// backup: how old is the last one, is its file still whole, and does the
// passphrase that it is made with open it?
func (v *visit) backup(ctx context.Context) []Check {
	const name = "backup"
	const make1 = "provisiond backup create --config FILE --out amt.backup, every night, and keep it off this machine"
	s, answer, ok := v.known(name)
	if !ok {
		return answer
	}
	b := s.Backup
	if s.BackupProblem != nil {
		return one(name, Warn, make1, "the record of the last backup cannot be read: %v", s.BackupProblem)
	}
	if b.At.IsZero() {
		return one(name, Warn, make1, "there is no backup: the passwords of all devices are in this database alone")
	}
	age := v.now.Sub(b.At)
	said := fmt.Sprintf("the last backup is of %s, %s ago", b.At.UTC().Format("2006-01-02 15:04"), ageWords(age))
	status, hint, found := v.backupFile(ctx, b)
	if found != "" {
		said += "; " + found
	}
	switch {
	case status == Fail:
	case age > backupTooOld:
		status, hint = Fail, make1
	case age > backupOld:
		status, hint = Warn, make1
	case age < -clockWrong:
		status, hint, said = Warn, "is the clock right?",
			fmt.Sprintf("the last backup is of %s, which lies in the future", b.At.UTC().Format("2006-01-02 15:04"))
	}
	return one(name, status, hint, "%s", said)
}

// backupFile looks at the file of the newest backup, where it is still there.
func (v *visit) backupFile(ctx context.Context, b store.LastBackup) (s Status, hint, found string) {
	if b.File == "" {
		return Pass, "", ""
	}
	info, err := os.Stat(b.File)
	switch {
	case errors.Is(err, fs.ErrNotExist): // as it should be: off this machine
		return Pass, "", "its file is not here any more, so whether it opens was not tried"
	case err != nil:
		return Pass, "", fmt.Sprintf("whether it opens was not tried: %v", err)
	case b.Size > 0 && info.Size() != b.Size:
		return Fail, "it is cut or was changed: make another one, and look at it with provisiond backup verify",
			fmt.Sprintf("its file %s has %d bytes and should have %d", b.File, info.Size(), b.Size)
	case v.c.Passphrase == nil:
		return Pass, "", "whether its passphrase opens it is not known without doctor.backup_passphrase_file"
	}
	phrase, err := v.c.Passphrase()
	if err != nil {
		return Warn, "write the passphrase into the file that doctor.backup_passphrase_file names, readable by the daemon alone",
			fmt.Sprintf("the passphrase to open it with cannot be read: %v", err)
	}
	switch err := v.opened.try(ctx, b.File, info, phrase); {
	case err == nil:
		return Pass, "", "it opens, to its end"
	case errors.Is(err, store.ErrPassphrase):
		return Fail, "a backup that nobody can open is none: find the passphrase it was made with, or make another one with the " +
				"passphrase of doctor.backup_passphrase_file",
			fmt.Sprintf("%s does not open: the passphrase of doctor.backup_passphrase_file is not the one it was made with", b.File)
	case errors.Is(err, errLong):
		return Pass, "", "it opens; it is too long to be read to its end here, provisiond backup verify does"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, errBusy):
		return Pass, "", fmt.Sprintf("whether it opens was not tried: %v", err)
	default:
		return Fail, "make another one, and look at it with provisiond backup verify", fmt.Sprintf("%s does not open: %v", b.File, err)
	}
}

var (
	// errLong says that time was up while a backup still opened.
	errLong = errors.New("the backup is too long to be read here")
	// errBusy says that time was up before anything of it was read.
	errBusy = errors.New("there was no time for it")
)

// backupTime bounds the reading of a backup, well within the time of a run.
const backupTime = 8 * time.Second

// openedBackup remembers what became of the last try: a daemon's doctor comes
// every few minutes, and a backup does not change.
type openedBackup struct {
	mu     sync.Mutex
	file   string
	info   fs.FileInfo
	phrase amt.Secret
	err    error
}

// try opens the backup with the passphrase and reads it to its end.
func (o *openedBackup) try(ctx context.Context, file string, info fs.FileInfo, phrase amt.Secret) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file == file && os.SameFile(o.info, info) && o.info.Size() == info.Size() && o.info.ModTime().Equal(info.ModTime()) &&
		o.phrase.Equal(phrase) {
		return o.err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(ctx, backupTime)
	defer cancel()
	r, err := store.VerifyBackup(ctx, patient{ctx, f}, phrase)
	switch late := ctx.Err() != nil && err != nil && !errors.Is(err, store.ErrPassphrase); {
	case late && r.Rows != nil: // its first rows were read
		err = errLong
	case late: // the machine is busy; another time
		return errBusy
	}
	o.file, o.info, o.phrase, o.err = file, info, phrase, err
	return err
}

// patient reads until the time is up.
type patient struct {
	ctx context.Context
	r   io.Reader
}

func (p patient) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	return p.r.Read(b)
}
