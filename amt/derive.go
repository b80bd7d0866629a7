package amt

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
)

// DerivePassword computes a device's admin password from a digest master
// password, the way Intel SCS 8 and later did: BASE64(HMAC-SHA256(key = master,
// message = realm || user)), cut to the 32 characters that firmware takes from
// a person. realm is the device's digest realm as the device said it.
//
// The only public description (Intel's forum, 2011) does not say the order of
// realm and user, nor the cut, and nobody has published a test vector.
// DerivedPasswords lists the other readings, for a login to try; this server
// sets this one. The result may lack a digit or a special character, which a
// person's password in MEBx must have; firmware hears only a hash of it and
// cannot mind.
func DerivePassword(master Secret, realm, user string) (Secret, error) {
	full, err := derive(master, realm+user)
	if err != nil {
		return Secret{}, err
	}
	return NewSecret(full[:MaxPassword]), nil
}

// DerivedPasswords lists all readings of the description, the likeliest first:
// realm before user and the other way round, cut to 32 characters and whole
// (only a hash reaches a device, so a longer one is possible). Spend at most
// one login on each, and no more in a row than on any device: firmware counts
// failed logins.
func DerivedPasswords(master Secret, realm, user string) ([]Secret, error) {
	a, err := derive(master, realm+user)
	if err != nil {
		return nil, err
	}
	b, err := derive(master, user+realm)
	if err != nil {
		return nil, err
	}
	return []Secret{NewSecret(a[:MaxPassword]), NewSecret(a), NewSecret(b[:MaxPassword]), NewSecret(b)}, nil
}

func derive(master Secret, message string) (string, error) {
	if master.IsZero() || message == "" {
		return "", errors.New("derive a password: no master password, or nothing to derive from")
	}
	h := hmac.New(sha256.New, []byte(master.Reveal()))
	h.Write([]byte(message))
	return base64.StdEncoding.EncodeToString(h.Sum(nil)), nil
}
