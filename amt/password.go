package amt

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	lower   = "abcdefghijklmnopqrstuvwxyz"
	upper   = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits  = "0123456789"
	special = "!#$%*+-.=?@^"

	// typed lacks what a person confuses, and y, z and the symbols that move
	// between a US and other keyboard layouts: MEBx reads US keys only.
	typed = "abcdefghijkmnpqrstuvwx" + "ABCDEFGHJKLMNPQRSTUVWX" + "23456789" + "!-"
)

// MaxUserName and the password limits are the firmware's (amt/protocol.md 8).
const (
	MinPassword = 8
	MaxPassword = 32
)

// NewAdminPassword makes 32 random characters that satisfy CheckPassword: about
// 190 bits. rand is crypto/rand.Reader outside tests.
func NewAdminPassword(rand io.Reader) (Secret, error) {
	return newPassword(rand, lower+upper+digits+special, MaxPassword)
}

// NewMEBxPassword makes 16 random characters that a person can type at the
// machine's own keyboard.
func NewMEBxPassword(rand io.Reader) (Secret, error) { return newPassword(rand, typed, 16) }

// newPassword draws whole passwords until one has every class, so that no
// position is more likely to hold a digit than another.
func newPassword(rand io.Reader, alphabet string, n int) (Secret, error) {
	limit := byte(256 / len(alphabet) * len(alphabet))
	one := make([]byte, 1)
	for range 1000 {
		out := make([]byte, 0, n)
		for len(out) < n {
			if _, err := io.ReadFull(rand, one); err != nil {
				return Secret{}, fmt.Errorf("make a password: %w", err)
			}
			if limit != 0 && one[0] >= limit {
				continue
			}
			out = append(out, alphabet[int(one[0])%len(alphabet)])
		}
		if CheckPassword(string(out)) == nil {
			return NewSecret(string(out)), nil
		}
	}
	return Secret{}, errors.New("make a password: the random source repeats itself")
}

// CheckPassword applies the firmware's rule. The network admin password reaches
// a device only as a hash, so the device cannot check it and we must. The error
// names the rule and never the password.
func CheckPassword(p string) error {
	if len(p) < MinPassword || len(p) > MaxPassword {
		return fmt.Errorf("an AMT password has %d to %d characters, this one has %d", MinPassword, MaxPassword, len(p))
	}
	var hasLower, hasUpper, hasDigit, hasSpecial bool
	for i := range len(p) {
		switch c := p[i]; {
		case c < 32 || c > 126:
			return errors.New("an AMT password holds 7-bit ASCII only")
		case strings.IndexByte(`:,"`, c) >= 0:
			return errors.New(`an AMT password holds no colon, comma or double quote`)
		case c >= 'a' && c <= 'z':
			hasLower = true
		case c >= 'A' && c <= 'Z':
			hasUpper = true
		case c >= '0' && c <= '9':
			hasDigit = true
		case c != '_' && c != ' ': // allowed, but no special character
			hasSpecial = true
		}
	}
	switch {
	case !hasLower || !hasUpper:
		return errors.New("an AMT password needs a lower-case and an upper-case letter")
	case !hasDigit:
		return errors.New("an AMT password needs a digit")
	case !hasSpecial:
		return errors.New("an AMT password needs a special character; underscore and space do not count")
	}
	return nil
}
