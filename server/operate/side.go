package operate

import (
	"fmt"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// sideBySide shows what the firmware compares when it takes or refuses our
// certificate: its own suffix and roots on one side, each certificate's names
// and roots on the other, with the rule that decides.
func (r *Room) sideBySide(w *Answer, d store.Device, announced []amt.TrustHash, around []store.Device) {
	if !suffixMatters(d) {
		return
	}
	suffix := api.Clean(d.Suffix)
	switch {
	case suffix == "":
		w.Checks = append(w.Checks, "the device has not told its DNS suffix (DHCP option 15, or the PKI DNS suffix in MEBx); it compares "+
			"that with the certificate's names")
		if most, n := commonSuffix(around); n > 0 {
			w.Checks = append(w.Checks, fmt.Sprintf("the suffix most often seen in its network is %s (%d so far)", api.Clean(most), n))
		}
	case d.SecureDNS:
		w.Checks = append(w.Checks, "the device's DNS suffix is "+suffix+", set in MEBx")
	default:
		w.Checks = append(w.Checks, "the device's DNS suffix is "+suffix+", from DHCP option 15")
	}
	if r.Certs == nil {
		return
	}
	const most = 5 // certificates spelled out
	all := r.Certs()
	for i, c := range all {
		if i == most {
			w.Checks = append(w.Checks, fmt.Sprintf("and %d more certificates: provctl cert list", len(all)-most))
			break
		}
		line := fmt.Sprintf("certificate %s is for %s", c.ID, strings.Join(c.Names, ", "))
		if suffix != "" {
			rule := c.Covers(d.Suffix, d.Version)
			line += map[bool]string{true: ": serves that suffix", false: ": does not serve that suffix"}[rule.OK] + " (" + rule.Why + ")"
		}
		w.Checks = append(w.Checks, line+"; "+rootLine(c, announced))
	}
}

// neighbours are the devices of a device's network that told their suffix.
func neighbours(d store.Device) store.DeviceFilter {
	f := store.DeviceFilter{Order: store.ByLastSeen, Limit: 100}
	if a := d.Address.Unmap(); a.IsValid() {
		bits := 64
		if a.Is4() {
			bits = 24
		}
		f.Network, _ = a.Prefix(bits)
	} else {
		f.Limit = 1
	}
	return f
}

// commonSuffix is the suffix that most of the devices have, and how many.
func commonSuffix(devices []store.Device) (suffix string, n int) {
	count := map[string]int{}
	for _, d := range devices {
		if s := strings.ToLower(d.Suffix); s != "" {
			if count[s]++; count[s] > n {
				suffix, n = s, count[s]
			}
		}
	}
	return suffix, n
}

// rootLine says whether one of a certificate's chains ends where the device
// looks.
func rootLine(c *certs.Provisioning, announced []amt.TrustHash) string {
	for _, p := range c.Paths {
		for _, ours := range p.RootHashes {
			for _, theirs := range announced {
				if ours.Equal(theirs) {
					return fmt.Sprintf("its root %s is among the %d that the device announced",
						api.Clean(p.Certs[len(p.Certs)-1].Subject.CommonName), len(announced))
				}
			}
		}
	}
	return fmt.Sprintf("its root is not among the %d that the device announced", len(announced))
}
