package rest_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/rest/apitest"
	"github.com/provisiond/provisiond/store"
)

// TestSettingsOfADevice: what became of a profile's settings is in the device's
// answer, in the order in which a device gets them.
func TestSettingsOfADevice(t *testing.T) {
	t.Parallel()
	both(t, settingsOfADevice)
}

func settingsOfADevice(t *testing.T, b *apitest.Bench) {
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

// TestAUsersPassword: a user's password is read like the administrator's, with its
// record, and stands in the history without its value.
func TestAUsersPassword(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		u := b.Provisioned(apitest.Device{}, "Admin-Passw0rd!", "Mebx-Passw0rd!")
		b.Write(func(ctx context.Context, tx *store.Tx) error {
			p, err := tx.StageUser(ctx, u, 1, "helpdesk", amt.NewSecret("Helpdesk-1!"))
			if err != nil {
				return err
			}
			return tx.ActivateUser(ctx, p.ID)
		})
		c := b.Client(b.Token(api.Admin))
		got, err := c.Reveal(t.Context(), u.String(), "user:helpdesk", "ticket 4711")
		if err != nil || got.Password != "Helpdesk-1!" {
			t.Errorf("%q, %v", got.Password, err)
		}
		if _, err := c.Reveal(t.Context(), u.String(), "user:nobody", "ticket 4711"); code(err) == "" {
			t.Errorf("a user that it does not have: %v", err)
		}
		list, err := c.Secrets(t.Context(), u.String())
		if err != nil || !slices.ContainsFunc(list.Secrets,
			func(s api.SecretInfo) bool { return s.Kind == "user:helpdesk" && s.State == "active" }) {
			t.Errorf("%+v, %v", list, err)
		}
		b.Read(func(ctx context.Context, tx *store.Tx) error {
			records, err := tx.AuditRecords(ctx, 0, 100)
			if err == nil && !slices.ContainsFunc(records, func(r store.AuditRecord) bool {
				return r.Action == "secret.reveal" && fmt.Sprint(r.Detail["kind"]) == "user:helpdesk" &&
					fmt.Sprint(r.Detail["reason"]) == "ticket 4711"
			}) {
				t.Errorf("no record of it: %+v", records)
			}
			return err
		})
	})
}
