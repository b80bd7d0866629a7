package rest

import (
	"context"
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// RetryInput is the command to try again.
type RetryInput struct {
	OneDevice
	Body *api.Retry `required:"false"`
}

// TrustInput is a word for a device's certificate.
type TrustInput struct {
	OneDevice
	Body api.Retry
}

// fingerprintOf reads a fingerprint as people copy it; nil is none.
func fingerprintOf(v api.Vouch) ([]byte, error) {
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
		return nil, invalid("body.fingerprint", "want the SHA-256 of a certificate, 64 hexadecimal digits; openssl x509 -noout -fingerprint -sha256 prints it")
	case v.TrustFirst:
		return nil, invalid("body.trust_first", "name a fingerprint, or trust whoever answers first, not both")
	}
	return sum, nil
}

// given reports whether there is a word at all.
func given(v api.Vouch) bool { return v.Fingerprint != "" || v.TrustFirst }

// vouch keeps a person's word in the command's transaction; the audit has it.
func (c *command) vouch(v api.Vouch) error {
	sum, err := fingerprintOf(v)
	if err != nil || !given(v) {
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
func (c *command) unvouched() string {
	d := c.device
	switch {
	case c.vouched != "" || len(d.Vouched) > 0:
		return ""
	case len(d.PeerSeen) > 0:
		return "; it is answered to the device's known key only, and what answered last at " + amt.Text(d.Address) + " shows the certificate sha256:" + hex.EncodeToString(d.PeerSeen) +
			": once you know that it is the device's: provctl device trust " + d.UUID.String() + " --fingerprint " + hex.EncodeToString(d.PeerSeen)
	case len(d.PeerFingerprint) == 0 || d.Generation == 0:
		return "; it is answered to nobody for whose certificate no person has vouched: provctl device trust " + d.UUID.String() + " --fingerprint SHA256, or --first for whoever answers; provctl device why shows which certificate it was"
	}
	return ""
}

func (s *Server) vouchRoutes(to huma.API) {
	add(s, to, huma.Operation{OperationID: "retry-device", Method: http.MethodPost, Path: "/api/v1/devices/{uuid}/retry", Summary: "Try again now",
		Description: "Brings a waiting run forward or starts a new one.", Tags: []string{"devices"}},
		func(ctx context.Context, in *RetryInput) (api.ActionResult, error) {
			b := api.Retry{}
			if in.Body != nil {
				b = *in.Body
			}
			return s.command(ctx, &ActionInput{OneDevice: in.OneDevice, Body: &api.Action{Note: b.Note}}, "retry", func(c *command) error {
				if err := c.vouch(b.Vouch); err != nil {
					return err
				}
				return c.retry()
			})
		})
	add(s, to, huma.Operation{OperationID: "trust-device", Method: http.MethodPost, Path: "/api/v1/devices/{uuid}/trust", Summary: "Vouch for the certificate that a device shows",
		Description: "For a device whose key is not known here, or has changed: passwords that it may hold are answered to the certificate with this fingerprint, or to the first that answers. The next contact, which is begun, makes its key the device's, and the word is spent.", Tags: []string{"devices"}},
		func(ctx context.Context, in *TrustInput) (api.ActionResult, error) {
			if !given(in.Body.Vouch) {
				return api.ActionResult{}, invalid("body.fingerprint", "want the fingerprint of the device's certificate, or trust_first")
			}
			return s.command(ctx, &ActionInput{OneDevice: in.OneDevice, Body: &api.Action{Note: in.Body.Note}}, "trust", func(c *command) error {
				if err := c.vouch(in.Body.Vouch); err != nil {
					return err
				}
				return c.callTrusted()
			})
		})
}

// callTrusted begins the contact that a person's word is for.
func (c *command) callTrusted() (err error) {
	d := c.device
	switch {
	case c.live != nil && c.live.State == store.RunRunning:
		c.said = "the attempt after the one that is under way takes it"
		err = c.event("trusted", c.live.ID)
	case c.live != nil:
		err = c.hasten("trusted")
	case managed(d.Lifecycle):
		err = c.order("maintain", "check", "", "trusted")
	case Refused("retry", d) == nil:
		err = c.start("trusted", "it is called now")
	default:
		c.said = "its next contact takes it"
		err = c.event("trusted", 0)
	}
	c.said = "vouched for " + c.vouched + "; " + c.said
	return err
}
