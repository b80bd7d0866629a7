package operate

import (
	"fmt"
	"net/netip"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

func (c *given) approve() error {
	if err := c.sameAddress(); err != nil {
		return err
	}
	d := c.device
	yes, facts := true, store.DeviceFacts{}
	facts.Approved = &yes
	if d.Lifecycle == store.Quarantined {
		// whoever approves has looked at the machine
		facts.MAC, facts.PeerFingerprint, facts.PeerVerified = new(string), &[]byte{}, new(string)
	}
	if err := c.tx.UpdateDevice(c.ctx, d.UUID, facts); err != nil {
		return err
	}
	switch d.Lifecycle {
	case store.Dormant:
		c.Said = "approved; it has fallen silent, so it is set up at its next hello"
		return c.transition("", d.Reason, d.Detail, "approved", nil)
	case store.PendingApproval, store.Quarantined, store.Unprovisioned:
		if c.live == nil {
			said := "approved"
			if d.Address.IsValid() {
				said += " at " + d.Address.String()
			}
			return c.start("approved", said+"; the run is queued")
		}
	}
	c.Said = "approved"
	if d.Lifecycle == store.Unprovisioning {
		c.Said = "approved; its setup is being undone all the same"
	} else if d.Approved {
		c.Said = "it was approved already"
	}
	return c.transition("", d.Reason, d.Detail, "approved", nil)
}

// reject is a person's no to a device that waits: what approve is the yes to,
// and takes back.
func (c *given) reject() error {
	if c.device.Lifecycle == store.Quarantined {
		c.Said = "it was turned away already"
		return nil
	}
	no := false
	if err := c.tx.UpdateDevice(c.ctx, c.device.UUID, store.DeviceFacts{Approved: &no}); err != nil {
		return err
	}
	c.Said = "turned away; its hellos are recorded and nothing else happens"
	return c.stop(store.Quarantined, reason.Rejected, "rejected")
}

func (c *given) retry() error {
	if err := c.vouch(); err != nil {
		return err
	}
	if c.live == nil {
		return c.start("retry_requested", "the run is queued")
	}
	return c.hasten("retry_requested")
}

// clearFailures begins nothing: a run that waits keeps its time.
func (c *given) clearFailures() error {
	none := 0
	if err := c.tx.UpdateDevice(c.ctx, c.device.UUID, store.DeviceFacts{Attempts: &none}); err != nil {
		return err
	}
	c.Said = "its failures are forgotten; its next hello is looked at at once"
	if c.live != nil {
		c.Said = fmt.Sprintf("its failures are forgotten; run %d comes when it was due, or at its next hello", c.live.ID)
	}
	return c.event("failures_cleared", 0)
}

// sameAddress refuses to approve another machine than the one that was looked at:
// whoever can say hello in the device's name may have done so since.
func (c *given) sameAddress() error {
	if c.Seen == "" {
		return nil
	}
	a, err := netip.ParseAddr(c.Seen)
	if a = a.Unmap(); err != nil {
		return WrongField("body.address", "want the address at which the device was seen, such as 10.20.3.7")
	}
	if d := c.device; a != d.Address {
		return Refuse("address_moved", "its UUID says hello from %[1]s by now, and not from %[2]s, so nobody is let in: find out which "+
			"machine it is (provctl device why %[3]s), then approve that address; if it is the one at %[2]s: provctl device address "+
			"%[3]s %[2]s",
			amt.Text(d.Address), a, d.UUID)
	}
	return nil
}
