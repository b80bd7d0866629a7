package profile

import (
	"math"
	"time"
)

// Network is what AMT_GeneralSettings holds beside the names: how the device answers
// and how its name comes into DNS. Firmware knows all of it from AMT 6 on, ping from 3.
type Network struct {
	// FQDN is "shared" when the device bears the operating system's name, and
	// "dedicated" when it has one of its own: firmware's SharedFQDN.
	FQDN string `json:"fqdn,omitempty" yaml:"fqdn,omitempty"`
	// Ping answers ICMP echo, RMCPPing the discovery on port 623.
	Ping     *bool `json:"ping,omitempty" yaml:"ping,omitempty"`
	RMCPPing *bool `json:"rmcp_ping,omitempty" yaml:"rmcp_ping,omitempty"`
	DDNS     *DDNS `json:"ddns,omitempty" yaml:"ddns,omitempty"`
	// PreferredFamily is "ipv4" or "ipv6".
	PreferredFamily string `json:"preferred_family,omitempty" yaml:"preferred_family,omitempty"`
}

// DDNS is who writes the device's name into DNS.
type DDNS struct {
	// Mode is "off", "dhcp" (the DHCP server is asked to) or "firmware" (which
	// updates forward zones that take insecure updates).
	Mode     string    `json:"mode,omitempty" yaml:"mode,omitempty"`
	TTL      *Duration `json:"ttl,omitempty" yaml:"ttl,omitempty"`
	Interval *Duration `json:"interval,omitempty" yaml:"interval,omitempty"`
}

func (n *Network) validate(p *problems) {
	if n == nil {
		return
	}
	p.word("network.fqdn", n.FQDN, "shared", "dedicated")
	p.word("network.preferred_family", n.PreferredFamily, "ipv4", "ipv6")
	if d := n.DDNS; d != nil {
		p.word("network.ddns.mode", d.Mode, "off", "dhcp", "firmware")
		p.within("network.ddns.ttl", d.TTL, time.Second, 0, math.MaxInt32*time.Second)
		p.within("network.ddns.interval", d.Interval, time.Minute, 0, 65535*time.Minute)
		if d.Interval != nil && *d.Interval > 0 && time.Duration(*d.Interval) < 20*time.Minute {
			p.add("network.ddns.interval", "%s is too often for firmware: want 0 (never) or 20m at least", d.Interval)
		}
		if d.Mode == "dhcp" && n.FQDN == "dedicated" {
			p.add("network.ddns.mode", "dhcp works with a shared name only (fqdn: shared)")
		}
	}
}

// TimeSync is who may set the device's clock beside this server.
type TimeSync struct {
	// LocalSync lets the operating system set it.
	LocalSync *bool `json:"local_sync,omitempty" yaml:"local_sync,omitempty"`
}
