package operate

import (
	"crypto/rand"
	"encoding/hex"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// Fingerprint reads a fingerprint as people copy it; nil is none.
func Fingerprint(v api.Vouch) ([]byte, error) {
	if v.Fingerprint == "" {
		return nil, nil
	}
	text := strings.ToLower(strings.TrimSpace(v.Fingerprint))
	text = strings.TrimPrefix(strings.TrimPrefix(text, "sha256 fingerprint="), "sha256:")
	sum, err := hex.DecodeString(strings.Map(func(r rune) rune {
		if strings.ContainsRune(": -", r) {
			return -1
		}
		return r
	}, text))
	switch {
	case err != nil || len(sum) != 32:
		return nil, WrongField("body.fingerprint",
			"want the SHA-256 of a certificate, 64 hexadecimal digits; openssl x509 -noout -fingerprint -sha256 prints it")
	case v.TrustFirst:
		return nil, WrongField("body.trust_first", "name a fingerprint, or trust whoever answers first, not both")
	}
	return sum, nil
}

// Vouches reports whether there is a word at all.
func Vouches(v api.Vouch) bool { return v.Fingerprint != "" || v.TrustFirst }

// vouch keeps a person's word in the command's transaction; the audit has it.
func (c *given) vouch() error {
	v := c.Vouch
	sum, err := Fingerprint(v)
	if err != nil || !Vouches(v) {
		return err
	}
	c.vouched = "whoever answers first"
	if sum != nil {
		c.vouched = "sha256:" + hex.EncodeToString(sum)
	}
	return c.tx.Vouch(c.ctx, c.device.UUID, sum)
}

// unvouched says of a device whose certificate nobody knows how a password gets to
// it, "" when nothing is missing.
func (c *given) unvouched() string {
	d := c.device
	switch {
	case c.vouched != "" || len(d.Vouched) > 0:
		return ""
	case len(d.PeerSeen) > 0:
		return "; it is answered to the device's known key only, and what answered last at " + amt.Text(d.Address) +
			" shows the certificate sha256:" + hex.EncodeToString(d.PeerSeen) +
			": once you know that it is the device's: provctl device trust " + d.UUID.String() + " --fingerprint " +
			hex.EncodeToString(d.PeerSeen)
	case len(d.PeerFingerprint) == 0 || d.Generation == 0:
		return "; it is answered to nobody for whose certificate no person has vouched: provctl device trust " + d.UUID.String() +
			" --fingerprint SHA256, or --first for whoever answers; provctl device why shows which certificate it was"
	}
	return ""
}

// trust vouches for the certificate that a device shows, and begins the contact
// that the word is for.
func (c *given) trust() error {
	if !Vouches(c.Vouch) {
		return WrongField("body.fingerprint", "want the fingerprint of the device's certificate, or trust_first")
	}
	if err := c.vouch(); err != nil {
		return err
	}
	return c.callTrusted()
}

// callTrusted begins the contact that a person's word is for.
func (c *given) callTrusted() (err error) {
	d := c.device
	switch {
	case c.live != nil && c.live.State == store.RunRunning:
		c.Said = "the attempt after the one that is under way takes it"
		err = c.event("trusted", c.live.ID)
	case c.live != nil:
		err = c.hasten("trusted")
	case d.Lifecycle.Managed():
		err = c.order(Maintain, "check", order{event: "trusted"})
	case Refusal(Retry, d) == nil:
		err = c.start("trusted", "it is called now")
	default:
		c.Said = "its next contact takes it"
		err = c.event("trusted", 0)
	}
	c.Said = "vouched for " + c.vouched + "; " + c.Said
	return err
}

// adopt keeps a password from elsewhere as the newest candidate. The run that
// waits takes it with it and is brought forward, or a new one begins; where the
// device takes the password it is under management.
func (c *given) adopt() error {
	if c.live != nil && c.live.State == store.RunRunning {
		return working(*c.live)
	}
	mebx, err := amt.NewMEBxPassword(rand.Reader)
	if err != nil {
		return err
	}
	if _, err := c.tx.StageCredentials(c.ctx, c.device.UUID, 0, c.Password, mebx); err != nil {
		return err
	}
	if err := c.vouch(); err != nil {
		return err
	}
	if c.live == nil {
		err = c.start("adopted", "it is tried now")
	} else {
		err = c.hasten("adopted")
	}
	c.Said = "the password is kept; " + c.Said + c.unvouched()
	return err
}
