package certs

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"regexp"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/typed"
)

// PEM comes as people have it: joined without a line end, quoted in a mail,
// indented in YAML, escaped in JSON, with dashes that a word processor made
// longer. A text is divided at its BEGIN and END lines, wherever they stand.
// Every BEGIN line is read, or named with its line.

// marker is a BEGIN or END line, or what is left of one.
var marker = regexp.MustCompile(`[-\x{2010}-\x{2015}]{2,5}[ \x{a0}]?(BEGIN|END)\b[ \x{a0}]?([A-Z0-9 \x{a0}#._/]*?)[ \x{a0}]?(?:[-\x{2010}-\x{2015}]{2,5}|[\r\n]|$)`)

// smallMarker is a whole BEGIN or END line that an editor took for a sentence.
var smallMarker = regexp.MustCompile(`(?i)-----(?:BEGIN|END) [A-Z0-9 #._/]+-----`)

// escapes are those of JSON, of variables that hold a text in one line, of web
// pages and of word processors.
var escapes = strings.NewReplacer(`\r\n`, "\n", `\n`, "\n", `\r`, "\n", `\t`, " ", `\/`, "/", `\par`, "\n", "\ufeff", "",
	`\u002B`, "+", `\u002b`, "+", `\u002F`, "/", `\u002f`, "/", `\u003D`, "=", `\u003d`, "=",
	"<br>", "\n", "<br/>", "\n", "<br />", "\n", "<BR>", "\n", "&#10;", "\n", "&#13;", "\n", "&#xA;", "\n", "&#xD;", "\n",
	"&#43;", "+", "&#x2B;", "+", "&#x2b;", "+", "&#47;", "/", "&#x2F;", "/", "&#x2f;", "/", "&#61;", "=", "&#x3D;", "=", "&#x3d;", "=")

// edges are what quoting puts around a line; none of them is base64.
const edges = " \t\f\v>|\"'`,;\\*#()[]{}<&\u200b\u2018\u2019\u201c\u201d-\u2010\u2011\u2012\u2013\u2014\u2015"

// flat is text without the differences that mean nothing. Where files of several
// encodings were joined into one, the zeros of UTF-16 are taken out, since PEM is
// all ASCII.
func flat(data []byte) string {
	text, _ := typed.Text(data)
	if ascii := bytes.ReplaceAll(data, []byte{0}, nil); bytes.Count(ascii, []byte("BEGIN")) > bytes.Count(text, []byte("BEGIN")) {
		text = ascii
	}
	return smallMarker.ReplaceAllStringFunc(string(text), strings.ToUpper)
}

func (b *bundler) text(ctx context.Context, data []byte) error {
	text := flat(data)
	marks := marker.FindAllStringSubmatchIndex(text, -1)
	if !strings.Contains(text, "BEGIN") || len(marks) == 0 {
		return b.bare(ctx, text)
	}
	line, counted, blocks := 1, 0, 0
	file := b.at
	defer func() { b.at = file }()
	for i, m := range marks {
		line += lineEnds(text[counted:m[0]])
		counted = m[0]
		if i > 0 && text[marks[i-1][2]:marks[i-1][3]] == "END" {
			if err := b.between(ctx, text[marks[i-1][1]:m[0]]); err != nil {
				return err
			}
		}
		label, begins := text[m[4]:m[5]], text[m[2]:m[3]] == "BEGIN"
		if !begins {
			if i == 0 && looksLikeData(text[:m[0]]) || i > 0 && text[marks[i-1][2]:marks[i-1][3]] == "END" &&
				looksLikeData(text[marks[i-1][1]:m[0]]) {
				return reason.Because(reason.CertInputInvalid,
					"line %d: END %s without its BEGIN line: copy it again from the first dash on", line, amt.Clip(label))
			}
			continue
		}
		end, closed := len(text), false
		if i+1 < len(marks) {
			end, closed = marks[i+1][0], text[marks[i+1][2]:marks[i+1][3]] == "END"
		}
		if blocks++; blocks > maxCerts {
			return reason.Because(reason.CertInputInvalid, "more than %d PEM blocks", maxCerts)
		}
		b.at = place{file.file, line}
		body := text[m[1]:end]
		err := b.block(ctx, label, body, closed)
		switch {
		case err == nil:
		case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
			return err
		case !looksLikeData(body) && strings.TrimSpace(text[max(0, strings.LastIndexAny(text[:m[0]], "\r\n")):m[0]]) != "":
			b.ignore("line %d: BEGIN %s in a sentence", line, amt.Clip(label))
		default:
			return reasoned(err, "PEM block %d (%s, line %d)", blocks, amt.Clip(label), line)
		}
	}
	if last := marks[len(marks)-1]; text[last[2]:last[3]] == "END" {
		return b.between(ctx, text[last[1]:])
	}
	return nil
}

