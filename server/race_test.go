//go:build race

package server

import "time"

// raceEnabled lets a test that only repeats itself repeat less often where
// every memory access is watched.
const raceEnabled = true

// patience is how long a test waits for what must come.
const patience = 3 * time.Minute
