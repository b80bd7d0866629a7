package sim

import (
	"context"
	"testing"
)

// BenchmarkFloor is one device a round: two handshakes, thirty round trips,
// both ends in this process.
func BenchmarkFloor(b *testing.B) {
	d, err := New(Config{UUID: testUUID(), Addr: ownAddress(), Personality: "12", Suffix: "lab.test", Roots: sharedLab().hashes()})
	if err != nil {
		b.Fatal(err)
	}
	if err := d.Start(); err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Floor(context.Background(), FloorConfig{Devices: []*Device{d}, Client: sharedLab().tls()}); err != nil {
			b.Fatal(err)
		}
	}
}