// between reads DER that somebody joined to PEM.
func (b *bundler) between(ctx context.Context, text string) error {
	der := []byte(strings.TrimLeft(text, blanks))
	if !isBinary(der) {
		return nil
	}
	return b.values(ctx, der, "")
}

// lineEnds counts those of Unix, Windows and old Macs.
func lineEnds(s string) int {
	return strings.Count(s, "\n") + strings.Count(s, "\r") - strings.Count(s, "\r\n")
}

// looksLikeData reports whether text holds a line's worth of base64.
func looksLikeData(text string) bool {
	run := 0
	for i := range len(text) {
		switch c := text[i]; {
		case isBase64(c):
			if run++; run >= 40 {
				return true
			}
		default:
			run = 0
		}
	}
	return false
}

func isBase64(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/'
}

// block reads what stands behind a BEGIN line. Without its END line, the length
// that the value itself names says where it ends.
func (b *bundler) block(ctx context.Context, label, body string, closed bool) error {
	headers, lines := divide(body)
	der, err := unarmour(lines, closed)
	if err == nil {
		if info := headers["DEK-Info"]; info != "" {
			return b.lockedPEM(ctx, info, der)
		}
		err = b.values(ctx, der, label)
	}
	var r *reason.Error
	if err == nil || errors.As(err, &r) && r.Code != reason.CertInputInvalid {
		return err
	}
	switch {
	case strings.Contains(label, "OPENSSH"):
		return reason.Because(reason.CertInputInvalid, "the key is in OpenSSH's own form: rewrite it with ssh-keygen -p -m PKCS8 -f FILE")
	case strings.Contains(label, "REQUEST"):
		b.ignore("a certificate request, which is not yet a certificate")
		return nil
	case strings.HasSuffix(label, "CRL"), strings.Contains(label, "PUBLIC KEY"), strings.Contains(label, "PARAM"),
		strings.Contains(label, "PGP"), strings.Contains(label, "ATTRIBUTE"):
		b.ignore("line %d: a PEM block %q", b.at.line, amt.Clip(label))
		return nil
	}
	return err
}

func (b *bundler) lockedPEM(ctx context.Context, info string, data []byte) error {
	u, err := pemUnlocking(info)
	if err != nil {
		return reasoned(err, "the encrypted private key")
	}
	plain, err := u.try(ctx, b.left, data, b.passwords, whole)
	switch {
	case errors.Is(err, errLocked):
		return b.wrongPassword("the encrypted private key", "")
	case err != nil:
		return err
	}
	return b.key(plain, "the private key")
}

// divide takes the quoting off, and the headers (RFC 1421) from the data.
func divide(body string) (headers map[string]string, lines []string) {
	headers = map[string]string{}
	for line := range strings.FieldsFuncSeq(escapes.Replace(body), func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.Trim(line, edges)
		if name, value, ok := strings.Cut(line, ":"); ok && len(lines) == 0 {
			headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
			continue
		}
		if line = strings.Join(strings.Fields(line), ""); line != "" && line != "+" { // a "+" joins the strings of a program
			lines = append(lines, line)
		}
	}
	return headers, lines
}

// unarmour decodes base64. Quoted-printable, which mail programs make of it, is
// undone: there "=3D" is a "=", and a "=" at a line's end is none.
func unarmour(lines []string, closed bool) ([]byte, error) {
	quoted := false
	for _, l := range lines {
		quoted = quoted || strings.Contains(l, "=3D")
	}
	var text []byte
	for i, l := range lines {
		if quoted {
			if i+1 < len(lines) {
				l = strings.TrimSuffix(l, "=")
			}
			l = strings.ReplaceAll(l, "=3D", "=")
		}
		text = append(text, l...)
		if !closed && complete(text) {
			break
		}
	}
	text = bytes.TrimRight(text, "=")
	for _, r := range string(text) {
		if r > 0x7f || !isBase64(byte(r)) {
			return nil, reason.Because(reason.CertInputInvalid, "it is damaged: %q is no base64. Copy it again", r)
		}
	}
	der := make([]byte, base64.RawStdEncoding.DecodedLen(len(text)))
	n, err := base64.RawStdEncoding.Decode(der, text)
	switch {
	case len(text) == 0:
		return nil, reason.Because(reason.CertInputInvalid, "nothing stands behind the BEGIN line: copy it again")
	case err != nil && !closed:
		return nil, reason.Because(reason.CertInputInvalid, "it has no END line and was cut short: copy it again")
	case err != nil:
		return nil, reason.Because(reason.CertInputInvalid,
			"it is damaged: a character of its base64 is missing or too many. Copy it again")
	}
	return der[:n], nil
}

