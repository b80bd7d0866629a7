package server

import (
	"context"
	"net/netip"
	"testing"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/hello/receive"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/amt/sim/simtest"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/store"
)

// TestALoudNetworkKeepsItsDevices: 107 machines that nobody knows say hello until
// their /24 may say no more. A device on the list and one that a person approved,
// both in that network, are set up; a new machine is not even looked at.
func TestALoudNetworkKeepsItsDevices(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) {
		o.Admission = admit.Approve
		o.Limits = receive.Limits{PerSourcePerMinute: 20, PerNetworkPerMinute: 20, Connections: 512}
	}, func(t *testing.T, l *lab) {
		network := simtest.Subnet()
		at := func(last byte) netip.Addr { return simtest.Host(network, last) }
		listed := l.device(sim.Faults{}, func(c *sim.Config) { c.Addr = at(200) })
		approved := l.device(sim.Faults{}, func(c *sim.Config) { c.Addr = at(201) })
		l.says(approved)
		l.untilState(approved.UUID(), store.PendingApproval)
		l.write(func(ctx context.Context, tx *store.Tx) error {
			yes := true
			if err := tx.UpdateDevice(ctx, approved.UUID(), store.DeviceFacts{Approved: &yes}); err != nil {
				return err
			}
			_, err := tx.Authorise(ctx, store.AuthorisedDevice{Kind: "uuid", Value: listed.UUID().String(), CreatedBy: "test"})
			return err
		})
		var last amt.UUID
		for i := range byte(107) {
			last = newUUID()
			l.hello(at(1+i), last, 0, l.roots())
		}
		counted := func(r hello.Result) float64 { return l.metric("provisiond_hello_received_total", "result", string(r)) }
		if !waitFor(t, func() bool { return counted(hello.RateLimited)+counted(hello.DeniedDevice) >= 108 }) {
			t.Fatal("the hellos were not counted")
		}
		l.says(listed)
		l.untilState(listed.UUID(), store.Provisioned)
		l.says(approved)
		l.untilState(approved.UUID(), store.Provisioned)
		l.read(func(ctx context.Context, tx *store.Tx) error {
			if d, err := tx.Device(ctx, last); err == nil {
				t.Errorf("a stranger beyond the limit is %s", d.Lifecycle)
			}
			return nil
		})
	})
}
