package sim

import (
	"encoding/base64"
	"net/netip"
	"slices"
	"strconv"

	"github.com/provisiond/provisiond/amt"
)

type userEntry struct {
	handle     uint32
	name       string
	ha1        []byte
	sid        string
	permission uint32
	realms     []string
	enabled    bool
	by         netip.Addr // who set it
}

const maxUsers = 15

// localOnly is the AccessPermission of who comes through the machine's own operating
// system alone.
const localOnly = 0

// realmFor are the realms that open a class to a user, beside PT administration; of
// other classes that one alone does.
var realmFor = map[string]string{
	"AMT_RedirectionService": "2", "CIM_KVMRedirectionSAP": "2", "IPS_KVMRedirectionSettingData": "2",
	"AMT_TimeSynchronizationService": "12",
	"AMT_GeneralSettings":            "13", "CIM_SoftwareIdentity": "13",
}

// may reports whether whoever is logged in may speak of a class. Which fault a device
// answers otherwise is not written down anywhere (UNSURE).
func (d *Device) may(c *call) bool {
	if c.conn == nil || c.conn.user == "" || c.conn.user == d.adminOf().adminUser {
		return true
	}
	for _, u := range d.now.users {
		if u.name == c.conn.user {
			return slices.Contains(u.realms, "3") || slices.Contains(u.realms, realmFor[c.class])
		}
	}
	return false
}

// readUser reads the arguments that AddUserAclEntryEx and UpdateUserAclEntryEx
// share: a digest user or a Kerberos one, never both.
func (d *Device) readUser(c *call) (userEntry, amt.Status, error) {
	name, digestUser := c.arg("DigestUsername")
	pass, _ := c.arg("DigestPassword")
	sid, kerberos := c.arg("KerberosUserSid")
	permission, ok := c.numberArg("AccessPermission")
	if !ok || digestUser == kerberos || permission > 2 {
		return userEntry{}, 0, errSchema
	}
	u := userEntry{name: name, sid: sid, permission: permission, realms: c.args("Realms"), enabled: true, by: c.peer()}
	for _, r := range u.realms {
		if n, err := strconv.Atoi(r); err != nil || n < 2 || n > 24 {
			return u, 2055, nil // INVALID_REALM
		}
	}
	if kerberos {
		b, err := base64.StdEncoding.DecodeString(sid)
		if err != nil || len(b) < 1 || len(b) > 28 || len(b)%4 != 0 {
			return u, amt.StatusInvalidParameter, nil
		}
		return u, 0, nil
	}
	b, good := d.digestBytes(pass)
	if !userName(name) || name == d.now.adminUser {
		return u, amt.StatusInvalidName, nil
	}
	if !good {
		return u, amt.StatusInvalidPassword, nil
	}
	u.ha1 = b
	return u, 0, nil
}

func addUser(d *Device, c *call) ([]prop, amt.Status, error) {
	u, st, err := d.readUser(c)
	if err != nil || st != 0 {
		return nil, st, err
	}
	for _, o := range d.now.users {
		if o.name == u.name && o.sid == u.sid {
			return nil, amt.StatusDuplicate, nil
		}
	}
	if len(d.now.users) >= maxUsers {
		return nil, amt.StatusMaxLimitReached, nil
	}
	u.handle = d.now.nextUser
	d.now.nextUser++
	d.now.users = append(d.now.users, u)
	d.digest.forget()
	c.note = "user " + u.name
	return []prop{{name: "Handle", value: num(u.handle)}}, 0, nil
}

// user finds the entry a Handle names.
func (d *Device) user(c *call) (int, bool) {
	h, ok := c.numberArg("Handle")
	for i, u := range d.now.users {
		if ok && u.handle == h {
			return i, true
		}
	}
	return 0, false
}

const statusInvalidHandle amt.Status = 2053

func updateUser(d *Device, c *call) ([]prop, amt.Status, error) {
	i, ok := d.user(c)
	if !ok {
		return nil, statusInvalidHandle, nil
	}
	u, st, err := d.readUser(c)
	if err != nil || st != 0 {
		return nil, st, err
	}
	u.handle = d.now.users[i].handle
	d.now.users[i] = u
	d.digest.forget()
	return nil, 0, nil
}

func removeUser(d *Device, c *call) ([]prop, amt.Status, error) {
	i, ok := d.user(c)
	if !ok {
		return nil, statusInvalidHandle, nil
	}
	d.now.users = append(d.now.users[:i:i], d.now.users[i+1:]...)
	d.digest.forget()
	return nil, 0, nil
}

func listUsers(d *Device, c *call) ([]prop, amt.Status, error) {
	start, ok := c.numberArg("StartIndex")
	if !ok || start < 1 {
		return nil, amt.StatusInvalidParameter, nil
	}
	var handles []prop
	for i, u := range d.now.users {
		if uint32(i+1) >= start {
			handles = append(handles, prop{name: "Handles", value: num(u.handle)})
		}
	}
	return append([]prop{{name: "TotalCount", value: num(len(d.now.users))}, {name: "HandlesCount", value: num(len(handles))}}, handles...),
		0, nil
}

func getUser(d *Device, c *call) ([]prop, amt.Status, error) {
	i, ok := d.user(c)
	if !ok {
		return nil, statusInvalidHandle, nil
	}
	u := d.now.users[i]
	var out []prop
	if u.sid != "" {
		out = append(out, prop{name: "KerberosUserSid", value: u.sid})
	} else {
		out = append(out, prop{name: "DigestUsername", value: u.name})
	}
	out = append(out, prop{name: "AccessPermission", value: num(u.permission)})
	for _, r := range u.realms {
		out = append(out, prop{name: "Realms", value: r})
	}
	return out, 0, nil
}

