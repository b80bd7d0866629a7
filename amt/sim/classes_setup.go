package sim

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
)

const setupName = "Intel(r) AMT Setup and Configuration Service"

func setupService(d *Device) instance {
	in := service("AMT_SetupAndConfigurationService", setupName)
	model := "1"
	if d.p.Coupled {
		model = "0"
	}
	in = append(in, instanceOf("PasswordModel", model, "ProvisioningMode", "1", "ProvisioningState", num(int(d.state)),
		"ZeroTouchConfigurationEnabled", "true")...)
	otp := base64.StdEncoding.EncodeToString(make([]byte, 32))
	if d.state == amt.StateIn && d.cfg.OTP != "" {
		otp = base64.StdEncoding.EncodeToString([]byte(d.cfg.OTP))
	}
	in = append(in, prop{name: "ProvisioningServerOTP", value: otp})
	if d.p.has(6, 0) {
		in = append(in, instanceOf("ConfigurationServerFQDN", "", "DhcpDNSSuffix", d.cfg.Suffix, "TrustedDNSSuffix", d.cfg.MEBxSuffix)...)
	}
	return in
}

func hostBasedSetup(d *Device) instance {
	mode := 0 // none
	if d.state == amt.StatePost {
		mode = 2 // admin
	}
	return append(service("IPS_HostBasedSetupService", "Intel(r) AMT Host Based Setup Service"),
		instanceOf("CurrentControlMode", num(mode), "AllowedControlModes", "1", "AllowedControlModes", "2", "CertChainStatus", "0")...)
}

func getUUID(d *Device, c *call) ([]prop, amt.Status, error) {
	u := d.cfg.UUID
	if d.faults.once(WrongUUID) {
		u[15] ^= 0xff
	}
	b := u.SMBIOS()
	return []prop{{name: "UUID", value: base64.StdEncoding.EncodeToString(b[:])}}, 0, nil
}

// extendPeriod sets the remaining hours of the open window; 0 closes it now.
func extendPeriod(d *Device, c *call) ([]prop, amt.Status, error) {
	hours, ok := c.numberArg("Duration")
	switch {
	case !ok:
		return nil, 0, errSchema
	case d.state != amt.StateIn:
		return nil, amt.StatusInvalidState, nil
	case hours > 24:
		return nil, amt.StatusInvalidParameter, nil
	}
	d.windowEnd = d.cfg.Clock().Add(time.Duration(hours) * time.Hour)
	c.note = fmt.Sprintf("%d h", hours)
	if hours == 0 {
		d.setState(amt.StatePre)
		c.after = networkRestart
	}
	return nil, 0, nil
}

func setMEBx(d *Device, c *call) ([]prop, amt.Status, error) {
	p, ok := c.arg("Password")
	if !ok {
		return nil, 0, errSchema
	}
	d.remember(&d.seen.mebx, p)
	switch {
	case d.p.MEBxPolicy == MEBxDefaultOnly && !d.now.mebxDefault,
		d.p.MEBxPolicy != MEBxAnytime && d.state != amt.StateIn:
		return nil, amt.StatusNotPermitted, nil
	case !strong(p):
		return nil, amt.StatusInvalidPassword, nil
	}
	d.now.mebx, d.now.mebxDefault = p, false
	if d.p.Coupled && d.now.adminDefault {
		d.now.adminHA1, d.now.adminBy = ha1(d.now.adminUser, d.realm, p), c.peer()
		d.digest.forget()
	}
	return nil, 0, nil
}

// strong is MEBx's own rule: the allowed characters, and one of each kind.
func strong(p string) bool {
	if len(p) < 8 || len(p) > 32 {
		return false
	}
	kinds := 0
	for i := range len(p) {
		switch b := p[i]; {
		case b < ' ' || b > '~' || b == ':' || b == ',' || b == '"':
			return false
		case b >= '0' && b <= '9':
			kinds |= 1
		case b >= 'a' && b <= 'z':
			kinds |= 2
		case b >= 'A' && b <= 'Z':
			kinds |= 4
		case b != '_' && b != ' ':
			kinds |= 8
		}
	}
	return kinds == 15
}

