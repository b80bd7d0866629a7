package operate

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/provisiond/provisiond/store"
)

// Ago writes a duration for people.
func Ago(d time.Duration) string {
	switch d = d.Abs(); {
	case d < 2*time.Second:
		return "a second"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d seconds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// Vouched is a person's word for a certificate: its fingerprint, or first.
func Vouched(word []byte) string {
	if bytes.Equal(word, store.VouchFirst) {
		return "first"
	}
	return hex.EncodeToString(word)
}
