package hello

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/provisiond/provisiond/amt/typed"
)

// A Recorded is a hello that somebody kept: its bytes, and the form in which
// the reader took the file.
type Recorded struct {
	Raw  []byte
	Form string // such as "a dump of xxd", or "pcap, packet 3 from 10.20.0.1:50000"
}

// Recordings finds the hellos in the forms in which people keep one: raw bytes,
// digits, a tool's dump, a list of a programming language, base64, or a capture
// of packets, which may hold several. If the file holds no hello, Recordings
// returns the bytes in the likeliest form, and Parse says what is wrong with
// them. The error means that the file can be nothing of the kind.
func Recordings(data []byte) ([]Recorded, error) {
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return nil, errors.New("the file is empty")
	case isCapture(data):
		return capture(data)
	case isHello(data):
		return []Recorded{{data, "the bytes themselves"}}, nil
	}
	text, from := typed.Text(data)
	if from != "" {
		from = ", in " + from
	}
	var best *Recorded
	for _, read := range []func(string) (Recorded, bool){dump, listed, digits, base64ed} {
		r, ok := read(string(text))
		if !ok {
			continue
		}
		r.Form += from
		if isHello(r.Raw) {
			return []Recorded{r}, nil
		}
		if inner, _, ok := payload(linkEthernet, r.Raw); ok && isHello(inner) {
			r.Raw, r.Form = inner, r.Form+", of a whole packet"
			return []Recorded{r}, nil
		}
		if best == nil {
			best = &r
		}
	}
	switch {
	case best != nil:
		return []Recorded{*best}, nil
	case isText(text):
		return nil, errors.New("this text is no hello in a form known here: want hexadecimal digits, the dump of xxd, hexdump, od or " +
			"Wireshark, a list of 0x01, base64, or a pcap file")
	}
	return []Recorded{{data, "the bytes themselves"}}, nil
}

// A FormError says in which form the reader took a file, and why that is no
// hello.
type FormError struct {
	Form string
	Err  error
}

func (e *FormError) Error() string { return "taken for " + e.Form + ": " + e.Err.Error() }

// Unwrap returns Parse's error.
func (e *FormError) Unwrap() error { return e.Err }

// Decoded is a hello read from a file.
type Decoded struct {
	Message
	Form string
}

// Decode reads the hellos that Recordings finds: at least one, or an error that
// says in which form it took the file.
func Decode(data []byte) ([]Decoded, error) {
	found, err := Recordings(data)
	if err != nil {
		return nil, err
	}
	out := make([]Decoded, len(found))
	for i, r := range found {
		m, err := Parse(r.Raw)
		if err != nil {
			return nil, &FormError{r.Form, err}
		}
		out[i] = Decoded{m, r.Form}
	}
	return out, nil
}

func isHello(b []byte) bool {
	_, err := Parse(b)
	return err == nil
}

func isText(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\n' && c != '\r' && c != '\t' {
			return false
		}
	}
	return true
}

// offset matches the begin of a dump's line.
var offset = regexp.MustCompile(`^\s*(?:0x)?([0-9A-Fa-f]{3,16})(:?)(?:\s+(.*))?$`)

// dump reads lines of an offset and the bytes there, as xxd, hexdump, od and
// Wireshark write them. The next line's offset says how many bytes a line has,
// so that dump never takes the letters beside them for digits. A line "*"
// stands for repeats.
func dump(text string) (Recorded, bool) {
	type row struct {
		at    string
		rest  string
		colon bool
	}
	var rows []row
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == '\r' }) {
		m := offset.FindStringSubmatch(line)
		switch {
		case m != nil:
			rows = append(rows, row{m[1], m[3], m[2] == ":"})
		case strings.TrimSpace(line) == "" || strings.TrimSpace(line) == "*":
		case len(rows) > 0:
			return Recorded{}, false // something else follows
		}
	}
	if len(rows) == 0 || rows[0].rest == "" {
		return Recorded{}, false
	}
	var best []byte
	for _, base := range []int{16, 8, 10} {
		for _, swap := range []bool{!rows[0].colon, rows[0].colon} {
			var out []byte
			ok := true
			for i, r := range rows {
				at, err := strconv.ParseUint(r.at, base, 32)
				if err != nil || int(at) < len(out) || i == 0 && at != 0 || at > maxRecorded {
					ok = false
					break
				}
				for len(out) >= 16 && len(out) < int(at) { // "*": repeat the line before
					out = append(out, out[len(out)-16])
				}
				want := -1
				if i+1 < len(rows) {
					next, err := strconv.ParseUint(rows[i+1].at, base, 32)
					if err == nil && next > at {
						want = int(min(next-at, 32))
					}
				}
				out = append(out[:min(len(out), int(at))], tokens(r.rest, want, swap)...)
			}
			if !ok {
				continue
			}
			if best == nil {
				best = out
			}
			if isHello(out) {
				best = out
			}
		}
	}
	return Recorded{best, "a dump with offsets (xxd, hexdump, od or Wireshark)"}, best != nil
}

