// Package typed reads what people typed, pasted or had a program save as text:
// in UTF-8 or UTF-16, with a byte order mark or without.
//
// Text undoes the encoding and nothing else. Password and Line are the one
// reader of passwords and passphrases, wherever they come from: what stands in
// the file means what a person would type at a keyboard.
package typed

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
)

// MaxPassword bounds the file of a password, in bytes.
const MaxPassword = 4096

// Text gives text as UTF-8 without its byte order mark, and names the encoding
// it was in when that was another. Bytes that are no UTF-16 come back as they
// are: whether they are UTF-8 is for the caller to ask.
func Text(data []byte) (text []byte, from string) {
	switch {
	case bytes.HasPrefix(data, []byte{0xef, 0xbb, 0xbf}):
		return data[3:], ""
	case bytes.HasPrefix(data, []byte{0xff, 0xfe}):
		return utf16Text(data[2:], 0), "UTF-16LE"
	case bytes.HasPrefix(data, []byte{0xfe, 0xff}):
		return utf16Text(data[2:], 1), "UTF-16BE"
	}
	switch zeroAt(data) {
	case 1:
		return utf16Text(data, 0), "UTF-16LE"
	case 0:
		return utf16Text(data, 1), "UTF-16BE"
	}
	return data, ""
}

// zeroAt finds UTF-16 without its mark: in text of mostly Latin letters every
// second byte is zero, and no other is. It gives 0 or 1, or -1 for other data.
func zeroAt(data []byte) int {
	head := data[:min(len(data), 512)&^1]
	var zeros [2]int
	for i, b := range head {
		if b == 0 {
			zeros[i%2]++
		}
	}
	half := len(head) / 2
	for at := range zeros {
		if half > 0 && zeros[at]*10 >= half*9 && zeros[1-at] == 0 {
			return at
		}
	}
	return -1
}

// utf16Text decodes units whose high byte comes second (high 0: little-endian)
// or first. A last odd byte is dropped when it is the half of a line end.
func utf16Text(data []byte, high int) []byte {
	units := make([]uint16, 0, len(data)/2+1)
	for i := 0; i+1 < len(data); i += 2 {
		units = append(units, uint16(data[i+high])|uint16(data[i+1-high])<<8)
	}
	if n := len(data); n%2 == 1 && data[n-1] != '\n' && data[n-1] != 0 {
		units = append(units, unicode.ReplacementChar)
	}
	return []byte(string(utf16.Decode(units)))
}

// Password is what a file of one password holds. A byte order mark and line
// ends behind the password are no part of it; everything else is, blanks too.
// What no keyboard types is refused. Errors quote nothing of it.
func Password(data []byte) (string, error) {
	if len(data) > MaxPassword {
		return "", fmt.Errorf("is larger than a password: at most %d bytes are read", MaxPassword)
	}
	text, from := Text(data)
	s, err := utf8Of(text, from)
	if err != nil {
		return "", err
	}
	return s, typable(strings.TrimRight(s, "\r\n"), &s)
}

// PasswordFile is the password that a file holds. Errors name the file.
func PasswordFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return "", fmt.Errorf("%s is a directory: name the file in it", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxPassword+1))
	if err != nil {
		return "", err
	}
	s, err := Password(data)
	if err != nil {
		return "", fmt.Errorf("%s %w", name, err)
	}
	return s, nil
}

// typable refuses what cannot be typed, and puts the rest into *out.
func typable(s string, out *string) error {
	*out = s
	n := 0
	for _, r := range s {
		n++
		switch {
		case r == '\n' || r == '\r':
			return errors.New("holds more than one line: one password is wanted, in the first and only line")
		case unicode.IsControl(r):
			return fmt.Errorf("holds a control character (U+%04X, character %d), which nobody can type: write the file again", r, n)
		case r == '\ufeff':
			return fmt.Errorf("holds a byte order mark (U+FEFF, character %d) inside the password: write the file again", n)
		case r == unicode.ReplacementChar:
			return fmt.Errorf("holds a character that was lost in a change of encoding (U+FFFD, character %d): write the file again as "+
				"UTF-8", n)
		}
	}
	return nil
}

// utf8Of reads text that is no UTF-8 as Windows-1252, which is what Notepad and
// consoles of Western Europe and America call ANSI.
func utf8Of(text []byte, from string) (string, error) {
	if from != "" || utf8.Valid(text) {
		return string(text), nil
	}
	return charmap.Windows1252.NewDecoder().String(string(text))
}

// Line reads one line of a password from a stream: a pipe or a terminal.
func Line(r *bufio.Reader) (string, error) {
	var raw []byte
	for {
		part, err := r.ReadSlice('\n')
		raw = append(raw, part...)
		switch {
		case len(raw) > MaxPassword:
			return "", fmt.Errorf("is larger than a password: at most %d bytes are read", MaxPassword)
		case err == nil && half(raw):
			c, err := r.ReadByte() // the second half of a UTF-16LE line end
			if err == nil {
				raw = append(raw, c)
			}
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(raw) > 0:
		case err != nil:
			return "", err
		}
		return Password(raw)
	}
}

// half reports whether a line that ends in '\n' is UTF-16LE, so that one byte
// of its end is still to come.
func half(raw []byte) bool {
	if bytes.HasPrefix(raw, []byte{0xff, 0xfe}) {
		return true
	}
	return len(raw)%2 == 1 && len(raw) > 2 && zeroAt(raw[:len(raw)-1]) == 1
}
