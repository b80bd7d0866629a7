// Package seal keeps secrets in envelopes.
package seal

// Keyring seals and opens.
type Keyring struct{}
