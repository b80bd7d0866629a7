package sim

import (
	"context"
	"testing"
)

func TestFloorGoesOverEveryDevice(t *testing.T) {
	t.Parallel()
	var devices []*Device
	for _, p := range []string{"3.2", "5", "9", "12", "16", "11-eof"} {
		devices = append(devices, startDevice(t, Config{Personality: p}))
	}
	res, err := Floor(context.Background(), FloorConfig{Devices: devices, Client: sharedLab().tls(), Workers: 2, RoundTrips: 5})
	if err != nil || res.Devices != 6 {
		t.Fatalf("%+v, %v", res, err)
	}
	for _, d := range devices {
		if s := d.Snapshot(); s.Handshakes < 2 || s.Requests != 5 {
			t.Errorf("%s: %d handshakes and %d requests, want 2 or more and 5", s.Personality, s.Handshakes, s.Requests)
		}
	}
}
