package wsman

import "github.com/provisiond/provisiond/amt"

// A Login is one name and password to answer a digest challenge with.
type Login struct {
	// Name says which stored password this is ("active", "candidate",
	// "retired", "factory"); it is what the journal shows.
	Name     string
	User     string
	Password amt.Secret
}
