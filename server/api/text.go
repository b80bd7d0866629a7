package api

import (
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
)

// maxText bounds every text that a device had a hand in.
const maxText = 512

// lines are put into one: some errors have several.
var lines = strings.NewReplacer("\r\n", "; ", "\n", "; ", "\t", " ")

// clean makes a text of a device harmless to show: bounded, valid UTF-8, and
// without control characters or marks that turn the direction of writing.
func Clean(s string) string {
	s = lines.Replace(s)
	ok := len(s) <= maxText && utf8.ValidString(s)
	for _, r := range s {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			ok = false
		}
	}
	if ok {
		return s
	}
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return Clip(s, maxText)
}

// clip shortens to at most n bytes without cutting a character.
func Clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// Roots names the hashes of a hello.
func Roots(hashes []amt.TrustHash) []TrustedRoot {
	out := make([]TrustedRoot, 0, len(hashes))
	for _, h := range hashes {
		name, _ := certs.RootName(h)
		out = append(out, TrustedRoot{Algorithm: h.Algorithm.String(), Hash: hex.EncodeToString(h.Sum), Name: name})
	}
	return out
}

// ReasonOf is the catalogue's entry for a code.
func ReasonOf(e reason.Entry) Reason {
	return Reason{
		Code: string(e.Code), Phase: string(e.Phase), Blame: string(e.Blame), Retry: string(e.Retry), Title: e.Title,
		Causes: append([]string{}, e.Causes...), Fix: append([]string{}, e.Fix...),
	}
}
