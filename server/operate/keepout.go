package operate

import (
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

func (c *given) retire() error {
	if c.device.Lifecycle == store.Retired {
		c.Said = "it was retired already"
		return nil
	}
	c.Said = "retired; its record and passwords are kept"
	return c.stop(store.Retired, "", "retired")
}

func (c *given) quarantine() error {
	if c.device.Lifecycle == store.Quarantined {
		c.Said = "it was quarantined already"
		return nil
	}
	c.Said = "quarantined; its hellos are recorded and nothing else happens"
	return c.stop(store.Quarantined, reason.KeptOut, "quarantined")
}

func (c *given) restore() error {
	no := false
	if err := c.tx.UpdateDevice(c.ctx, c.device.UUID, store.DeviceFacts{Approved: &no}); err != nil {
		return err
	}
	c.Said = "restored; its next hello is looked at as if it were the first"
	if takenOut(c.device) {
		c.Said += "; it was under management, and such a device says none: provctl device retry " + c.device.UUID.String() +
			" looks whether it still is"
	}
	return c.transition(store.Discovered, "", "", "restored", nil)
}

// release forgets what was held against a device: the hellos before this
// moment, and what it looked like at its last contact.
func (c *given) release() error {
	d := c.device
	rebind := d.Lifecycle.Managed()
	mac, version, peer := "", "", []byte{}
	if err := c.tx.UpdateDevice(c.ctx, d.UUID, store.DeviceFacts{MAC: &mac, TLSVersion: &version, PeerFingerprint: &peer,
		PeerVerified: new(string)}); err != nil {
		return err
	}
	if rebind {
		c.Said = "what it looked like before is forgotten: the next contact is believed; for one now: provctl maintain " + d.UUID.String() +
			" --task check"
		return c.transition("", "", "", "rebound", nil)
	}
	if takenOut(d) && c.live == nil {
		return c.start("released", "released; it was under management, and such a device says no hello, so it is looked at now")
	}
	c.Said = "released; its next hello is looked at"
	return c.transition(store.Discovered, "", "", "released", nil)
}
