//go:build race

package built

// Race: this test binary watches for data races.
const Race = true
