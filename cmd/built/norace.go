//go:build !race

package built

// Race: this test binary does not watch for data races.
const Race = false
