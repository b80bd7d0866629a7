//go:build !race

package server

import "time"

const raceEnabled = false

// patience is how long a test waits for what must come; a machine may stand still
// for half a minute of it.
const patience = 2 * time.Minute
