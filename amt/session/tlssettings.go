package session

import (
	"context"
	"strconv"
	"strings"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/wsman"
)

func readTLSSetting(n wsman.Node) TLSSetting {
	t := TLSSetting{InstanceID: n.Child("InstanceID").Text()}
	if v := n.Child("Enabled").Bool(); v != nil {
		t.Enabled = *v
	}
	if v := n.Child("MutualAuthentication").Bool(); v != nil {
		t.Mutual = *v
	}
	for cn := range n.All("TrustedCN") {
		if v := cn.Text(); v != "" {
			t.TrustedCN = append(t.TrustedCN, v)
		}
	}
	return t
}

// EnableTLS switches TLS on for the network from the next commit on. It leaves
// the other instance, for the machine's own operating system, alone: with both
// changed in one setup session the device says success to the commit and
// ignores it (amt/protocol.md 6.8). mutual asks clients for certificates;
// trustedCN are the name suffixes that the device then accepts, none for any.
func (s *Session) EnableTLS(ctx context.Context, mutual bool, trustedCN []string) error {
	settings, err := s.client.Enumerate(ctx, tlsSettingClass)
	if err != nil {
		return recode(reason.TLSEnableFailed, err)
	}
	for _, n := range settings {
		id := n.Child("InstanceID").Text()
		// Find it by name: the order of the two differs.
		if !strings.Contains(id, "802.3") {
			continue
		}
		in := wsman.InstanceOf(tlsSettingClass, n)
		in.Set("Enabled", "true")
		in.Set("MutualAuthentication", strconv.FormatBool(mutual))
		in.SetAll("TrustedCN", trustedCN) // leave it out if there are none: the device refuses an empty element
		if v := n.Child("NonSecureConnectionsSupported").Bool(); v != nil && !*v {
			in.Remove("AcceptNonSecureConnections")
		}
		err := s.put(ctx, in, []string{"NonSecureConnectionsSupported", "ElementName"}, wsman.Selector{Name: "InstanceID", Value: id})
		return recode(reason.TLSEnableFailed, err)
	}
	return reason.Because(reason.TLSEnableFailed, "the device has no TLS settings for its network interface")
}
