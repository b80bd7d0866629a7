package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

// ErrPassphrase says that the backup has another passphrase.
var ErrPassphrase = seal.ErrPassphrase

// VerifyBackup reads a backup to its end, opens every envelope with the keys in
// the backup, and walks the backup's audit chain. RestoreBackup can restore
// every backup that VerifyBackup accepts.
func VerifyBackup(ctx context.Context, in io.Reader, passphrase amt.Secret) (BackupReport, error) {
	c := &checker{prev: []byte{}}
	r, err := walkBackup(in, passphrase, visitor{
		master: func(k *seal.Keyring) error { c.keys = k; return nil },
		table:  func(table, []column) error { return ctx.Err() },
		row:    c.row,
	})
	if err == nil {
		err = c.end()
	}
	r.Opened, r.Audit = c.opened, c.audit
	return r, err
}

type sealedRow struct {
	at     seal.Place
	sealed []byte
}

type checker struct {
	keys   *seal.Keyring
	opened int64
	early  []sealedRow // rows that precede the data keys in the file

	audit    int64
	prev     []byte
	headSeq  int64
	headHash []byte
}

// field returns a row's value by its column's name; the zero value for NULL.
func field[T any](columns []column, row []any, name string) (v T) {
	for i, c := range columns {
		if c.name == name {
			v, _ = row[i].(T)
			return v
		}
	}
	return v
}

// sealedIn names the place of a row's envelope, if the row has one.
func sealedIn(t table, columns []column, row []any) (column string, at seal.Place) {
	text := func(name string) string { return field[string](columns, row, name) }
	switch t.name {
	case "credentials":
		var u amt.UUID
		if u.UnmarshalText([]byte(text("uuid"))) != nil {
			return "", nil
		}
		return "sealed", credentialPlace(u, int(field[int64](columns, row, "generation")), text("kind"))
	case "settings":
		return "sealed", seal.At("settings", "sealed", text("key"))
	case "certificates":
		return "sealed_key", seal.At("certificates", "sealed_key", text("id"))
	case "certificate_requests":
		return "sealed_key", seal.At("certificate_requests", "sealed_key", text("seal_row"))
	case "otps":
		return "sealed", seal.At("otps", "sealed", text("seal_row"))
	}
	return "", nil
}

func (c *checker) row(t table, columns []column, row []any) error {
	if c.keys == nil {
		return errors.New("it comes before the master key: the backup was changed")
	}
	switch t.name {
	case "data_keys":
		return c.keys.Use(uint32(field[int64](columns, row, "id")), field[[]byte](columns, row, "wrapped"))
	case "audit":
		return c.auditRow(columns, row)
	case "audit_head":
		c.headSeq, c.headHash = field[int64](columns, row, "seq"), field[[]byte](columns, row, "hash")
		return nil
	}
	name, at := sealedIn(t, columns, row)
	if name == "" {
		return nil
	}
	b := field[[]byte](columns, row, name)
	if len(b) == 0 {
		return nil
	}
	if id, err := seal.KeyOf(b); err == nil && !c.keys.Holds(id) {
		c.early = append(c.early, sealedRow{at, b})
		return nil
	}
	return c.open(b, at)
}

func (c *checker) open(b []byte, at seal.Place) error {
	if _, err := c.keys.Open(b, at); err != nil {
		return fmt.Errorf("a password or key in it does not open: %w", err)
	}
	c.opened++
	return nil
}

func (c *checker) auditRow(columns []column, row []any) error {
	r := AuditRecord{Seq: field[int64](columns, row, "seq"), At: field[time.Time](columns, row, "at"),
		Actor: field[string](columns, row, "actor"), Action: field[string](columns, row, "action"),
		Subject: field[string](columns, row, "subject")}
	detail, prev := []byte(field[string](columns, row, "detail")), field[[]byte](columns, row, "prev_hash")
	hash := field[[]byte](columns, row, "hash")
	switch {
	case r.Seq != c.audit+1:
		return &AuditError{c.audit + 1, "is missing"}
	case !bytes.Equal(prev, c.prev):
		return &AuditError{r.Seq, "does not follow the one before it"}
	case !bytes.Equal(hash, auditHash(r, detail, prev)):
		return &AuditError{r.Seq, "was changed"}
	}
	c.audit, c.prev = r.Seq, hash
	return nil
}

func (c *checker) end() error {
	for _, e := range c.early {
		if err := c.open(e.sealed, e.at); err != nil {
			return err
		}
	}
	if c.headSeq != c.audit || !bytes.Equal(c.headHash, c.prev) {
		return &AuditError{c.audit + 1, "is missing: the chain ends before its head"}
	}
	return nil
}
