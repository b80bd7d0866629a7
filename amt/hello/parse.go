package hello

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/provisiond/provisiond/amt"
)

// The layout (amt/protocol.md 2.2); both versions share the first 24 bytes. Integers are little-endian.
//
//	 0  2  admin credentials set, 0 or 1
//	 2  2  interface version
//	 4  4  retry count
//	 8 16  UUID in SMBIOS order
//	24  8  version 2: PID
//	24  1  version 3: number of hashes, each then 1 byte algorithm, 1 byte length, digest
const (
	offVersion = 2
	offRetry   = 4
	offUUID    = 8
	headLen    = 24
	pskLen     = 32
	pkiHeadLen = 25

	// maxSum is the longest digest that the parser keeps of an unknown algorithm:
	// as long as SHA-512's.
	maxSum = 64
)

// MaxSize is the default bound of Read, in bytes, trailing bytes included. The
// longest message that a header can declare has 255 hashes of 64 bytes: 16,855.
const MaxSize = 20 << 10

// Kind sorts what can be wrong with a hello.
type Kind string

const (
	KindMalformed Kind = "malformed" // these bytes are not a hello
	KindTruncated Kind = "truncated" // a hello's beginning; the rest did not come
	KindVersion   Kind = "version"   // a hello of an unknown interface version
)

// A ParseError names the byte at which a hello stops making sense. Its text
// never quotes received bytes, so that it can go into a log.
type ParseError struct {
	Kind    Kind
	Offset  int    // from the start of the message; for KindTruncated the number of received bytes
	Field   string // in the words of the layout, such as "hash 7 length"
	Problem string
	Err     error // for KindTruncated from Read, what ended the connection; else nil
}

func (e *ParseError) Error() string {
	s := fmt.Sprintf("hello: byte %d, %s: %s", e.Offset, e.Field, e.Problem)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *ParseError) Unwrap() error { return e.Err }

// Parse reads a whole hello; it copies b. An error is always a *ParseError.
// With KindVersion the message carries the version and, if enough bytes came,
// the retry count and UUID from where versions 2 and 3 have them: a guess, good
// for a log line. With the other kinds the message holds only Raw.
//
// Parse keeps a hash of an unknown algorithm if its length is 1 to 64. It
// refuses a known algorithm with a wrong length: somebody misread or damaged
// such a table, and no root could match it.
func Parse(b []byte) (Message, error) {
	raw := bytes.Clone(b)
	n, perr := Declared(raw)
	switch {
	case perr != nil && perr.Kind == KindVersion:
		return unknownVersion(raw), perr
	case perr != nil:
		return Message{Raw: raw}, perr
	case n > len(raw):
		return Message{Raw: raw}, truncated(raw)
	}
	m := header(raw)
	if m.Version == VersionPSK {
		m.PID = string(raw[headLen:pskLen])
	} else {
		m.Hashes = make([]amt.TrustHash, raw[headLen])
		at := pkiHeadLen
		for i := range m.Hashes {
			end := at + 2 + int(raw[at+1])
			m.Hashes[i] = amt.TrustHash{Algorithm: amt.HashAlgorithm(raw[at]), Sum: raw[at+2 : end : end]}
			at = end
		}
	}
	if len(raw) > n {
		m.Trailing = raw[n:]
	}
	return m, nil
}

// Encode is the inverse of Parse: Parse(m.Encode()) is m again, and Encode of
// what Parse returned is its Raw. Encode cuts or fills a PID to 8 bytes, and
// cuts hashes beyond 255 and sums beyond 255 bytes. It ignores Raw.
func (m Message) Encode() []byte {
	b := make([]byte, headLen, pkiHeadLen+len(m.Hashes)*50+len(m.Trailing))
	if m.AdminCredentialsSet {
		b[0] = 1
	}
	binary.LittleEndian.PutUint16(b[offVersion:], m.Version)
	binary.LittleEndian.PutUint32(b[offRetry:], m.RetryCount)
	wire := m.UUID.SMBIOS()
	copy(b[offUUID:], wire[:])
	switch m.Version {
	case VersionPSK:
		var pid [pskLen - headLen]byte
		copy(pid[:], m.PID)
		b = append(b, pid[:]...)
	case VersionPKI:
		hashes := m.Hashes[:min(len(m.Hashes), 255)]
		b = append(b, byte(len(hashes)))
		for _, h := range hashes {
			sum := h.Sum[:min(len(h.Sum), 255)]
			b = append(b, byte(h.Algorithm), byte(len(sum)))
			b = append(b, sum...)
		}
	}
	return append(b, m.Trailing...)
}

