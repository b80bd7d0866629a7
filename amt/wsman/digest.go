package wsman

import (
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// digest is what auth keeps of the device's last challenge. The next challenge
// replaces it as a whole, so its memory never grows.
type digest struct {
	realm, nonce, opaque string
	hasOpaque            bool
	algorithm            string // in the challenge's spelling, "" if it names none
	qop                  string // "auth" or "auth-int"
	stale                bool
	nc                   uint32
}

// maxChallengeField bounds what a challenge can make us repeat in each request.
const maxChallengeField = 1024

// readDigest picks the Digest challenge that we can answer out of a 401. AMT
// speaks MD5 only; a device that offers SHA-256 beside it gets MD5 too. It
// prefers auth-int (AMT 14 and later): such an answer is good for this
// request's body alone, so that whoever passes it on cannot put another in its
// place (RFC 7616, 5.8). It never answers a challenge without qop (RFC 2069):
// the answer would not be bound to a nonce of ours, and no known release makes
// one.
func readDigest(lines []string) (digest, error) {
	found := false
	for _, c := range parseChallenges(lines) {
		if c.scheme != "digest" {
			continue
		}
		found = true
		d := digest{
			realm: c.get("realm"), nonce: c.get("nonce"), opaque: c.get("opaque"),
			algorithm: c.get("algorithm"), stale: strings.EqualFold(c.get("stale"), "true"),
		}
		for _, p := range c.params {
			d.hasOpaque = d.hasOpaque || p.name == "opaque"
		}
		if d.algorithm != "" && !strings.EqualFold(d.algorithm, "MD5") {
			continue
		}
		if d.nonce == "" || len(d.nonce) > maxChallengeField || len(d.realm) > maxChallengeField || len(d.opaque) > maxChallengeField {
			continue
		}
		if strings.ContainsFunc(d.nonce+d.realm+d.opaque, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			continue
		}
		qop, ok := chooseQop(c.get("qop"))
		if !ok {
			continue
		}
		d.qop = qop
		return d, nil
	}
	if found {
		return digest{}, fmt.Errorf("the device asks for a kind of digest login that is not MD5 with qop auth or auth-int")
	}
	return digest{}, fmt.Errorf("the device refuses the request and does not offer a digest login")
}

func chooseQop(offered string) (qop string, ok bool) {
	for q := range strings.FieldsFuncSeq(offered, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		switch strings.ToLower(q) {
		case "auth-int":
			return "auth-int", true
		case "auth":
			qop, ok = "auth", true
		}
	}
	return qop, ok
}

// authorize appends the Authorization header line of one request, and counts
// nc: a nonce's count never repeats.
func (d *digest) authorize(b *buffer, l Login, method, uri string, body []byte) {
	ha1 := md5hex(l.User, d.realm, l.Password.Reveal())
	var ha2 string
	if d.qop == "auth-int" {
		sum := md5.Sum(body)
		ha2 = md5hex(method, uri, hex.EncodeToString(sum[:]))
	} else {
		ha2 = md5hex(method, uri)
	}
	d.nc++
	var r [8]byte
	_, _ = rand.Read(r[:]) // never fails (crypto/rand)
	cnonce := hex.EncodeToString(r[:])
	nc := strconv.FormatUint(1<<32|uint64(d.nc), 16)[1:]
	response := md5hex(ha1, d.nonce, nc, cnonce, d.qop, ha2)

	b.raw(`Authorization: Digest username="`)
	b.quoted(l.User)
	b.raw(`", realm="`)
	b.quoted(d.realm)
	b.raw(`", nonce="`)
	b.quoted(d.nonce)
	b.raw(`", uri="`)
	b.quoted(uri)
	b.raw(`", response="`)
	b.raw(response)
	b.raw(`"`)
	if d.algorithm != "" {
		b.raw(`, algorithm=MD5`)
	}
	if d.hasOpaque {
		b.raw(`, opaque="`)
		b.quoted(d.opaque)
		b.raw(`"`)
	}
	b.raw(`, qop=` + d.qop + `, nc=` + nc + `, cnonce="` + cnonce + `"` + "\r\n")
}

// quoted writes the inside of a quoted string.
func (b *buffer) quoted(s string) {
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			*b = append(*b, '\\')
		}
		*b = append(*b, s[i])
	}
}

// md5hex is RFC 2617's H(a:b:…) in lower-case hexadecimal.
func md5hex(parts ...string) string {
	var buf [256]byte
	b := buf[:0]
	for i, p := range parts {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, p...)
	}
	sum := md5.Sum(b)
	clear(b)
	return hex.EncodeToString(sum[:])
}
