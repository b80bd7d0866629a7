package admit

import (
	"net/netip"
	"testing"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// TestStrayHello: whoever reaches the hello port can say a managed device's UUID,
// in a hello that leads nowhere. The device stays managed and where it is, the
// timeline says so once, and what comes next is judged as if it had not come.
func TestStrayHello(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		for _, now := range []struct {
			lifecycle store.Lifecycle
			reason    reason.Code
		}{{store.Provisioned, ""}, {store.Drifted, reason.ProfileDrift}, {store.PendingApproval, reason.ReappearedUnprovisioned}} {
			t.Run(engine+"/"+string(now.lifecycle), func(t *testing.T) {
				t.Parallel()
				ctx := t.Context()
				p := openPolicy()
				p.Reprovision = ReprovisionApprove
				d := newDesk(t, engine, false, p)
				first := plain(1, ours)
				u := first.UUID
				if err := d.DB.Write(ctx, func(tx *store.Tx) error {
					if _, _, err := tx.SeeHello(ctx, seen(first)); err != nil {
						return err
					}
					yes := true
					if err := tx.UpdateDevice(ctx, u, store.DeviceFacts{Approved: &yes}); err != nil {
						return err
					}
					return tx.Transition(ctx, store.Transition{UUID: u, To: now.lifecycle, Reason: now.reason, Detail: "as it was",
						Event: "staged"})
				}); err != nil {
					t.Fatal(err)
				}
				psk, outside := first, first
				psk.Version, psk.Hashes, psk.From = hello.VersionPSK, nil, netip.MustParseAddrPort("10.66.6.6:1")
				outside.From = netip.MustParseAddrPort("192.0.2.66:1")
				for _, stray := range []struct {
					hello hello.Hello
					want  hello.Result
				}{{psk, hello.DeniedDevice}, {outside, hello.DeniedNetwork}, {outside, hello.DeniedNetwork}} {
					got, err := d.HandleHello(ctx, stray.hello)
					if err != nil || got != stray.want {
						t.Errorf("%s %v, want %s", got, err, stray.want)
					}
				}
				d.stands(t, u, now.lifecycle, now.reason, first.From.Addr())
				var events []store.Event
				if err := d.DB.Read(ctx, func(tx *store.Tx) (err error) {
					events, err = tx.Events(ctx, store.EventFilter{UUID: u, Name: strayHello})
					return err
				}); err != nil || len(events) != 1 || events[0].Reason != reason.HelloVersionUnsupported {
					t.Errorf("the timeline has %v (%v), want one stray", events, err)
				}
				// A hello that could lead somewhere still asks a person.
				if got, err := d.HandleHello(ctx, first); err != nil || got != hello.DeniedDevice {
					t.Errorf("%s %v, want %s", got, err, hello.DeniedDevice)
				}
				d.stands(t, u, store.PendingApproval, reason.ReappearedUnprovisioned, first.From.Addr())
			})
		}
	}
}

// stands fails unless a device is as said.
func (d *desk) stands(t *testing.T, u amt.UUID, want store.Lifecycle, code reason.Code, at netip.Addr) {
	t.Helper()
	var dev store.Device
	if err := d.DB.Read(t.Context(), func(tx *store.Tx) (err error) {
		dev, err = tx.Device(t.Context(), u)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if dev.Lifecycle != want || dev.Reason != code || dev.Address != at {
		t.Errorf("%s %s at %s, want %s %s at %s", dev.Lifecycle, dev.Reason, dev.Address, want, code, at)
	}
}
