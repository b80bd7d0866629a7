//go:build !race

package server

import "time"

const raceEnabled = false

const patience = 40 * time.Second
