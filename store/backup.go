package store

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

// A backup is one file that either engine writes and either reads, sealed under
// a passphrase as an age file. What `age -d FILE | gunzip` shows are lines of JSON:
//
//	{"format": …, "created": …}  who made it, and when
//	{"master": …}                the master key, so that the file opens alone
//	{"table": …, "columns": …}   then one JSON array a row, for each table
//	{"end": {table: rows}}
//
// Format 1 had its first line in clear, with how the key is made of the
// passphrase, and chunks of AES-256-GCM under that key behind it.
//
// What lies sealed in the database lies sealed here as well, in its own
// envelope: a restore gives the data keys to the target's master key and leaves
// the envelopes as they are.
const (
	backupFormat  = "provisiond-backup"
	backupVersion = 2
	maxHeader     = 64 << 10
	maxRow        = 64 << 20
)

// notInBackup are tables about this moment and this machine only.
var notInBackup = []string{"nodes"}

// BackupHeader says what a backup is and where it comes from.
type BackupHeader struct {
	Format  string        `json:"format"`
	Version int           `json:"version"`
	Created time.Time     `json:"created"`
	Program string        `json:"program"`
	Engine  string        `json:"engine"`
	Schema  int64         `json:"schema"`
	Key     *seal.Stretch `json:"key,omitempty"` // format 1
}

// BackupReport counts what a backup holds.
type BackupReport struct {
	BackupHeader
	Rows   map[string]int64
	Opened int64 // how many envelopes the verification opened: passwords, keys
	Audit  int64 // how many records the audit chain has; it is whole
}

// backupLine is any line that is not a row.
type backupLine struct {
	Master  string           `json:"master,omitempty"`
	Table   string           `json:"table,omitempty"`
	Columns []string         `json:"columns,omitempty"`
	End     map[string]int64 `json:"end,omitempty"`
}

// Backup writes one unchanging picture of the database, while the daemon may go
// on.
func (db *DB) Backup(ctx context.Context, w io.Writer, passphrase amt.Secret, program string) (BackupReport, error) {
	if db.keys == nil {
		return BackupReport{}, errors.New("back up: without the master key the passwords in the backup could never be read")
	}
	if newest := NewestSchema(db.engine); db.schema != newest {
		return BackupReport{}, fmt.Errorf("back up: the database has schema %d and this program knows %d, so it would leave things out: "+
			"use "+
			"the provisiond that the database belongs to", db.schema, newest)
	}
	tables, err := ownTables()
	if err != nil {
		return BackupReport{}, err
	}
	r := BackupReport{BackupHeader: BackupHeader{
		Format: backupFormat, Version: backupVersion, Created: millis(db.clock()), Program: program, Engine: db.engine, Schema: db.schema,
	}, Rows: map[string]int64{}}
	sealed, err := seal.NewWriter(w, passphrase, db.backupWork)
	if err != nil {
		return r, err
	}
	zip := gzip.NewWriter(sealed)
	out := json.NewEncoder(zip)
	out.SetEscapeHTML(false)
	err = db.Read(ctx, func(tx *Tx) error {
		if err := errors.Join(out.Encode(r.BackupHeader), out.Encode(backupLine{Master: db.keys.Carry().Reveal()})); err != nil {
			return err
		}
		for _, t := range tables {
			if slices.Contains(notInBackup, t.name) {
				continue
			}
			n, err := tx.dump(ctx, t, out)
			if err != nil {
				return fmt.Errorf("table %s: %w", t.name, err)
			}
			r.Rows[t.name] = n
		}
		return out.Encode(backupLine{End: r.Rows})
	})
	if err = errors.Join(err, zip.Close(), sealed.Close()); err != nil {
		return r, fmt.Errorf("back up: %w", err)
	}
	return r, nil
}

