package sim

import (
	"fmt"
	"net/netip"

	"github.com/provisiond/provisiond/amt"
)

// class is one CIM class of this firmware.
type class struct {
	space     string
	since     amt.Version
	lacks     func(*Personality) bool // what the release has and this machine does not; nil: no
	singleton bool                    // Get needs no selector
	list      func(*Device) []instance
	put       func(*Device, *call) error
	create    func(*Device, *call) (*reference, error)
	remove    func(*Device, *call) error
	methods   map[string]method
}

// method is one extrinsic method; reads says that it changes nothing.
type method struct {
	do    func(*Device, *call) ([]prop, amt.Status, error)
	reads bool
	since amt.Version
}

func (c *class) in(p *Personality) bool {
	return (c.since.Major == 0 || p.has(c.since.Major, c.since.Minor)) && (c.lacks == nil || !c.lacks(p))
}

// noKVM is Standard Manageability, and a machine whose graphics firmware cannot read.
func noKVM(p *Personality) bool { return p.NoKVM }

func v(major, minor int) amt.Version { return amt.Version{Major: major, Minor: minor} }

func one(f func(*Device) instance) func(*Device) []instance {
	return func(d *Device) []instance { return []instance{f(d)} }
}

// classes are all classes that a setup may touch. The device answers a fault
// for a class that is missing, or missing in its release.
var classes = map[string]*class{
	"CIM_SoftwareIdentity":     {space: nsCIM, list: softwareIdentity},
	"AMT_GeneralSettings":      {space: nsAMT, singleton: true, list: one(generalSettings), put: putGeneral},
	"AMT_EthernetPortSettings": {space: nsAMT, list: ethernetPorts, put: putEthernet},
	"AMT_TimeSynchronizationService": {space: nsAMT, singleton: true, list: one(timeService), methods: map[string]method{
		"GetLowAccuracyTimeSynch":  {do: getTime, reads: true},
		"SetHighAccuracyTimeSynch": {do: setTime},
		"EnableLocalTimeSync":      {do: enableTimeSync, since: v(8, 0)},
	}},
	"AMT_SetupAndConfigurationService": {space: nsAMT, singleton: true, list: one(setupService), methods: map[string]method{
		"GetUuid":                          {do: getUUID, reads: true},
		"ExtendProvisioningPeriod":         {do: extendPeriod},
		"SetMEBxPassword":                  {do: setMEBx},
		"CommitChanges":                    {do: commitChanges},
		"Unprovision":                      {do: unprovisionFull},
		"PartialUnprovision":               {do: unprovisionPartial},
		"GetUnprovisionBlockingComponents": {do: blockingComponents, reads: true, since: v(8, 0)},
		"ResetFlashWearOutProtection":      {do: doNothing},
		"GetProvisioningAuditRecord":       {do: auditRecord, reads: true},
	}},
	"IPS_HostBasedSetupService": {space: nsIPS, since: v(6, 2), singleton: true, list: one(hostBasedSetup)},
	"AMT_AuthorizationService": {space: nsAMT, singleton: true, list: one(authorization), methods: map[string]method{
		"SetAdminAclEntryEx":        {do: setAdmin},
		"GetAdminAclEntry":          {do: getAdmin, reads: true},
		"GetAdminAclEntryStatus":    {do: adminStatus, reads: true},
		"GetAdminNetAclEntryStatus": {do: adminStatus, reads: true},
		"AddUserAclEntryEx":         {do: addUser},
		"UpdateUserAclEntryEx":      {do: updateUser},
		"EnumerateUserAclEntries":   {do: listUsers, reads: true},
		"GetUserAclEntryEx":         {do: getUser, reads: true},
		"RemoveUserAclEntry":        {do: removeUser},
		"SetAclEnabledState":        {do: enableUser},
		"GetAclEnabledState":        {do: userEnabled, reads: true},
	}},
	"AMT_PublicKeyManagementService": {space: nsAMT, singleton: true, list: one(keyService), methods: map[string]method{
		"GenerateKeyPair":           {do: generateKeyPair, since: v(6, 2)},
		"GeneratePKCS10RequestEx":   {do: signRequest, reads: true, since: v(6, 2)},
		"AddKey":                    {do: addKey},
		"AddCertificate":            {do: addCertificate},
		"AddTrustedRootCertificate": {do: addTrustedRoot},
	}},
	"AMT_PublicKeyCertificate":            {space: nsAMT, list: certificates, remove: removeCertificate},
	"AMT_PublicPrivateKeyPair":            {space: nsAMT, list: keyPairs, remove: removeKey},
	"AMT_PublicKeyManagementCapabilities": {space: nsAMT, singleton: true, list: one(keyCapabilities)},
	"AMT_TLSProtocolEndpointCollection":   {space: nsAMT, singleton: true, list: one(endpointCollection)},
	"AMT_TLSCredentialContext": {space: nsAMT, singleton: true, list: credentialContexts, put: putContext, create: createContext,
		remove: removeContext},
	"AMT_TLSSettingData": {space: nsAMT, list: tlsSettings, put: putTLS},
	"AMT_RedirectionService": {space: nsAMT, singleton: true, list: one(redirection), put: putRedirection, methods: map[string]method{
		"RequestStateChange": {do: redirectionState},
	}},
	"CIM_KVMRedirectionSAP": {lacks: noKVM, space: nsCIM, since: v(6, 0), singleton: true, list: one(kvm), methods: map[string]method{
		"RequestStateChange": {do: kvmState},
	}},
	"IPS_KVMRedirectionSettingData": {space: nsIPS, since: v(6, 0), singleton: true, lacks: noKVM, list: one(kvmData), put: putKVMData},
	"AMT_SystemPowerScheme": {space: nsAMT, list: powerSchemes, methods: map[string]method{
		"SetPowerScheme": {do: setPowerScheme},
	}},
	"CIM_ElementSettingData": {space: nsCIM, list: elementSettings},
	"AMT_WebUIService": {lacks: func(p *Personality) bool { return p.NoWebUI }, space: nsAMT, singleton: true, list: one(webUI),
		methods: map[string]method{
			"RequestStateChange": {do: webUIState},
		}},
	"IPS_OptInService":                    {space: nsIPS, since: v(6, 2), singleton: true, list: one(optIn), put: putOptIn},
	"AMT_EnvironmentDetectionSettingData": {space: nsAMT, singleton: true, list: one(detection), put: putDetection},
	"AMT_ProvisioningCertificateHash": {space: nsAMT, since: v(6, 0), list: provisioningHashes, put: putHash, create: createHash,
		remove: removeHash},
	"IPS_TLSProvisioningRecord": {space: nsIPS, since: v(6, 2), singleton: true, list: provisioningRecord},
	"IPS_ProvisioningRecordLog": {space: nsIPS, since: v(6, 2), singleton: true, list: one(recordLog)},
}

