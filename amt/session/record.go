package session

import (
	"context"
	"strings"

	"github.com/provisiond/provisiond/amt/wsman"
)

// recordClasses are the four kinds of provisioning record, remote setup first. A
// device holds at most one.
var recordClasses = []string{"IPS_TLSProvisioningRecord", "IPS_AdminProvisioningRecord", "IPS_ManualProvisioningRecord",
	"IPS_ClientProvisioningRecord"}

// ProvisioningRecord reads the firmware's own account of its setup, the best
// evidence of which certificate and server it saw. A device that keeps none
// (before AMT 6) returns a Record without a Class. Do not ask before the
// commit: devices answer with an internal error.
func (s *Session) ProvisioningRecord(ctx context.Context) (Record, error) {
	for _, class := range recordClasses {
		items, err := s.client.Enumerate(ctx, class)
		if err != nil {
			if refused(err) {
				continue
			}
			return Record{}, err
		}
		if len(items) > 0 {
			return readRecord(items[0]), nil
		}
	}
	return Record{}, nil
}

func readRecord(n wsman.Node) Record {
	text := func(name string) string { return clipText(n.Child(name).Text()) }
	yes := func(name string) bool { v := n.Child(name).Bool(); return v != nil && *v }
	r := Record{
		Class:          clipText(n.Name()),
		Mode:           text("ProvisioningTLSMode"),
		ServerFQDN:     text("ProvServerFQDN"),
		SuffixFromMEBx: yes("SecureDNS"),
		HostInitiated:  yes("HostInitiated"),
		HashType:       text("SelectedHashType"),
		HashData:       text("SelectedHashData"),
		HashIsDefault:  yes("HashIsOemDefault"),
		ServerIP:       text("ProvServerIP"),
		TimeValid:      yes("IsTimeValid"),
		Raw:            map[string]string{},
	}
	for c := range n.Children() {
		if len(r.Raw) >= 64 {
			break
		}
		name, value := clipText(c.Name()), clipText(c.Text())
		if old, ok := r.Raw[name]; ok {
			value = strings.TrimPrefix(old+","+value, ",")
		}
		r.Raw[name] = value
	}
	return r
}