func enableUser(d *Device, c *call) ([]prop, amt.Status, error) {
	i, ok := d.user(c)
	on, ok2 := c.arg("Enabled")
	if !ok {
		return nil, statusInvalidHandle, nil
	}
	if !ok2 {
		return nil, 0, errSchema
	}
	d.now.users[i].enabled = on == "true"
	return nil, 0, nil
}

func userEnabled(d *Device, c *call) ([]prop, amt.Status, error) {
	i, ok := d.user(c)
	if !ok {
		return nil, statusInvalidHandle, nil
	}
	return []prop{{name: "Enabled", value: yes(d.now.users[i].enabled)}}, 0, nil
}

func redirection(d *Device) instance {
	return append(instanceOf("CreationClassName", "AMT_RedirectionService", "ElementName", "Intel(r) AMT Redirection Service",
		"EnabledState", num(d.now.redirection), "ListenerEnabled", yes(d.now.listener)),
		instanceOf("Name", "Intel(r) AMT Redirection Service", "SystemCreationClassName", "CIM_ComputerSystem", "SystemName",
			"Intel(r) AMT")...)
}

func putRedirection(d *Device, c *call) error {
	state, listener := d.now.redirection, d.now.listener
	if err := setFields(c, flag("ListenerEnabled", &listener), number("EnabledState", &state)); err != nil {
		return err
	}
	if state != d.now.redirection { // RequestStateChange comes first
		return errSchema
	}
	d.now.listener = listener
	return nil
}

func requestedState(c *call, to *uint32, low, high uint32) ([]prop, amt.Status, error) {
	n, ok := c.numberArg("RequestedState")
	if !ok {
		return nil, 0, errSchema
	}
	if n < low || n > high {
		return nil, amt.StatusInvalidParameter, nil
	}
	*to = n
	return nil, 0, nil
}

// statusNotSupported is what RequestStateChange answers where MEBx forbids a feature:
// which number is not written down anywhere (UNSURE); 1 is CIM's.
const statusNotSupported amt.Status = 1

func redirectionState(d *Device, c *call) ([]prop, amt.Status, error) {
	if d.p.NoRedirection {
		return nil, statusNotSupported, nil
	}
	return requestedState(c, &d.now.redirection, 32768, 32771)
}

func kvm(d *Device) instance {
	return instanceOf("CreationClassName", "CIM_KVMRedirectionSAP", "ElementName", "KVM Redirection Service Access Point", "EnabledState",
		num(d.now.kvm),
		"KVMProtocol", "4", "Name", "KVM Redirection Service Access Point", "RequestedState", "5",
		"SystemCreationClassName", "CIM_ComputerSystem", "SystemName", "ManagedSystem")
}

func kvmState(d *Device, c *call) ([]prop, amt.Status, error) {
	if d.p.NoRedirection {
		return nil, statusNotSupported, nil
	}
	return requestedState(c, &d.now.kvm, 2, 3)
}

func webUI(d *Device) instance {
	return instanceOf("CreationClassName", "AMT_WebUIService", "ElementName", "Intel(r) AMT Web UI Service", "EnabledState",
		num(d.now.webUI),
		"Name", "Intel(r) AMT Web UI Service", "SystemCreationClassName", "CIM_ComputerSystem", "SystemName", "Intel(r) AMT")
}

func webUIState(d *Device, c *call) ([]prop, amt.Status, error) {
	return requestedState(c, &d.now.webUI, 2, 3)
}

func optIn(d *Device) instance {
	may := "1"
	if d.p.ConsentLocked {
		may = "0"
	}
	return instanceOf("CanModifyOptInPolicy", may, "CreationClassName", "IPS_OptInService", "ElementName", "Intel(r) AMT OptIn Service",
		"Name", "Intel(r) AMT OptIn Service", "OptInCodeTimeout", num(d.now.codeTimeout), "OptInDisplayTimeout", num(d.now.displayTimeout),
		"OptInRequired", num(d.now.optIn), "OptInState", "0", "SystemCreationClassName", "CIM_ComputerSystem", "SystemName", "Intel(r) AMT")
}

func putOptIn(d *Device, c *call) error {
	v, code, display := d.now.optIn, d.now.codeTimeout, d.now.displayTimeout
	if err := setFields(c, number("OptInRequired", &v), number("OptInCodeTimeout", &code),
		number("OptInDisplayTimeout", &display)); err != nil {
		return err
	}
	if d.p.ConsentLocked || v > 1 && v != 0xFFFFFFFF || code < 60 || code > 900 {
		return errSchema
	}
	d.now.optIn, d.now.codeTimeout, d.now.displayTimeout = v, code, display
	return nil
}

func detection(d *Device) instance {
	in := instanceOf("DetectionAlgorithm", num(d.now.algorithm), "ElementName", "Intel(r) AMT Environment Detection Settings",
		"InstanceID", "Intel(r) AMT Environment Detection Settings")
	for _, s := range d.now.detection {
		in = append(in, prop{name: "DetectionStrings", value: s})
	}
	return in
}

func putDetection(d *Device, c *call) error {
	list := c.args("DetectionStrings")
	if len(list) > 5 {
		return errSchema
	}
	if err := setFields(c, number("DetectionAlgorithm", &d.now.algorithm)); err != nil {
		return err
	}
	d.now.detection = list
	return nil
}