// peer is the caller's address.
func (c *call) peer() netip.Addr { return c.conn.peer }

func softwareIdentity(d *Device) []instance {
	ver := fmt.Sprintf("%d.%d.%d", d.p.Version.Major, d.p.Version.Minor, d.p.Version.Hotfix)
	build := num(d.p.Version.Build)
	list := []struct{ id, value string }{
		{"Flash", ver}, {"Netstack", ver}, {"AMTApps", ver}, {"AMT", ver}, {"Sku", d.p.SKU},
		{"VendorID", "8086"}, {"Build Number", build}, {"Recovery Version", ver}, {"Recovery Build Num", build}, {"Legacy Mode", "False"},
	}
	out := make([]instance, len(list))
	for i, e := range list {
		out[i] = instanceOf("InstanceID", e.id, "IsEntity", "true", "VersionString", e.value)
	}
	return out
}

func generalSettings(d *Device) instance {
	s := &d.now
	in := instanceOf(
		"ElementName", "Intel(r) AMT: General Settings", "InstanceID", "Intel(r) AMT: General Settings",
		"NetworkInterfaceEnabled", "true", "DigestRealm", d.realm, "IdleWakeTimeout", num(s.idleWake),
		"HostName", s.hostName, "DomainName", s.domainName, "PingResponseEnabled", yes(s.ping),
		"PowerSource", "0",
	)
	if d.p.has(5, 0) {
		in = append(in, prop{name: "RmcpPingResponseEnabled", value: yes(s.rmcpPing)})
	}
	if d.p.has(6, 0) {
		in = append(in, instanceOf("AMTNetworkEnabled", "1", "DDNSPeriodicUpdateInterval", num(s.ddnsInterval), "DDNSTTL", num(s.ddnsTTL),
			"DDNSUpdateByDHCPServerEnabled", yes(s.ddnsByDHCP), "DDNSUpdateEnabled", yes(s.ddns), "PreferredAddressFamily", num(s.family),
			"PresenceNotificationInterval", "0", "SharedFQDN", yes(s.sharedFQDN), "WsmanOnlyMode", "false")...)
	}
	if d.p.has(8, 0) {
		in = append(in, prop{name: "PrivacyLevel", value: "0"})
	}
	return in
}

