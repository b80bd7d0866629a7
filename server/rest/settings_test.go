package rest_test

import (
	"context"
	"testing"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/rest/apitest"
	"github.com/provisiond/provisiond/store"
)

// TestSettingsOfADevice: what became of a profile's settings is in the device's
// answer, in the order in which a device gets them.
func TestSettingsOfADevice(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	u := b.Seen(apitest.Device{Lifecycle: "provisioned"})
	b.Write(func(ctx context.Context, tx *store.Tx) error {
		return tx.PutDeviceSettings(ctx, u, []store.DeviceSetting{
			{Name: "consent", State: store.SettingRefused, Detail: "MEBx keeps it"}, {Name: "network", State: store.SettingOK}, {Name: "kvm", State: store.SettingUnsupported},
		})
	})
	d, err := b.Client(b.Token(api.Viewer)).Device(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"network ok ", "kvm unsupported ", "consent refused MEBx keeps it"}
	for i, s := range d.Settings {
		if got := s.Name + " " + s.State + " " + s.Detail; len(d.Settings) != len(want) || got != want[i] || s.At.IsZero() {
			t.Errorf("%d: %q at %s, want %q", i, got, s.At, want[i])
		}
	}
	if len(d.Settings) != len(want) {
		t.Errorf("%d settings, want %d", len(d.Settings), len(want))
	}
}