// complete reports whether base64 holds as many bytes as the value in it says.
func complete(text []byte) bool {
	head := make([]byte, 6)
	if len(text) < 8 {
		return false
	}
	if _, err := base64.StdEncoding.Decode(head, text[:8]); err != nil {
		return false
	}
	_, _, rest, err := berTag(head)
	if err != nil {
		return false
	}
	length, indefinite, body, err := berLength(rest)
	have := base64.RawStdEncoding.DecodedLen(len(bytes.TrimRight(text, "=")))
	return err == nil && !indefinite && have >= len(head)-len(body)+length
}

// bare reads base64 that has no BEGIN line: alone, or as a value in the JSON of a
// vault, the YAML of a cluster, an XML signature or an e-mail.
func (b *bundler) bare(ctx context.Context, text string) error {
	if b.depth++; b.depth > maxArmour {
		return reason.Because(reason.CertInputInvalid, "base64 of base64 of base64: decode it and import what is in it")
	}
	defer func() { b.depth-- }()
	read := false
	for _, lines := range runs(text) {
		der, err := unarmour(lines, !strings.HasPrefix(lines[0], "M")) // DER says itself where it ends; a short word may follow it
		if inner := flat(der); err != nil || !isBinary(der) && !strings.Contains(inner, "-----BEGIN") && len(runs(inner)) == 0 {
			continue
		}
		read = true
		if err := b.file(ctx, der); err != nil {
			return err
		}
	}
	if read {
		return nil
	}
	head := strings.ToLower(strings.TrimSpace(text))
	head = head[:min(len(head), 2048)]
	switch {
	case isBinary([]byte(head)):
		return reason.Because(reason.CertInputInvalid, "a program took this for text%s", asBinary)
	case strings.HasPrefix(head, "<") && strings.Contains(head, "htm"):
		return stranger("this is a web page, perhaps the page that asks for a login, not the file: sign in there and download it again")
	case strings.Contains(head, "mime-version:"), strings.HasPrefix(head, "from:"), strings.HasPrefix(head, "received:"),
		strings.HasPrefix(head, "return-path:"):
		return stranger("this is an e-mail without a certificate in it that can be read: save what is attached to it and import that")
	}
	return stranger("this is not PEM, DER, PKCS#7, PFX or zip: name the file of the certificate or its key")
}

// maxArmour is how often base64 may hold base64.
const maxArmour = 3

// runs are the pieces of a text that are base64 and long enough to be more than a
// word: a whole line, lines that stand below one another, or a value in a line.
func runs(text string) (out [][]string) {
	var last []string // its lines are base64 and nothing else
	end := func() {
		if len(strings.Join(last, "")) >= minRun {
			out = append(out, last)
		}
		last = nil
	}
	for line := range strings.FieldsFuncSeq(escapes.Replace(text), func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.TrimRight(strings.Trim(line, edges), "=")
		words := strings.FieldsFunc(line, func(r rune) bool { return r > 0x7f || !isBase64(byte(r)) && r != '-' && r != '_' })
		if len(words) == 1 && words[0] == line && (len(last) == 0 || len(last[len(last)-1]) >= len(line)) {
			last = append(last, urlSafe.Replace(line))
			continue
		}
		end()
		for _, w := range words {
			if len(w) >= minRun {
				out = append(out, []string{urlSafe.Replace(w)})
			}
		}
	}
	end()
	return out
}

// urlSafe undoes base64 for addresses (RFC 4648 5).
var urlSafe = strings.NewReplacer("-", "+", "_", "/")

// minRun is how many letters a value has at least: the smallest key has more.
const minRun = 120
