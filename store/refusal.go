package store

import (
	"context"
	"slices"
	"strings"

	"github.com/provisiond/provisiond/amt"
)

// AttemptFailed is the event of a failed attempt.
const AttemptFailed = "attempt_failed"

// Refusal is what a device's answer to our certificates depended on. The failed
// attempt's event keeps it, so that no run asks the device the same again until
// one of these has changed.
type Refusal struct {
	Certificates []string // in the form of certs.Offers
	Suffix       string
	Address      string
}

// Data is the refusal in the event's form.
func (r Refusal) Data() map[string]any {
	return map[string]any{"offered": strings.Join(r.Certificates, " "), "suffix": r.Suffix, "address": r.Address}
}

// LastRefusal reads what the device's last failed attempt depended on;
// ErrNotFound if its event does not say.
func (tx *Tx) LastRefusal(ctx context.Context, uuid amt.UUID) (Refusal, error) {
	last, err := tx.Events(ctx, EventFilter{UUID: uuid, Name: AttemptFailed, Newest: true, Limit: 1})
	if err != nil {
		return Refusal{}, err
	}
	if len(last) == 0 || last[0].Data["offered"] == nil {
		return Refusal{}, ErrNotFound
	}
	word := func(key string) string { s, _ := last[0].Data[key].(string); return s }
	return Refusal{Certificates: strings.Fields(word("offered")), Suffix: word("suffix"), Address: word("address")}, nil
}

// Differs says in words what has changed since; "": nothing.
func (r Refusal) Differs(now Refusal) string {
	switch {
	case !slices.Equal(r.Certificates, now.Certificates):
		return "the certificates that fit it have changed"
	case !strings.EqualFold(r.Suffix, now.Suffix):
		return "its DNS suffix is " + now.Suffix + " now"
	case r.Address != now.Address:
		return "its address is " + now.Address + " now"
	}
	return ""
}
