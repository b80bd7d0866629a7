// Package chain says how the audit is held together, without a database: how a
// record is hashed over the one before it, what a signed checkpoint is, and how
// an exported audit is written and checked.
//
// An exported audit is a file of JSON lines:
//
//  1. {"audit":1,"key":…}: the public key, in hexadecimal digits.
//  2. The records in their order, each with its hash.
//  3. After a record that has one, its signed checkpoint. The last line is one.
//
// Each line has exactly one valid form, so that the check notices every changed
// byte.
package chain

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// A Record is one link of the chain.
type Record struct {
	Seq                    int64
	At                     time.Time
	Actor, Action, Subject string
	Detail                 []byte // JSON, byte for byte as it was hashed
	Hash                   []byte
}

// HashAfter is SHA-256 over the record, each part with its length, and the hash
// of the record before it.
func (r Record) HashAfter(prev []byte) []byte {
	var b []byte
	b = binary.BigEndian.AppendUint64(b, uint64(r.Seq))
	b = binary.BigEndian.AppendUint64(b, uint64(r.At.UnixMilli()))
	for _, part := range [][]byte{[]byte(r.Actor), []byte(r.Action), []byte(r.Subject), r.Detail, prev} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

// A Checkpoint says what the chain was when it ended with record Seq.
type Checkpoint struct {
	Seq       int64
	At        time.Time
	Hash      []byte // of record Seq
	Signature []byte // Ed25519
}

// Message is the text that the key signs.
func (c Checkpoint) Message() []byte {
	b := []byte("provisiond audit checkpoint 1\n")
	b = binary.BigEndian.AppendUint64(b, uint64(c.Seq))
	b = binary.BigEndian.AppendUint64(b, uint64(c.At.UnixMilli()))
	return append(b, c.Hash...)
}

// Verify reports whether key's private half signed the checkpoint.
func (c Checkpoint) Verify(key ed25519.PublicKey) bool {
	return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, c.Message(), c.Signature)
}

type fileHead struct {
	Audit int    `json:"audit"`
	Key   string `json:"key"`
}

type fileRecord struct {
	Seq     int64  `json:"seq"`
	At      string `json:"at"`
	Actor   string `json:"actor"`
	Action  string `json:"action"`
	Subject string `json:"subject"`
	Detail  string `json:"detail"` // the hashed JSON text, byte for byte
	Hash    string `json:"hash"`
}

type fileCheckpoint struct {
	Checkpoint int64  `json:"checkpoint"`
	At         string `json:"at"`
	Hash       string `json:"hash"`
	Signature  string `json:"signature"`
}

const fileTime = "2006-01-02T15:04:05.000Z"

func line(v any) string {
	b, _ := json.Marshal(v) // v holds strings and numbers only
	return string(b)
}

// Line is the checkpoint as a line of an export.
func (c Checkpoint) Line() string {
	return line(fileCheckpoint{c.Seq, c.At.UTC().Format(fileTime), hex.EncodeToString(c.Hash), hex.EncodeToString(c.Signature)})
}

// Line is the record as a line of an export.
func (r Record) Line() string {
	return line(fileRecord{r.Seq, r.At.UTC().Format(fileTime), r.Actor, r.Action, r.Subject, string(r.Detail), hex.EncodeToString(r.Hash)})
}

// Head is the first line of an export.
func Head(key ed25519.PublicKey) string {
	return line(fileHead{1, hex.EncodeToString(key)})
}

// A File is what a checked export holds.
type File struct {
	Records     int64
	Checkpoints int
	Key         ed25519.PublicKey
	Last        Checkpoint
}

// A Mark is a checkpoint as somebody kept it: its record, and the first bytes of
// the hash as the log, the metrics and a node's data folder show them.
type Mark struct {
	Seq  int64
	Hash []byte
}

// Fits reports whether a record's hash begins with the kept bytes.
func (m Mark) Fits(hash []byte) bool { return len(m.Hash) > 0 && bytes.HasPrefix(hash, m.Hash) }

// A FileError says which line of an export is wrong, and how.
type FileError struct {
	Line    int
	Problem string
}

func (e *FileError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Problem) }

// maxLine bounds a line: a record's detail is small.
const maxLine = 1 << 20

// CheckFile reads an export to its end. The chain must begin with the first
// record, the file's key must have signed each checkpoint, and the last line must
// be a checkpoint. The caller decides whether the key is the server's.
//
// marks are checkpoints that somebody kept elsewhere: the file must hold their
// records, with their hashes.
func CheckFile(r io.Reader, marks ...Mark) (File, error) {
	var f File
	lines := bufio.NewReaderSize(r, maxLine)
	prev, signed := []byte{}, false
	for n := 1; ; n++ {
		wrong := func(format string, args ...any) (File, error) {
			return f, &FileError{n, fmt.Sprintf(format, args...)}
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
					return wrong("the file ends with record %d, and a checkpoint of record %d was kept: its end was cut off", f.Records,
						m.Seq)
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
			if f.Key, err = readHead(text); err != nil {
				return wrong("%s", err)
			}
			continue
		}
		if bytes.HasPrefix(text, []byte(`{"checkpoint":`)) {
			c, err := readCheckpoint(text)
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
		rec, err := readRecord(text)
		switch {
		case err != nil:
			return wrong("%s", err)
		case rec.Seq != f.Records+1:
			return wrong("record %d follows record %d", rec.Seq, f.Records)
		case !bytes.Equal(rec.Hash, rec.HashAfter(prev)):
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

var errLine = errors.New("this is no line of an exported audit")

// decodeLine accepts a line only in its one valid form.
func decodeLine(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if d.Decode(into) != nil || line(into) != string(text) {
		return errLine
	}
	return nil
}

func readHead(text []byte) (ed25519.PublicKey, error) {
	var h fileHead
	if err := decodeLine(text, &h); err != nil {
		return nil, err
	}
	if h.Audit != 1 {
		return nil, fmt.Errorf("an audit of kind %d is not known to this program", h.Audit)
	}
	key, err := hex.DecodeString(h.Key)
	if err != nil || len(key) != ed25519.PublicKeySize || hex.EncodeToString(key) != h.Key {
		return nil, errLine
	}
	return key, nil
}

// lowerHex reads hexadecimal digits in lower case only.
func lowerHex(s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || hex.EncodeToString(b) != s {
		return nil, errLine
	}
	return b, nil
}

func readTime(s string) (time.Time, error) {
	at, err := time.Parse(fileTime, s)
	if err != nil || at.Format(fileTime) != s {
		return at, errLine
	}
	return at, nil
}

func readCheckpoint(text []byte) (c Checkpoint, err error) {
	var l fileCheckpoint
	if err = decodeLine(text, &l); err == nil {
		c.Seq = l.Checkpoint
		if c.At, err = readTime(l.At); err == nil {
			if c.Hash, err = lowerHex(l.Hash); err == nil {
				c.Signature, err = lowerHex(l.Signature)
			}
		}
	}
	return c, err
}

func readRecord(text []byte) (r Record, err error) {
	var l fileRecord
	if err = decodeLine(text, &l); err == nil {
		r = Record{Seq: l.Seq, Actor: l.Actor, Action: l.Action, Subject: l.Subject, Detail: []byte(l.Detail)}
		if r.At, err = readTime(l.At); err == nil {
			r.Hash, err = lowerHex(l.Hash)
		}
	}
	return r, err
}
