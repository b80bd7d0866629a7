package sim

import "net/netip"

// Lease gives the device another address, as DHCP does, and keeps all its
// settings; an invalid address takes it off the network. It says no hello about
// that.
func (d *Device) Lease(addr netip.Addr) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutNetwork()
	d.cfg.Addr = addr
	if !addr.IsValid() {
		return nil
	}
	return d.listen()
}