func (tx *Tx) dump(ctx context.Context, t table, out *json.Encoder) (n int64, err error) {
	line := backupLine{Table: t.name}
	var exprs []string
	for _, c := range t.columns {
		line.Columns = append(line.Columns, c.name)
		e := c.name
		if tx.pg != nil {
			switch c.kind {
			case kindUUID, kindJSON:
				e = "CAST(" + c.name + " AS text)"
			case kindTime:
				e = "CAST(extract(epoch FROM " + c.name + ") * 1000 AS bigint)"
			}
		} else if c.kind == kindBytes {
			// The driver returns an empty blob as nil, which would become NULL.
			e = "CASE WHEN " + c.name + " IS NOT NULL THEN hex(" + c.name + ") END"
		}
		exprs = append(exprs, e)
	}
	if err := out.Encode(line); err != nil {
		return 0, err
	}
	row, dest := make([]any, len(t.columns)), make([]any, len(t.columns))
	for i, c := range t.columns {
		switch c.kind {
		case kindInt, kindTime:
			dest[i] = new(*int64)
		case kindBool:
			dest[i] = new(*bool)
		case kindBytes:
			dest[i] = new([]byte)
			if tx.pg == nil {
				dest[i] = new(*string)
			}
		default:
			dest[i] = new(*string)
		}
	}
	err = tx.each(ctx, func(s scanner) error {
		if err := s.Scan(dest...); err != nil {
			return err
		}
		for i, d := range dest {
			row[i] = nil
			switch v := d.(type) {
			case **int64:
				if *v != nil {
					row[i] = **v
				}
			case **bool:
				if *v != nil {
					row[i] = **v
				}
			case *[]byte:
				if *v != nil {
					row[i] = base64.StdEncoding.EncodeToString(*v)
				}
			case **string:
				if *v != nil {
					if t.columns[i].kind == kindBytes {
						b, err := hex.DecodeString(**v)
						if err != nil {
							return err
						}
						row[i] = base64.StdEncoding.EncodeToString(b)
						continue
					}
					if !utf8.ValidString(**v) {
						return fmt.Errorf("a row has text in %s that is not UTF-8", t.columns[i].name)
					}
					row[i] = **v
				}
			}
		}
		n++
		return out.Encode(row)
	}, "SELECT "+strings.Join(exprs, ", ")+" FROM "+t.name+" ORDER BY "+t.columns[0].name)
	return n, err
}

// IsBackup says in a sentence why a file cannot be a backup; it needs no
// passphrase.
func IsBackup(r io.Reader) error {
	in := bufio.NewReader(r)
	if aged(in) {
		return nil
	}
	_, _, err := firstHeader(in)
	return err
}

func aged(in *bufio.Reader) bool {
	intro, _ := in.Peek(len(seal.FileIntro))
	return string(intro) == seal.FileIntro
}

// firstHeader reads the clear line that begins a backup of format 1.
func firstHeader(in *bufio.Reader) (h BackupHeader, line []byte, err error) {
	for err = bufio.ErrBufferFull; errors.Is(err, bufio.ErrBufferFull) && len(line) <= maxHeader; {
		var part []byte
		part, err = in.ReadSlice('\n')
		line = append(line, part...)
	}
	if err != nil && bytes.HasPrefix(line, []byte(`{"format":"`+backupFormat)) ||
		len(line) > 0 && strings.HasPrefix(seal.FileIntro, string(line)) {
		return h, nil, seal.ErrCut
	}
	h, err = parseHeader(line)
	if err == nil && h.Key == nil {
		err = errors.New("the backup's header lacks how its key is made: it was changed")
	}
	return h, line, err
}

func parseHeader(line []byte) (h BackupHeader, err error) {
	newest := NewestSchema(Postgres)
	switch {
	case json.Unmarshal(line, &h) != nil || h.Format != backupFormat:
		return h, errors.New("this is no backup of provisiond")
	case h.Version > backupVersion:
		return h, fmt.Errorf("the backup has format %d and this program reads up to %d: it was made by a newer provisiond (%s), so use "+
			"that one",
			h.Version, backupVersion, h.Program)
	case h.Schema > newest:
		return h, fmt.Errorf("the backup has schema %d and this program knows only %d: it was made by a newer provisiond (%s), so use "+
			"that one",
			h.Schema, newest, h.Program)
	}
	return h, nil
}

// openBackup returns the header and the lines after it.
func openBackup(r io.Reader, passphrase amt.Secret) (h BackupHeader, lines *bufio.Scanner, err error) {
	in := bufio.NewReaderSize(r, 128<<10)
	var plain io.Reader
	inside := aged(in)
	if inside {
		plain, err = seal.NewReader(in, passphrase)
	} else {
		var line []byte
		if h, line, err = firstHeader(in); err != nil {
			return h, nil, err
		}
		key, bad := h.Key.Open(passphrase)
		plain, err = seal.OldReader(in, key, line), bad
	}
	if err != nil {
		return h, nil, err
	}
	zip, err := gzip.NewReader(plain)
	if err != nil {
		return h, nil, whole(err)
	}
	lines = bufio.NewScanner(zip)
	lines.Buffer(make([]byte, 64<<10), maxRow)
	if !inside {
		return h, lines, nil
	}
	if !lines.Scan() {
		return h, nil, cmp.Or(whole(lines.Err()), seal.ErrCut)
	}
	h, err = parseHeader(lines.Bytes())
	return h, lines, err
}

