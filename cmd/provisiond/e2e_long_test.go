//go:build long

package main

import "testing"

// The same claims on larger fleets.

func TestLongFleet(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, s *site) { fleetRun(t, s, 500) })
}

func TestLongKilled(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, s *site) { killedRun(t, s, 500) })
}

func TestLongTwoDaemons(t *testing.T) { twoDaemons(t, 300) }
