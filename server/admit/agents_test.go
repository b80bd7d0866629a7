package admit

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// TestAnAgentSpeaksForItsOwnDevice: a certificate that was stolen from one
// machine is good for that machine.
func TestAnAgentSpeaksForItsOwnDevice(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			p := openPolicy()
			p.Mode, p.Relays, p.OTP = Approve, []string{"Relay-1.example.com"}, OTPAgent
			d := newDesk(t, engine, false, p)
			at := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
			say := func(device int, fqdn string, via hello.Via, names ...string) (hello.Result, string) {
				t.Helper()
				why := ""
				h := plain(device, nil)
				h.Version, h.Via, h.FQDN, h.PeerNames, h.OTP = 0, via, fqdn, names, amt.NewSecret("Kx7-one-time")
				if len(names) > 0 {
					h.Peer = names[0]
				}
				h.Tell = func(code, said string) {
					if code != string(reason.AgentNotItsDevice) {
						t.Errorf("reason %s", code)
					}
					why = said
				}
				r, err := d.HandleHello(t.Context(), h)
				if err != nil {
					t.Fatal(err)
				}
				return r, why
			}
			err := d.DB.Write(t.Context(), func(tx *store.Tx) error {
				if err := tx.PutName(t.Context(), store.Name{UUID: uuidOf(1), FQDN: "pc1.example.com", Source: FromImport}); err != nil {
					return err
				}
				if _, err := tx.Authorise(t.Context(),
					store.AuthorisedDevice{Kind: "uuid", Value: uuidOf(2).String(), FQDN: "pc2.example.com"}); err != nil {
					return err
				}
				name, host, domain := "pc3.example.com", "pc3", "example.com"
				return tx.ImportDevice(t.Context(), uuidOf(3), "test",
					store.DeviceFacts{FQDN: &name, HostName: &host, Domain: &domain, ProvisionedAt: &at})
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				what   string
				device int
				fqdn   string
				via    hello.Via
				names  []string
				why    string // "": it is heard
			}{
				{"its own device, as imported", 1, "pc1.example.com", hello.ViaAgent, []string{"pc1.example.com"}, ""},
				{"its own device, by a DNS name", 1, "", hello.ViaAgent, []string{"agent", "pc1.example.com"}, ""},
				{"its own device, on the list", 2, "", hello.ViaAgent, []string{"pc2.example.com"}, ""},
				{"its own device, managed", 3, "", hello.ViaAgent, []string{"pc3.example.com"}, ""},
				{"somebody's imported device", 1, "", hello.ViaAgent, []string{"pc9.example.com"}, "has another name"},
				{"somebody's device on the list", 2, "", hello.ViaRelay, []string{"pc9.example.com"}, "has another name"},
				{"somebody's managed device", 3, "", hello.ViaAgent, []string{"pc9.example.com"}, "has another name"},
				{"a name that is not its own", 9, "dc1.example.com", hello.ViaAgent, []string{"pc9.example.com"}, "names its own device only"},
				{"no name in the certificate", 9, "", hello.ViaAgent, nil, "carries no name"},
				{"a new device, first", 9, "pc9.example.com", hello.ViaAgent, []string{"pc9.example.com"}, ""},
				{"the same again", 9, "pc9.example.com", hello.ViaAgent, []string{"pc9.example.com"}, ""},
				{"a second new device", 10, "", hello.ViaAgent, []string{"pc9.example.com"}, "which it announced first"},
				{"a new device of another agent", 9, "", hello.ViaAgent, []string{"pc8.example.com"}, "announced device"},
				{"a relay, for anybody", 1, "", hello.ViaRelay, []string{"relay-1.example.com"}, ""},
				{"a relay names devices", 11, "pc11.example.com", hello.ViaAgent, []string{"relay-1.example.com"}, ""},
				{"a name that begins like a relay's", 11, "", hello.ViaRelay, []string{"relay-1.example.com.evil.example"}, ""},
				{"the same for another device", 12, "", hello.ViaRelay, []string{"relay-1.example.com.evil.example"}, "which it announced first"},
			} {
				r, why := say(c.device, c.fqdn, c.via, c.names...)
				if heard := r != hello.DeniedDevice || why == ""; heard != (c.why == "") || !strings.Contains(why, c.why) {
					t.Errorf("%s: %s, %q; want %q", c.what, r, why, c.why)
				}
			}
			// Nothing of what was turned away is kept.
			err = d.DB.Read(t.Context(), func(tx *store.Tx) error {
				for _, n := range []int{10, 12} {
					if _, err := tx.Device(t.Context(), uuidOf(n)); err == nil {
						return fmt.Errorf("device %d was made by an agent that may not speak for it", n)
					}
				}
				all, err := tx.Hellos(t.Context(), uuidOf(1), 100)
				if len(all) != 3 {
					t.Errorf("%d hellos of device 1, want 3", len(all))
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
			// When the first has fallen silent for a day, another one may speak.
			if err := d.DB.Write(t.Context(), func(tx *store.Tx) error {
				return tx.Announce(t.Context(), store.Agent{UUID: uuidOf(9), Peer: "pc9.example.com", Expires: at})
			}); err != nil {
				t.Fatal(err)
			}
			if r, why := say(9, "", hello.ViaAgent, "pc8.example.com"); why != "" {
				t.Errorf("after a day: %s, %q", r, why)
			}
		})
	}
}