// commitChanges saves the settings if the generation finds them complete.
func commitChanges(d *Device, c *call) ([]prop, amt.Status, error) {
	if missing := d.missing(); missing != "" {
		c.note = "missing: " + missing
		return nil, amt.StatusDataMissing, nil
	}
	if d.faults.once(CommitNoop) || d.state == amt.StateIn && d.lmsPut {
		c.note = "said yes, did nothing"
		return nil, 0, nil
	}
	before, wasSetup := d.saved, d.state == amt.StateIn
	d.commit(c.peer())
	c.note = "operational"
	if wasSetup || before.context != d.saved.context || before.tls[0].enabled != d.saved.tls[0].enabled ||
		before.tls[0].mutual != d.saved.tls[0].mutual {
		c.after = networkRestart
	}
	return nil, 0, nil
}

// missing names the first precondition of CommitChanges that does not hold.
func (d *Device) missing() string {
	s := &d.now
	net := s.tls[0]
	switch {
	case s.dhcp && s.hostName == "":
		return "host name"
	case !d.p.has(6, 0) && !s.clockSet:
		return "clock"
	case net.enabled && !s.clockSet:
		return "clock, for TLS"
	case net.enabled && !s.usableContext():
		return "certificate and key, for TLS"
	case net.mutual && !s.hasRoot():
		return "trusted root, for mutual TLS"
	case d.p.MEBxBeforeCommit && s.mebxDefault:
		return "MEBx password"
	}
	return ""
}

func unprovisionFull(d *Device, c *call) ([]prop, amt.Status, error) {
	mode, ok := c.numberArg("ProvisioningMode")
	switch {
	case !ok:
		return nil, 0, errSchema
	case mode > 3 || mode > 1 && d.p.has(6, 0):
		return nil, amt.StatusInvalidParameter, nil
	case d.state == amt.StatePre:
		return nil, amt.StatusNotPermitted, nil
	}
	d.unprovision(true)
	c.after = networkRestart
	return nil, 0, nil
}

func unprovisionPartial(d *Device, c *call) ([]prop, amt.Status, error) {
	if d.state != amt.StatePost {
		return nil, amt.StatusNotPermitted, nil
	}
	d.unprovision(false)
	c.after = networkRestart
	return nil, 0, nil
}

func blockingComponents(*Device, *call) ([]prop, amt.Status, error) { return nil, 0, nil }

// auditRecord fails in the middle of setup.
func auditRecord(d *Device, _ *call) ([]prop, amt.Status, error) {
	if d.state == amt.StateIn {
		return nil, amt.StatusInternalError, nil
	}
	return nil, amt.StatusUnsupported, nil
}

func authorization(*Device) instance {
	return append(service("AMT_AuthorizationService", "Intel(r) AMT Authorization Service"),
		prop{name: "AllowHttpQopAuthOnly", value: "1"})
}

// userName is the rule for digest users.
func userName(s string) bool {
	if len(s) < 1 || len(s) > 16 || strings.HasPrefix(s, "$$") {
		return false
	}
	for i := range len(s) {
		if s[i] < 33 || s[i] > 126 || strings.IndexByte(`:,<>&"`, s[i]) >= 0 {
			return false
		}
	}
	return true
}

// digestBytes reads base64 of 16 bytes, and in lenient mode the hexadecimal
// form that some clients send.
func (d *Device) digestBytes(s string) ([]byte, bool) {
	if d.cfg.LenientDigest && len(s) == 32 {
		if b, err := hex.DecodeString(s); err == nil {
			return b, true
		}
	}
	b, err := base64.StdEncoding.DecodeString(s)
	return b, err == nil && len(b) == 16
}

func setAdmin(d *Device, c *call) ([]prop, amt.Status, error) {
	user, ok := c.arg("Username")
	pass, ok2 := c.arg("DigestPassword")
	if !ok || !ok2 {
		return nil, 0, errSchema
	}
	b, ok := d.digestBytes(pass)
	if !ok {
		return nil, amt.StatusInvalidPassword, nil
	}
	h := hex.EncodeToString(b)
	d.remember(&d.seen.admin, h)
	if !userName(user) {
		return nil, amt.StatusInvalidName, nil
	}
	d.now.adminUser, d.now.adminHA1, d.now.adminDefault, d.now.adminBy = user, h, false, c.peer()
	if d.state == amt.StatePost { // in operation a change of an account takes effect at once
		d.saved.adminUser, d.saved.adminHA1, d.saved.adminDefault, d.saved.adminBy = user, h, false, c.peer()
	}
	d.digest.forget() // any change of the ACL ends the cached sessions
	c.note = "user " + user
	return nil, 0, nil
}

func getAdmin(d *Device, _ *call) ([]prop, amt.Status, error) {
	return []prop{{name: "Username", value: d.now.adminUser}}, 0, nil
}