// HeadLength is how long the part is that hellos of every version begin with.
const HeadLength = headLen

// Declared returns how long the message that begins with b is, as far as b
// tells: the whole length if the answer is at most len(b), else the length up
// to which to read before asking again.
func Declared(b []byte) (int, *ParseError) {
	if len(b) > 0 && b[0] > 1 || len(b) > 1 && b[1] != 0 {
		return 0, NotParsed(0, "admin credentials set", "not 0 or 1, so this is not a hello")
	}
	if len(b) < offRetry {
		return offRetry, nil
	}
	switch v := binary.LittleEndian.Uint16(b[offVersion:]); v {
	case VersionPSK:
		return pskLen, nil
	case VersionPKI:
	default:
		return 0, &ParseError{
			Kind: KindVersion, Offset: offVersion, Field: "interface version",
			Problem: fmt.Sprintf("%d is unknown, want 3 (PKI) or 2 (PSK)", v),
		}
	}
	if len(b) < pkiHeadLen {
		return pkiHeadLen, nil
	}
	at := pkiHeadLen
	for i := range int(b[headLen]) {
		if len(b) < at+2 {
			return at + 2, nil
		}
		alg, size := amt.HashAlgorithm(b[at]), int(b[at+1])
		if want := alg.Size(); want != 0 && size != want {
			return 0, NotParsed(at+1, fmt.Sprintf("hash %d length", i+1), fmt.Sprintf("%d, but %v has %d bytes", size, alg, want))
		}
		if size < 1 || size > maxSum {
			return 0, NotParsed(at+1, fmt.Sprintf("hash %d length", i+1),
				fmt.Sprintf("%d for unknown algorithm %d, want 1 to %d", size, uint8(alg), maxSum))
		}
		at += 2 + size
	}
	return at, nil
}

func header(b []byte) Message {
	return Message{
		AdminCredentialsSet: b[0] == 1,
		Version:             binary.LittleEndian.Uint16(b[offVersion:]),
		RetryCount:          binary.LittleEndian.Uint32(b[offRetry:]),
		UUID:                amt.FromSMBIOS([16]byte(b[offUUID:headLen])),
		Raw:                 b,
	}
}

func unknownVersion(b []byte) Message {
	if len(b) >= headLen {
		return header(b)
	}
	return Message{AdminCredentialsSet: b[0] == 1, Version: binary.LittleEndian.Uint16(b[offVersion:]), Raw: b}
}

// NotParsed says which bytes are no hello, and why.
func NotParsed(offset int, field, problem string) *ParseError {
	return &ParseError{Kind: KindMalformed, Offset: offset, Field: field, Problem: problem}
}

// truncated names the field in which b, the beginning of a message, ends.
func truncated(b []byte) *ParseError {
	e := &ParseError{Kind: KindTruncated, Offset: len(b), Problem: "the message ends here"}
	switch {
	case len(b) < offVersion:
		e.Field = "admin credentials set"
	case len(b) < offRetry:
		e.Field = "interface version"
	case len(b) < offUUID:
		e.Field = "retry count"
	case len(b) < headLen:
		e.Field = "UUID"
	case binary.LittleEndian.Uint16(b[offVersion:]) == VersionPSK:
		e.Field = "PID"
	case len(b) < pkiHeadLen:
		e.Field = "number of hashes"
	default:
		e.Field = truncatedHash(b)
	}
	return e
}

func truncatedHash(b []byte) string {
	at := pkiHeadLen
	for i := 1; ; i++ {
		switch {
		case len(b) <= at:
			return fmt.Sprintf("hash %d of %d algorithm", i, b[headLen])
		case len(b) == at+1:
			return fmt.Sprintf("hash %d of %d length", i, b[headLen])
		case len(b) < at+2+int(b[at+1]):
			return fmt.Sprintf("hash %d of %d", i, b[headLen])
		}
		at += 2 + int(b[at+1])
	}
}