func putGeneral(d *Device, c *call) error {
	s := d.now // changed as a whole, or not at all
	fields := []field{
		text("HostName", &s.hostName, 63), text("DomainName", &s.domainName, 192),
		flag("PingResponseEnabled", &s.ping), number("IdleWakeTimeout", &s.idleWake),
	}
	if d.p.has(5, 0) {
		fields = append(fields, flag("RmcpPingResponseEnabled", &s.rmcpPing))
	}
	if d.p.has(6, 0) {
		fields = append(fields, flag("SharedFQDN", &s.sharedFQDN), flag("DDNSUpdateEnabled", &s.ddns),
			flag("DDNSUpdateByDHCPServerEnabled", &s.ddnsByDHCP),
			number("DDNSPeriodicUpdateInterval", &s.ddnsInterval), number("DDNSTTL", &s.ddnsTTL),
			number("PreferredAddressFamily", &s.family))
	}
	if err := setFields(c, fields...); err != nil {
		return err
	}
	_, pinged := c.arg("PingResponseEnabled") // required in every Put (MOF)
	switch {
	case !pinged, s.idleWake < 1, s.idleWake > 65535, s.ddnsInterval > 0 && s.ddnsInterval < 20, s.family > 1, s.ddns && s.ddnsByDHCP:
		return errSchema
	}
	d.now = s
	c.note = "HostName=" + s.hostName + " DomainName=" + s.domainName
	return nil
}

func ethernetPorts(d *Device) []instance {
	u := d.cfg.UUID
	mac := fmt.Sprintf("%02x-%02x-%02x-%02x-%02x-%02x", 0x02, u[11], u[12], u[13], u[14], u[15])
	wired := instanceOf(
		"ElementName", "Intel(r) AMT Ethernet Port Settings", "InstanceID", "Intel(r) AMT Ethernet Port Settings 0",
		"VLANTag", "0", "SharedMAC", "true", "MACAddress", mac, "LinkIsUp", "true",
		"LinkPolicy", "1", "LinkPolicy", "14", "LinkPolicy", "16",
		"SharedStaticIp", "false", "SharedDynamicIP", "true", "IpSyncEnabled", "true", "DHCPEnabled", yes(d.now.dhcp),
	)
	a := d.now.address
	if d.now.dhcp {
		a = [5]string{d.cfg.Addr.String(), "255.0.0.0", "0.0.0.0", "0.0.0.0", "0.0.0.0"}
	}
	for i, name := range addressFields {
		wired = append(wired, prop{name: name, value: a[i]})
	}
	wifi := instanceOf(
		"ElementName", "Intel(r) AMT Ethernet Port Settings", "InstanceID", "Intel(r) AMT Ethernet Port Settings 1",
		"SharedMAC", "true", "MACAddress", "00-00-00-00-00-00", "LinkIsUp", "false", "DHCPEnabled", "true",
	)
	return []instance{wired, wifi}
}

var addressFields = [5]string{"IPAddress", "SubnetMask", "DefaultGateway", "PrimaryDNS", "SecondaryDNS"}

func putEthernet(d *Device, c *call) error {
	id, ok := c.selector("InstanceID")
	if !ok || id != "Intel(r) AMT Ethernet Port Settings 0" {
		return errSelectors
	}
	dhcp, a := d.now.dhcp, d.now.address
	fields := []field{flag("DHCPEnabled", &dhcp)}
	for i, name := range addressFields {
		fields = append(fields, text(name, &a[i], 45))
	}
	if err := setFields(c, fields...); err != nil {
		return err
	}
	for _, name := range addressFields {
		if v, ok := c.arg(name); ok && dhcp && v != "" {
			return errSchema // with DHCP a client may not set the addresses
		}
	}
	d.now.dhcp, d.now.address = dhcp, a
	return nil
}

func timeService(d *Device) instance {
	in := instanceOf("CreationClassName", "AMT_TimeSynchronizationService", "ElementName", "Intel(r) AMT Time Synchronization Service",
		"EnabledState", "5")
	if d.p.has(8, 0) {
		in = append(in, prop{name: "LocalTimeSyncEnabled", value: num(d.now.timeSync)})
	}
	return append(in, instanceOf("Name", "Intel(r) AMT Time Synchronization Service",
		"RequestedState", "12", "SystemCreationClassName", "CIM_ComputerSystem", "SystemName", "Intel(r) AMT", "TimeSource", "0")...)
}

func keyService(*Device) instance {
	return service("AMT_PublicKeyManagementService", "Intel(r) AMT Certificate Store Service")
}

func service(class, name string) instance {
	return instanceOf("CreationClassName", class, "ElementName", name, "EnabledState", "5", "Name", name,
		"RequestedState", "12", "SystemCreationClassName", "CIM_ComputerSystem", "SystemName", "Intel(r) AMT")
}

func doNothing(*Device, *call) ([]prop, amt.Status, error) { return nil, 0, nil }