func adminStatus(d *Device, _ *call) ([]prop, amt.Status, error) {
	return []prop{{name: "IsDefault", value: yes(d.now.adminDefault)}}, 0, nil
}

// provisioningRecord is the evidence of a remote setup; there is at most one.
func provisioningRecord(d *Device) []instance {
	r := d.record
	if r == nil || d.state != amt.StatePost {
		return nil
	}
	in := instanceOf(
		"ElementName", "Intel(r) AMT: TLS Provisioning Record", "InstanceID", "Intel(r) AMT: TLSProvisioningRecord 1",
		"CreationTimeStamp", d.time().UTC().Format(time.RFC3339), "LogInstanceID", "Intel(r) AMT: RecordLog 1",
		"ProvisioningTLSMode", "2", "SecureDNS", yes(r.secureDNS), "HostInitiated", "false",
		"SelectedHashType", num(int(hashCode(r.hash.Algorithm))), "SelectedHashData", base64.StdEncoding.EncodeToString(r.hash.Sum),
		"HashIsOemDefault", yes(r.isDefault), "IsTimeValid", yes(r.timeValid),
		"ProvServerIP", d.recordIP, "ProvServerFQDN", r.name,
	)
	last := r.serials
	if len(last) > 3 {
		last = last[len(last)-3:]
	}
	for _, s := range last {
		in = append(in, prop{name: "CaCertificateSerials", value: base64.StdEncoding.EncodeToString(s)})
	}
	if len(r.serials) > 3 {
		in = append(in, prop{name: "AdditionalCaSerialNums", value: "true"})
	}
	return []instance{in}
}

func hashCode(a amt.HashAlgorithm) uint8 { return uint8(a) }

func recordLog(d *Device) instance {
	n := len(provisioningRecord(d))
	return instanceOf("CurrentNumberOfRecords", num(n), "ElementName", "Intel(r) AMT: Provisioning Record Log", "EnabledState", "2",
		"InstanceID", "Intel(r) AMT: RecordLog 1", "LogState", "4", "MaxNumberOfRecords", "1", "OverwritePolicy", "2")
}

func provisioningHashes(d *Device) []instance {
	var list []instance
	for i, h := range d.now.hashes {
		list = append(list, instanceOf("ElementName", "Intel(r) AMT Provisioning Certificate Hash", "InstanceID",
			fmt.Sprintf("Intel(r) AMT Provisioning Certificate Hash: Handle: %d", i),
			"HashType", num(int(h.hash.Algorithm)), "HashData", base64.StdEncoding.EncodeToString(h.hash.Sum),
			"IsDefault", yes(h.isDefault), "Enabled", yes(h.enabled)))
	}
	return list
}

func hashIndex(d *Device, c *call) (int, bool) {
	id, _ := c.selector("InstanceID")
	var i int
	n, _ := fmt.Sscanf(id, "Intel(r) AMT Provisioning Certificate Hash: Handle: %d", &i)
	return i, n == 1 && i >= 0 && i < len(d.now.hashes)
}

func putHash(d *Device, c *call) error {
	i, ok := hashIndex(d, c)
	if !ok {
		return errSelectors
	}
	return setFields(c, flag("Enabled", &d.now.hashes[i].enabled))
}

func createHash(d *Device, c *call) (*reference, error) {
	kind, ok := c.numberArg("HashType")
	data, _ := c.arg("HashData")
	sum, err := base64.StdEncoding.DecodeString(data)
	alg := amt.HashAlgorithm(kind)
	if !ok || kind > 3 || err != nil || len(sum) != alg.Size() || alg == amt.SHA1 && d.p.ModernChain {
		return nil, errSchema
	}
	custom := 0
	for _, h := range d.now.hashes {
		if !h.isDefault {
			custom++
		}
	}
	if custom >= 10 {
		return nil, manage("QuotaLimit", "The service is busy servicing other requests.")
	}
	d.now.hashes = append(d.now.hashes, hashEntry{amt.TrustHash{Algorithm: alg, Sum: sum}, false, true})
	return d.ref(c.uri, "InstanceID", fmt.Sprintf("Intel(r) AMT Provisioning Certificate Hash: Handle: %d", len(d.now.hashes)-1)), nil
}

func removeHash(d *Device, c *call) error {
	i, ok := hashIndex(d, c)
	if !ok || d.now.hashes[i].isDefault {
		return errSelectors
	}
	d.now.hashes = append(d.now.hashes[:i:i], d.now.hashes[i+1:]...)
	return nil
}
