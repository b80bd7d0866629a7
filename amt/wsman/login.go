package wsman

import "github.com/provisiond/provisiond/amt"

// A Login is one name and password to answer a digest challenge with.
type Login struct {
	// Name says which stored password this is ("active", "candidate", "retired",
	// "factory"), for the journal.
	Name     string
	User     string
	Password amt.Secret
}