// A visitor receives a backup's contents, in their order.
type visitor struct {
	master func(*seal.Keyring) error
	table  func(t table, columns []column) error
	row    func(t table, columns []column, row []any) error
}

// walkBackup reads a whole backup. nil means that it reached the end and every
// count agrees.
func walkBackup(in io.Reader, passphrase amt.Secret, v visitor) (BackupReport, error) {
	var r BackupReport
	h, lines, err := openBackup(in, passphrase)
	r.BackupHeader = h
	if err != nil {
		return r, err
	}
	tables, err := ownTables()
	if err != nil {
		return r, err
	}
	r.Rows = map[string]int64{}
	var now table
	var columns []column
	ended := false
	for lines.Scan() {
		b := lines.Bytes()
		if ended || len(b) == 0 {
			return r, errors.New("the backup goes on behind its end: it was changed")
		}
		if b[0] == '[' {
			if now.name == "" {
				return r, errors.New("the backup has a row that belongs to no table: it was changed")
			}
			row, err := decodeRow(b, columns)
			if err == nil {
				r.Rows[now.name]++
				err = v.row(now, columns, row)
			}
			if err != nil {
				return r, fmt.Errorf("table %s, row %d: %w", now.name, r.Rows[now.name], err)
			}
			continue
		}
		var l backupLine
		if err := json.Unmarshal(b, &l); err != nil {
			return r, fmt.Errorf("the backup holds a line that is not understood: %w", err)
		}
		switch {
		case l.Master != "":
			keys, err := seal.Carried(amt.NewSecret(l.Master))
			if err == nil {
				err = v.master(keys)
			}
			if err != nil {
				return r, err
			}
		case l.Table != "":
			i := slices.IndexFunc(tables, func(t table) bool { return t.name == l.Table })
			if i < 0 {
				return r, fmt.Errorf("the backup has a table %q that this program does not know", l.Table)
			}
			now, columns = tables[i], nil
			for _, name := range l.Columns {
				c, known := now.column(name)
				if !known {
					return r, fmt.Errorf("the backup has a column %q in %s that this program does not know", name, now.name)
				}
				columns = append(columns, c)
			}
			r.Rows[now.name] = 0
			if err := v.table(now, columns); err != nil {
				return r, fmt.Errorf("table %s: %w", now.name, err)
			}
		case l.End != nil:
			ended = true
			for name, n := range l.End {
				if r.Rows[name] != n {
					return r, fmt.Errorf("the backup holds %d rows of %s where it says %d", r.Rows[name], name, n)
				}
			}
		}
	}
	if err := lines.Err(); err != nil {
		return r, whole(err)
	}
	if !ended {
		return r, seal.ErrCut
	}
	return r, nil
}

// whole gives one error for a cut file, whether gzip or the seal noticed it.
func whole(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return seal.ErrCut
	}
	if errors.Is(err, seal.ErrDamaged) {
		return errors.New("the file was changed: a part of it does not open although the passphrase is right")
	}
	return err
}

func decodeRow(b []byte, columns []column) ([]any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var row []any
	if err := d.Decode(&row); err != nil {
		return nil, err
	}
	if len(row) != len(columns) {
		return nil, fmt.Errorf("it has %d values for %d columns", len(row), len(columns))
	}
	for i, c := range columns {
		if row[i] == nil {
			continue
		}
		v, err := decodeValue(c.kind, row[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		row[i] = v
	}
	return row, nil
}

func decodeValue(k kindOf, v any) (any, error) {
	switch x := v.(type) {
	case json.Number:
		n, err := x.Int64()
		if k == kindTime {
			return time.UnixMilli(n).UTC(), err
		}
		if k == kindInt {
			return n, err
		}
	case bool:
		if k == kindBool {
			return x, nil
		}
	case string:
		switch k {
		case kindBytes:
			return base64.StdEncoding.DecodeString(x)
		case kindText, kindUUID, kindJSON:
			return x, nil
		}
	}
	return nil, fmt.Errorf("a %T is no %s", v, k)
}