// maxRecorded bounds the length that a dump may name.
const maxRecorded = 1 << 20

// tokens reads numbers of equal width, up to want bytes or up to something
// else. It swaps the bytes of 16-bit words for tools that write them as
// numbers.
func tokens(rest string, want int, swap bool) (out []byte) {
	width := 0
	if head, _, ok := strings.Cut(rest, "   "); ok && want < 0 {
		rest = head // three blanks precede Wireshark's letters
	} else if head, _, ok := strings.Cut(rest, "|"); ok {
		rest = head
	}
	for t := range strings.FieldsSeq(rest) {
		if width == 0 {
			width = len(t)
		}
		if want >= 0 && len(out) >= want || len(t) > width || len(t) != width && len(t) != 2 {
			break
		}
		b, ok := number(t, swap)
		if !ok {
			break
		}
		out = append(out, b...)
	}
	if want >= 0 && len(out) > want {
		out = out[:want]
	}
	return out
}

// number reads one number of a dump by its width: hexadecimal bytes and words,
// and octal ones, which have three and six digits.
func number(t string, swap bool) ([]byte, bool) {
	switch len(t) {
	case 3, 6:
		n, err := strconv.ParseUint(t, 8, 16)
		if err != nil || len(t) == 3 && n > 255 {
			return nil, false
		}
		if len(t) == 3 {
			return []byte{byte(n)}, true
		}
		return []byte{byte(n), byte(n >> 8)}, true
	case 2, 4, 8, 16, 32, 64:
		b, err := hex.DecodeString(t)
		if err != nil {
			return nil, false
		}
		if swap {
			for i := range len(b) / 2 {
				b[i], b[len(b)-1-i] = b[len(b)-1-i], b[i]
			}
		}
		return b, true
	}
	return nil, false
}

var (
	prefixed = regexp.MustCompile(`(?:0[xX]|\\x|&H)([0-9A-Fa-f]{1,2})\b`)
	decimals = regexp.MustCompile(`\b\d{1,3}\b`)
	comments = regexp.MustCompile(`(?s)/\*.*?\*/|//[^\n]*`)
)

// listed reads numbers in the form of a programming language: 0x01, \x01, or
// decimal numbers in brackets.
func listed(text string) (Recorded, bool) {
	text = comments.ReplaceAllString(text, " ")
	if i := strings.LastIndexAny(text, "{["); i >= 0 { // after the variable's name, which may hold digits
		text = text[i:]
	}
	var out []byte
	if found := prefixed.FindAllStringSubmatch(strings.ReplaceAll(text, `\x`, ` \x`), -1); len(found) >= headLen {
		for _, m := range found {
			n, _ := strconv.ParseUint(m[1], 16, 8)
			out = append(out, byte(n))
		}
		return Recorded{out, "a list of hexadecimal numbers"}, true
	}
	if !strings.HasPrefix(text, "[") && !strings.HasPrefix(text, "{") {
		return Recorded{}, false
	}
	for _, t := range decimals.FindAllString(text, -1) {
		n, err := strconv.ParseUint(t, 10, 8)
		if err != nil {
			return Recorded{}, false
		}
		out = append(out, byte(n))
	}
	return Recorded{out, "a list of decimal numbers"}, len(out) >= headLen
}

// digits reads hexadecimal digits with white space, or with a separator between
// bytes.
func digits(text string) (Recorded, bool) {
	form := "hexadecimal digits"
	text = strings.TrimPrefix(strings.TrimSpace(text), "0x")
	text = strings.TrimSuffix(strings.TrimPrefix(text, "<Buffer "), ">")
	clean := strings.Map(func(r rune) rune {
		switch r {
		case ' ', '\t', '\r', '\n', '\v', '\f', '\u00a0', '"', '\'':
			return -1
		case ':', '-', ',', ';', '.':
			form = fmt.Sprintf("hexadecimal digits with %q between them", r)
			return -1
		}
		return r
	}, text)
	b, err := hex.DecodeString(clean)
	return Recorded{b, form}, err == nil && len(b) > 0
}

func base64ed(text string) (Recorded, bool) {
	text = strings.TrimRight(strings.Join(strings.Fields(text), ""), "=")
	enc := base64.RawStdEncoding
	if strings.ContainsAny(text, "-_") {
		enc = base64.RawURLEncoding
	}
	b, err := enc.DecodeString(text)
	return Recorded{b, "base64"}, err == nil && len(b) >= headLen
}
