package session

import (
	"context"

	"github.com/provisiond/provisiond/amt/wsman"
)

// readOnlyGeneral are fields of AMT_GeneralSettings that a device computes.
// SetHostName sends them back as read, as known clients do; for a device that
// minds it repeats the Put without them.
var readOnlyGeneral = []string{"AMTNetworkEnabled", "DigestRealm", "PowerSource", "PrivacyLevel", "NetworkInterfaceEnabled",
	"ThunderboltDockEnabled", "WsmanOnlyMode"}

// SetHostName gives the device its name. With DHCP a device needs a host name
// before commit. All other general settings stay as they are.
func (s *Session) SetHostName(ctx context.Context, host, domain string) error {
	n, err := s.client.Get(ctx, general)
	if err != nil {
		return err
	}
	in := wsman.InstanceOf(general, n)
	in.Set("HostName", host)
	in.Set("DomainName", domain)
	return s.put(ctx, in, readOnlyGeneral)
}

// put writes an instance as read; if the device refuses, it tries once more
// without the fields that a device may call read only. A refusal is an answer,
// so nothing was changed.
func (s *Session) put(ctx context.Context, in *wsman.Instance, readOnly []string, sel ...wsman.Selector) error {
	err := s.client.Put(ctx, in, sel...)
	if err == nil || !refused(err) {
		return err
	}
	lean := false
	for _, name := range readOnly {
		lean = lean || in.Has(name)
	}
	if !lean {
		return err
	}
	in.Remove(readOnly...)
	if again := s.client.Put(ctx, in, sel...); again == nil || !refused(again) {
		return again
	}
	return err
}
