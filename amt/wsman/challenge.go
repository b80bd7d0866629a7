package wsman

import "strings"

// A challenge is one way to log in that a 401 offers.
type challenge struct {
	scheme string // lower case
	params []param
}

type param struct{ name, value string } // name in lower case

func (c *challenge) get(name string) string {
	for _, p := range c.params {
		if p.name == name {
			return p.value
		}
	}
	return ""
}

const (
	maxChallenges = 16
	maxParams     = 32
)

// parseChallenges reads the WWW-Authenticate lines of one answer (RFC 9110
// 11.6.1). Several lines and several challenges in a line mean the same, and a
// comma divides both parameters and challenges, so a word followed by = is a
// parameter of the challenge at hand and any other word begins the next one.
// parseChallenges skips what it cannot read: we can still talk to a device that
// offers a strange scheme beside Digest.
func parseChallenges(lines []string) []challenge {
	var out []challenge
	for _, line := range lines {
		out = parseChallengeLine(out, line)
	}
	return out
}

func parseChallengeLine(out []challenge, s string) []challenge {
	first := len(out)
	for {
		s = strings.TrimLeft(s, " \t,")
		if s == "" || len(out) >= maxChallenges {
			return out
		}
		word, rest := token(s)
		if word == "" { // no grammar allows this byte: skip it
			s = s[1:]
			continue
		}
		after := strings.TrimLeft(rest, " \t")
		if strings.HasPrefix(after, "=") && len(out) > first {
			value, tail := paramValue(strings.TrimLeft(after[1:], " \t"))
			if c := &out[len(out)-1]; len(c.params) < maxParams {
				c.params = append(c.params, param{strings.ToLower(word), value})
			}
			s = tail
			continue
		}
		out = append(out, challenge{scheme: strings.ToLower(word)})
		// A token68, as in "Negotiate YII=", has no name and means nothing here.
		if t68 := strings.TrimLeft(rest, " \t"); rest != t68 {
			if n := token68(t68); n > 0 {
				rest = t68[n:]
			}
		}
		s = rest
	}
}

// token reads RFC 9110's token at the start of s.
func token(s string) (word, rest string) {
	i := 0
	for i < len(s) && isTokenByte(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

func isTokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// token68 is the length of a token68 that stands alone up to a comma or the
// end; 0 before a parameter or the end.
func token68(s string) int {
	i := 0
	for i < len(s) && (isTokenByte(s[i]) || s[i] == '/') {
		i++
	}
	for i < len(s) && s[i] == '=' {
		i++
	}
	rest := strings.TrimLeft(s[i:], " \t")
	if i == 0 || rest != "" && rest[0] != ',' {
		return 0
	}
	return i
}

// paramValue reads a quoted string, or everything up to the next comma or
// space: firmware leaves out quotes that RFC 2617 wants.
func paramValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, ", \t")
		if end < 0 {
			end = len(s)
		}
		return s[:end], s[end:]
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:]
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}
