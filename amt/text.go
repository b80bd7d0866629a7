package amt

import (
	"strings"
	"unicode/utf8"
)

// Clip keeps a stranger's words in a sentence short and printable.
func Clip(s string) string { return ClipTo(s, 120) }

// ClipTo keeps the first most bytes.
func ClipTo(s string, most int) string {
	end := ""
	if len(s) > most {
		for most > 0 && !utf8.RuneStart(s[most]) {
			most--
		}
		s, end = s[:most], "…"
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r < 0x20, r == 0x7f, r == utf8.RuneError, r >= 0x80 && r < 0xa0, // it steers a terminal
			r >= 0x200b && r <= 0x200f, r >= 0x2028 && r <= 0x202e, r >= 0x2066 && r <= 0x2069: // it cannot be seen, or turns the direction
			return '.'
		}
		return r
	}, s) + end
}

// Called is a device as people see it in a sentence: its UUID with its name beside it.
func Called(uuid, name string) string {
	if name == "" {
		return uuid
	}
	return uuid + " (" + Clip(name) + ")"
}

// Text is an address, or an address with a port; "" for none.
func Text[A interface {
	IsValid() bool
	String() string
}](a A) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
