package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// An exported audit is a file of JSON lines that anybody can check without a
// server:
//
//  1. {"audit":1,"key":…}: the public key, in hexadecimal digits.
//  2. The records in their order, each with its hash.
//  3. After a record that has one, its signed checkpoint. The last line is one.
//
// Each line has exactly one valid form, so that the check notices every changed
// byte.

type auditFileHead struct {
	Audit int    `json:"audit"`
	Key   string `json:"key"`
}

type auditFileRecord struct {
	Seq     int64  `json:"seq"`
	At      string `json:"at"`
	Actor   string `json:"actor"`
	Action  string `json:"action"`
	Subject string `json:"subject"`
	Detail  string `json:"detail"` // the hashed JSON text, byte for byte
	Hash    string `json:"hash"`
}

type auditFileCheckpoint struct {
	Checkpoint int64  `json:"checkpoint"`
	At         string `json:"at"`
	Hash       string `json:"hash"`
	Signature  string `json:"signature"`
}

const auditFileTime = "2006-01-02T15:04:05.000Z"

func auditLine(v any) string {
	b, _ := json.Marshal(v) // v holds strings and numbers only
	return string(b)
}

func (c AuditCheckpoint) line() string {
	return auditLine(auditFileCheckpoint{c.Seq, c.At.UTC().Format(auditFileTime), hex.EncodeToString(c.Hash), hex.EncodeToString(c.Signature)})
}

// AuditFileHead is the first line of an export.
func AuditFileHead(key ed25519.PublicKey) string {
	return auditLine(auditFileHead{1, hex.EncodeToString(key)})
}

// AuditFileLines are the next lines of an export: at most limit records after
// the record after and up to through, with their checkpoints. next is the last
// record's number; 0 when the lines reach through.
func (tx *Tx) AuditFileLines(ctx context.Context, after, through int64, limit int) (lines []string, next int64, err error) {
	rows, err := list(ctx, tx, scanAudit, "SELECT "+auditColumns+" FROM audit WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3", after, through, page(limit))
	if err != nil || len(rows) == 0 {
		return nil, 0, err
	}
	last := rows[len(rows)-1].Seq
	checkpoints, err := tx.AuditCheckpoints(ctx, after, last)
	if err != nil {
		return nil, 0, err
	}
	for _, r := range rows {
		lines = append(lines, auditLine(auditFileRecord{r.Seq, r.At.UTC().Format(auditFileTime), r.Actor, r.Action, r.Subject, string(r.detail), hex.EncodeToString(r.Hash)}))
		for len(checkpoints) > 0 && checkpoints[0].Seq <= r.Seq {
			lines, checkpoints = append(lines, checkpoints[0].line()), checkpoints[1:]
		}
	}
	if last < through {
		next = last
	}
	return lines, next, nil
}

// AuditFile is what a checked export holds.
type AuditFile struct {
	Records     int64
	Checkpoints int
	Key         ed25519.PublicKey
	Last        AuditCheckpoint
}

// AuditMark is a checkpoint as somebody kept it: its record, and the first
// bytes of the hash as the log, the metrics and a node's data folder show them.
type AuditMark struct {
	Seq  int64
	Hash []byte
}

// Fits reports whether a record's hash begins with the kept bytes.
func (m AuditMark) Fits(hash []byte) bool { return len(m.Hash) > 0 && bytes.HasPrefix(hash, m.Hash) }

// AuditFileError says which line of an export is wrong, and how.
type AuditFileError struct {
	Line    int
	Problem string
}

func (e *AuditFileError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Problem) }

// maxAuditLine bounds a line: a record's detail is small.
const maxAuditLine = 1 << 20

