//go:build race

package endtoend

// raceEnabled: this test binary watches for data races, and so do the daemons
// it builds; fleets are smaller then.
const raceEnabled = true
