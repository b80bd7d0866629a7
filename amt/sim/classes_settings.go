package sim

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/provisiond/provisiond/amt"
)

// What a device can be told after it is owned, beside users and TLS.

func kvmData(d *Device) instance {
	return instanceOf("BackToBackFbMode", "false", "DefaultScreen", "0", "ElementName", "Intel(r) KVM Redirection Settings",
		"EnabledByMEBx", yes(!d.p.NoRedirection),
		"InstanceID", "Intel(r) KVM Redirection Settings", "Is5900PortEnabled", yes(d.now.port5900), "OptInPolicy", "true",
		"OptInPolicyTimeout", "300",
		"RFBPassword", "", "SessionTimeout", num(d.now.kvmTimeout))
}

func putKVMData(d *Device, c *call) error {
	timeout, open, password := d.now.kvmTimeout, d.now.port5900, d.now.rfb
	if err := setFields(c, number("SessionTimeout", &timeout), flag("Is5900PortEnabled", &open),
		text("RFBPassword", &password, 8)); err != nil {
		return err
	}
	if password == "" {
		password = d.now.rfb // absent or empty leaves it
	}
	if timeout > 255 || open && password == "" || password != "" && !rfbPassword(password) {
		return errSchema
	}
	d.now.kvmTimeout, d.now.port5900, d.now.rfb = timeout, open, password
	return nil
}

// rfbPassword is firmware's rule: eight characters of all four kinds, none of a few.
func rfbPassword(s string) bool {
	const upper, lower, digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz", "0123456789"
	special := strings.Trim(s, upper+lower+digits)
	return len(s) == 8 && strings.ContainsAny(s, upper) && strings.ContainsAny(s, lower) && strings.ContainsAny(s, digits) &&
		special != "" && !strings.ContainsAny(s, `",:`)
}

func enableTimeSync(d *Device, c *call) ([]prop, amt.Status, error) {
	v, ok := c.arg("Enable")
	switch {
	case !ok || v != "true" && v != "false":
		return nil, 0, errSchema
	case v == "true":
		d.now.timeSync = 1
	default:
		d.now.timeSync = 2
	}
	return nil, 0, nil
}

// schemes are the two power packages of this kind of machine, each with a GUID of
// its maker's; setup chooses the second one.
var schemes = [2]struct{ guid, text string }{
	{"djmXEQtWUEOIcJgS85G1YA==", "Mobile: ON in S0"},
	{"MIAN7gnAeEOvKHhootu+Og==", "Mobile: ON in S0, ME Wake in S3, S4-5 (AC only)"},
}

func schemeID(i int) string { return "Intel(r) AMT:Power Scheme " + num(i) }

func powerSchemes(*Device) (out []instance) {
	for i, s := range schemes {
		out = append(out, instanceOf("Description", s.text, "ElementName", "Intel(r) AMT Power Scheme", "InstanceID", schemeID(i),
			"SchemeGUID", s.guid))
	}
	return out
}

func setPowerScheme(d *Device, c *call) ([]prop, amt.Status, error) {
	id, ok := c.selector("InstanceID")
	for i := range schemes {
		if ok && id == schemeID(i) {
			d.now.scheme = i
			c.note = schemes[i].text
			return nil, 0, nil
		}
	}
	return nil, 0, errSelectors
}

func elementSettings(d *Device) (out []instance) {
	for i := range schemes {
		current := "2"
		if i == d.now.scheme {
			current = "1"
		}
		out = append(out, instance{
			{name: "IsCurrent", value: current},
			{name: "IsDefault", value: "2"},
			{name: "IsNext", value: current},
			{name: "ManagedElement", ref: d.ref(nsCIM+"CIM_ComputerSystem", "Name", "ManagedSystem")},
			{name: "SettingData", ref: d.ref(nsAMT+"AMT_SystemPowerScheme", "InstanceID", schemeID(i))},
		})
	}
	return out
}

// Field reads a field of one of the device's classes as the device itself has it: the
// text of its first instance that has the field.
func (d *Device) Field(class, field string) (string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	cl, is := classes[class]
	if !is || !cl.in(&d.p) {
		return "", false
	}
	for _, in := range cl.list(d) {
		if v, ok := in.get(field); ok {
			return v, true
		}
	}
	return "", false
}

// Scheme is the description of the power package in force.
func (d *Device) Scheme() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return schemes[d.now.scheme].text
}

// Rewrite is another console: it changes what a method or a Put with these arguments
// would, and nobody is told.
func (d *Device) Rewrite(change func(*Consoles)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := Consoles{&d.now.ping, &d.now.listener, &d.now.redirection, &d.now.kvm, &d.now.webUI, &d.now.optIn, &d.now.idleWake}
	change(&c)
}

// Consoles are the settings that other consoles like to change.
type Consoles struct {
	Ping, Listener                           *bool
	Redirection, KVM, WebUI, OptIn, IdleWake *uint32
}

// Users lists the accounts beside the administrator, as the device has them: name or
// SID in hexadecimal, access and realms.
func (d *Device) Users() (list []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, u := range d.now.users {
		name := u.name
		if name == "" {
			sid, _ := base64.StdEncoding.DecodeString(u.sid)
			name = hex.EncodeToString(sid)
		}
		list = append(list, fmt.Sprintf("%s access %d realms %s", name, u.permission, u.realms))
	}
	return list
}

// AddUser is another console that adds a user.
func (d *Device) AddUser(name string, realms []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now.users = append(d.now.users, userEntry{handle: d.now.nextUser, name: name, permission: 1, realms: realms, enabled: true})
	d.now.nextUser++
}

// AcceptsUser reports whether a user would be let in with this password.
func (d *Device) AcceptsUser(name, password string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	secret, _, ok := d.account(name)
	return ok && secret == ha1(name, d.realm, password)
}