// CheckAuditFile reads an export to its end. The chain must begin with the
// first record, the file's key must have signed each checkpoint, and the last
// line must be a checkpoint. The caller decides whether the key is the
// server's.
//
// marks are checkpoints that somebody kept elsewhere: the file must hold their
// records, with their hashes.
func CheckAuditFile(r io.Reader, marks ...AuditMark) (AuditFile, error) {
	var f AuditFile
	lines := bufio.NewReaderSize(r, maxAuditLine)
	prev, signed := []byte{}, false
	for n := 1; ; n++ {
		wrong := func(format string, args ...any) (AuditFile, error) {
			return f, &AuditFileError{n, fmt.Sprintf(format, args...)}
		}
		text, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(text) == 0:
			if n == 1 {
				return wrong("the file is empty")
			}
			if !signed {
				return wrong("the file ends without a checkpoint: its end is missing")
			}
			for _, m := range marks {
				if m.Seq > f.Records {
					return wrong("the file ends with record %d, and a checkpoint of record %d was kept: its end was cut off", f.Records, m.Seq)
				}
			}
			return f, nil
		case errors.Is(err, io.EOF):
			return wrong("the line has no end: the file was cut")
		case errors.Is(err, bufio.ErrBufferFull):
			return wrong("the line is too long to be one of an audit")
		case err != nil:
			return f, err
		}
		if text = text[:len(text)-1]; n == 1 {
			if f.Key, err = readAuditHead(text); err != nil {
				return wrong("%s", err)
			}
			continue
		}
		if bytes.HasPrefix(text, []byte(`{"checkpoint":`)) {
			c, err := readAuditCheckpoint(text)
			switch {
			case err != nil:
				return wrong("%s", err)
			case c.Seq != f.Records || !bytes.Equal(c.Hash, prev):
				return wrong("checkpoint %d does not fit the record before it", c.Seq)
			case !c.Verify(f.Key):
				return wrong("checkpoint %d was not signed with the file's key", c.Seq)
			}
			f.Checkpoints++
			f.Last, signed = c, true
			continue
		}
		rec, detail, err := readAuditRecord(text)
		switch {
		case err != nil:
			return wrong("%s", err)
		case rec.Seq != f.Records+1:
			return wrong("record %d follows record %d", rec.Seq, f.Records)
		case !bytes.Equal(rec.Hash, auditHash(rec, detail, prev)):
			return wrong("record %d was changed, or does not follow the one before it", rec.Seq)
		}
		for _, m := range marks {
			if m.Seq == rec.Seq && !m.Fits(rec.Hash) {
				return wrong("record %d is not the one whose checkpoint was kept: the chain was made anew", rec.Seq)
			}
		}
		f.Records, prev, signed = rec.Seq, rec.Hash, false
	}
}

var errAuditLine = errors.New("this is no line of an exported audit")

// decodeLine accepts a line only in its one valid form.
func decodeLine(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if d.Decode(into) != nil || auditLine(into) != string(text) {
		return errAuditLine
	}
	return nil
}

func readAuditHead(text []byte) (ed25519.PublicKey, error) {
	var h auditFileHead
	if err := decodeLine(text, &h); err != nil {
		return nil, err
	}
	if h.Audit != 1 {
		return nil, fmt.Errorf("an audit of kind %d is not known to this program", h.Audit)
	}
	key, err := hex.DecodeString(h.Key)
	if err != nil || len(key) != ed25519.PublicKeySize || hex.EncodeToString(key) != h.Key {
		return nil, errAuditLine
	}
	return key, nil
}

// lowerHex reads hexadecimal digits in lower case only.
func lowerHex(s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || hex.EncodeToString(b) != s {
		return nil, errAuditLine
	}
	return b, nil
}

func auditTime(s string) (time.Time, error) {
	at, err := time.Parse(auditFileTime, s)
	if err != nil || at.Format(auditFileTime) != s {
		return at, errAuditLine
	}
	return at, nil
}

func readAuditCheckpoint(text []byte) (c AuditCheckpoint, err error) {
	var l auditFileCheckpoint
	if err = decodeLine(text, &l); err == nil {
		c.Seq = l.Checkpoint
		if c.At, err = auditTime(l.At); err == nil {
			if c.Hash, err = lowerHex(l.Hash); err == nil {
				c.Signature, err = lowerHex(l.Signature)
			}
		}
	}
	return c, err
}

func readAuditRecord(text []byte) (r AuditRecord, detail []byte, err error) {
	var l auditFileRecord
	if err = decodeLine(text, &l); err == nil {
		r = AuditRecord{Seq: l.Seq, Actor: l.Actor, Action: l.Action, Subject: l.Subject}
		detail = []byte(l.Detail)
		if r.At, err = auditTime(l.At); err == nil {
			r.Hash, err = lowerHex(l.Hash)
		}
	}
	return r, detail, err
}
