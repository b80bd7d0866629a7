package reason

const (

	// Intake
	HelloMalformed          Code = "hello_malformed"
	HelloVersionUnsupported Code = "hello_version_unsupported"
	HelloRateLimited        Code = "hello_rate_limited"
	UUIDInvalid             Code = "uuid_invalid"
	UUIDDuplicate           Code = "uuid_duplicate"
	IdentityConflict        Code = "identity_conflict"
	NotAuthorized           Code = "not_authorized"
	NoProfileRule           Code = "no_profile_rule"
	IdentityIncomplete      Code = "identity_incomplete"
	NameTaken               Code = "name_taken"
	DomainNotAllowed        Code = "domain_not_allowed"
	SuffixContradiction     Code = "suffix_contradiction"
	SetupWindowExpired      Code = "setup_window_expired"
	SetupWindowClosing      Code = "setup_window_closing"
	Blocklisted             Code = "blocklisted"
	NetworkNotAllowed       Code = "network_not_allowed"
	ReappearedUnprovisioned Code = "reappeared_unprovisioned"
	AgentNotItsDevice       Code = "agent_not_its_device"

	// Network
	DeviceUnreachable         Code = "device_unreachable"
	DeviceIPChanged           Code = "device_ip_changed"
	DNSProvisionServerMissing Code = "dns_provisionserver_missing"
	DNSProvisionServerWrong   Code = "dns_provisionserver_wrong"
	DHCPOption15Missing       Code = "dhcp_option15_missing"
	DHCPOption15Mismatch      Code = "dhcp_option15_mismatch"
	ReverseDNSMismatch        Code = "reverse_dns_mismatch"
	NetworkAccessControlBlock Code = "network_access_control_block"

	// Server certificate
	NoProvisioningCertificate Code = "no_provisioning_certificate"
	CertExpired               Code = "cert_expired"
	CertNotYetValid           Code = "cert_not_yet_valid"
	CertExpiring              Code = "cert_expiring"
	CertPrivateKeyMissing     Code = "cert_private_key_missing"
	CertKeyMismatch           Code = "cert_key_mismatch"
	PFXPasswordWrong          Code = "pfx_password_wrong"
	PFXCorrupt                Code = "pfx_corrupt"
	PFXUnsupportedAlgorithm   Code = "pfx_unsupported_algorithm"
	CertMissingAMTUsage       Code = "cert_missing_amt_usage"
	CertMissingServerAuth     Code = "cert_missing_server_auth"
	CertSelfSigned            Code = "cert_self_signed"
	CertAmbiguous             Code = "cert_ambiguous"
	CertInputInvalid          Code = "cert_input_invalid"
	ChainIncomplete           Code = "chain_incomplete"
	ChainWrongOrder           Code = "chain_wrong_order"
	ChainBrokenSignature      Code = "chain_broken_signature"
	ChainSHA1Rejected         Code = "chain_sha1_rejected"
	KeyTooSmall               Code = "key_too_small"
	KeyTypeUnsupported        Code = "key_type_unsupported"
	KeySizeUnsupported        Code = "key_size_unsupported"
	RootNotTrusted            Code = "root_not_trusted_by_device"
	NoCertForSuffix           Code = "no_cert_for_suffix"
	CAUnavailable             Code = "ca_unavailable"
	CRLUnreachable            Code = "crl_unreachable"

	// Handshake
	TLSVersionRefused       Code = "tls_version_refused"
	TLSRenegotiationRefused Code = "tls_renegotiation_refused"
	TLSClientCertRefused    Code = "tls_client_cert_refused"
	TLSSuffixRejected       Code = "tls_suffix_rejected"
	TLSPeerCertInvalid      Code = "tls_peer_cert_invalid"
	TLSHandshakeFailed      Code = "tls_handshake_failed"
	ODCAVerificationFailed  Code = "odca_verification_failed"
	ODCARevoked             Code = "odca_revoked"
	TLSPinnedKeyChanged     Code = "tls_pinned_key_changed"
	PeerUnverified          Code = "peer_unverified"
	DeviceHalfProvisioned   Code = "device_half_provisioned"

	// Proof
	OTPRequired Code = "otp_required"
	OTPMismatch Code = "otp_mismatch"
	OTPExpired  Code = "otp_expired"

	// WS-MAN
	AuthFailed              Code = "auth_failed"
	CredentialsUnknown      Code = "credentials_unknown"
	AccountLocked           Code = "account_locked"
	RealmChanged            Code = "realm_changed"
	FirmwareTooOld          Code = "firmware_too_old"
	FirmwareVulnerable      Code = "firmware_vulnerable"
	FirmwareUnknown         Code = "firmware_unknown"
	AMTDisabled             Code = "amt_disabled"
	WSMANFault              Code = "wsman_fault"
	WSMANTimeout            Code = "wsman_timeout"
	WSMANInvalid            Code = "wsman_invalid_response"
	ConnectionLost          Code = "connection_lost"
	UUIDMismatch            Code = "uuid_mismatch"
	NotInSetup              Code = "device_not_in_setup"
	MEBxPasswordRejected    Code = "mebx_password_rejected"
	AdminPasswordRejected   Code = "admin_password_rejected"
	ClockSyncFailed         Code = "clock_sync_failed"
	ClockSkew               Code = "clock_skew"
	KeypairGenerationFailed Code = "keypair_generation_failed"
	DeviceCertInstallFailed Code = "device_cert_install_failed"
	TLSEnableFailed         Code = "tls_enable_failed"
	WiFiApplyFailed         Code = "wifi_apply_failed"
	Dot1xApplyFailed        Code = "dot1x_apply_failed"
	ACLApplyFailed          Code = "acl_apply_failed"
	CommitFailed            Code = "commit_failed"
	CommitUnverified        Code = "commit_unverified"
	UnprovisionBlocked      Code = "unprovision_blocked_by_auditor"
	ProfileDrift            Code = "profile_drift"
	LockoutAverted          Code = "lockout_averted"
	FlashWriteLimit         Code = "flash_write_limit"

	// Server
	SecretStoreUnavailable Code = "secret_store_unavailable"
	MasterPasswordMissing  Code = "master_password_missing"
	DBUnavailable          Code = "db_unavailable"
	QueueOverloaded        Code = "queue_overloaded"
	WorkerCrashed          Code = "worker_crashed"
	LeaseLost              Code = "lease_lost"
	ConfigInvalid          Code = "config_invalid"
	PolicyDenied           Code = "policy_denied"
	KeptOut                Code = "kept_out"
	Rejected               Code = "rejected"
	Cancelled              Code = "cancelled"
	InternalError          Code = "internal_error"
)

// catalogue is the whole list: an operator reads it, it labels metrics, and the
// retry policy obeys it.
var catalogue = []Entry{
	{HelloMalformed, Intake, TheNet, ForHello, "Hello could not be read",
		[]string{"a port scanner", "a proxy speaking another protocol", "a truncated connection"},
		[]string{"look at the recorded bytes, provctl hello decode FILE, and the source address", "limit who reaches the hello port"}},
	{HelloVersionUnsupported, Intake, TheDevice, ForOperator, "Hello of a kind that is not supported",
		[]string{"the device is set to PSK setup in MEBx (hello version 2)"},
		[]string{"switch the device to PKI setup in MEBx"}},
	{HelloRateLimited, Intake, TheNet, ForHello, "Too many hellos",
		[]string{"a loop", "a NAT in front of many devices", "an attack"},
		[]string{"look for a NAT between devices and server", "raise hello.limits"}},
	{UUIDInvalid, Intake, TheDevice, ForOperator, "The UUID is a placeholder",
		[]string{"the maker left a default UUID in SMBIOS"},
		[]string{"write a real UUID with the maker's tool"}},
	{UUIDDuplicate, Intake, TheDevice, ForOperator, "Two devices share a UUID",
		[]string{"a cloned board", "a board swap"},
		[]string{"compare addresses, hash lists and MACs: provctl device show UUID", "give one of them a UUID of its own with the maker's tool, then: provctl device release UUID"}},
	{IdentityConflict, Intake, TheDevice, ForOperator, "Known UUID, different hardware evidence",
		[]string{"a board swap", "somebody imitating a device"},
		[]string{"look at the machine; if it is the one you know: provctl device release UUID", "if not: provctl device retire UUID"}},
	{NotAuthorized, Intake, ThePolicy, ForOperator, "The device waits for approval",
		[]string{"admission is approve or allow-list and nobody allowed this device"},
		[]string{"provctl device approve UUID, or put it on the list: provctl device import FILE"}},
	{NoProfileRule, Intake, ThePolicy, ForOperator, "No assignment rule fits",
		[]string{"a new network, suffix or model"},
		[]string{"see what the rules say: provctl rule test UUID", "add the profile with provctl profile apply FILE, or a rule with provctl rule apply FILE"}},
	{IdentityIncomplete, Intake, ThePolicy, ForOperator, "No name is known for the device",
		[]string{"no name source answered"},
		[]string{"give it one: provctl device name UUID FQDN", "or choose another name source in provisioning.names.sources or in a rule"}},
	{NameTaken, Intake, ThePolicy, ForOperator, "Another device has this name",
		[]string{"the list, the webhook or DNS gives one name to two devices", "a machine was replaced and the old one is still under management", "somebody imitating a device"},
		[]string{"see who has it: provctl device list NAME", "the old machine is gone: provctl device retire OLD, then provctl device retry UUID", "else give this one another name: provctl device name UUID FQDN"}},
	{DomainNotAllowed, Intake, ThePolicy, ForOperator, "The device's domain is none of ours",
		[]string{"its DNS suffix, or the name it was given, lies outside zones and outside the domains of the provisioning certificates", "a device that claims somebody else's domain"},
		[]string{"the domain is yours: add it to zones, or to provisioning.other_domains, and restart; then provctl device retry UUID", "it is not: look at the machine, and at option 15 of its DHCP scope; provctl device quarantine UUID"}},
	{SuffixContradiction, Intake, TheDevice, ForOperator, "The device's suffix contradicts the certificate it took",
		[]string{"firmware would have refused our certificate under the suffix this device names, so what answers is no firmware", "its DHCP lease changed in the middle of the set-up"},
		[]string{"look at the machine; if it is the one you know: provctl device release UUID", "if not: provctl device retire UUID"}},
	{SetupWindowExpired, Intake, TheDevice, ForHello, "The device stopped listening",
		[]string{"its setup window (6 hours in most cases) passed"},
		[]string{"unplug it for ten seconds, or reopen setup from MEBx or a local agent"}},
	{SetupWindowClosing, Intake, OurServer, Repeat, "The setup window ends soon",
		[]string{"a backlog", "a missing certificate"},
		[]string{"settle what the device waits for: provctl device why UUID"}},
	{Blocklisted, Intake, ThePolicy, Never, "The device is retired or excluded",
		[]string{"it was retired, lost or sold"},
		[]string{"find out why it is on the network", "to take it back: provctl device restore UUID"}},
	{NetworkNotAllowed, Intake, ThePolicy, ForOperator, "We may not connect to this address",
		[]string{"the address is outside provisioning.networks, or is one of our own"},
		[]string{"add the network to provisioning.networks", "look for a NAT or proxy that hides the device's address"}},
	{ReappearedUnprovisioned, Intake, TheDevice, ForOperator, "A managed device says hello again",
		[]string{"its settings were erased: its CMOS was cleared, its board swapped, or somebody unprovisioned it", "somebody else says hello in its name: its UUID is no secret"},
		[]string{"find out which: look at the machine, and at who has the address that the hello came from", "if its settings were erased, set it up again: provctl device approve UUID"}},
	{AgentNotItsDevice, Intake, ThePolicy, ForOperator, "An agent spoke for a device that is not its own",
		[]string{"its certificate carries another name than the device has, or another agent announced the device first", "a relay is not on the list of relays", "the certificate was stolen and is tried out"},
		[]string{"a relay: add the name in its certificate to hello.relays", "an agent: give it a certificate for its device's name", "stolen: take its authority out of hello.client_ca, or wait for its end"}},
	{DeviceUnreachable, Network, TheNet, Repeat, "TCP 16993 does not answer",
		[]string{"a firewall, VLAN or NAT between server and device", "the device is asleep or moved"},
		[]string{"allow the server to reach the device on TCP 16993", "a device that waits for its setup: wait for its next hello", "one under management that moved: correct its name in DNS, have its agent say where it is, or: provctl device address UUID ADDRESS"}},
	{DeviceIPChanged, Network, TheNet, ForHello, "The address belongs to another device now",
		[]string{"a new DHCP lease"},
		[]string{"nothing: the next hello brings the new address"}},
	{DNSProvisionServerMissing, Network, TheNet, ForOperator, "A zone has no ProvisionServer",
		[]string{"the record was never made"},
		[]string{"add the record that provisiond doctor prints"}},
	{DNSProvisionServerWrong, Network, TheNet, ForOperator, "ProvisionServer points elsewhere",
		[]string{"an old server is still in DNS"},
		[]string{"change the record"}},
	{DHCPOption15Missing, Network, TheNet, ForOperator, "DHCP offers no domain name (option 15)",
		[]string{"the scope has no option 15"},
		[]string{"set option 15 on the DHCP scope"}},
	{DHCPOption15Mismatch, Network, TheNet, ForOperator, "DHCP option 15 does not suit the certificate",
		[]string{"the scope names another domain"},
		[]string{"set option 15 to a domain the certificate serves, or buy one that serves it"}},
	{ReverseDNSMismatch, Network, TheNet, ForOperator, "Reverse and forward names differ",
		[]string{"a stale PTR record"},
		[]string{"clean up DNS"}},
	{NetworkAccessControlBlock, Network, TheNet, ForOperator, "The port asks for 802.1x before setup",
		[]string{"network access control"},
		[]string{"set devices up in a staging VLAN"}},
	{NoProvisioningCertificate, Certificate, OurServer, ForCertificate, "No provisioning certificate is active",
		[]string{"none was imported yet"},
		[]string{"provctl cert import FILE, or name a PFX under provisioning.certificates"}},
	{CertExpired, Certificate, OurServer, ForCertificate, "The provisioning certificate has expired",
		[]string{"it was not renewed"},
		[]string{"provctl cert import FILE with the renewed certificate, then provctl cert replace OLD NEW"}},
	{CertNotYetValid, Certificate, OurServer, ForCertificate, "The provisioning certificate is not valid yet",
		[]string{"the server's clock is wrong", "it was issued for later"},
		[]string{"check the clock"}},
	{CertExpiring, Certificate, NoBlame, Repeat, "The provisioning certificate expires soon",
		[]string{"its renewal is due"},
		[]string{"provctl cert renew ID, import what the CA sends, then provctl cert replace OLD NEW"}},
	{CertPrivateKeyMissing, Certificate, OurServer, ForCertificate, "The private key of this certificate is not here",
		[]string{"the request was made on another server", "the export left the key out"},
		[]string{"import a PFX with the key: provctl cert import FILE", "or see which requests wait here, provctl cert pending, and make a new one: provctl cert request"}},
	{CertKeyMismatch, Certificate, OurServer, ForCertificate, "The private key belongs to another certificate",
		[]string{"two files were mixed up"},
		[]string{"import the PFX that holds both"}},
	{PFXPasswordWrong, Certificate, OurServer, ForCertificate, "The PFX password is wrong",
		[]string{"a typing error", "a line end in the password file"},
		[]string{"check the password file"}},
	{PFXCorrupt, Certificate, OurServer, ForCertificate, "The PFX file is damaged",
		[]string{"a cut transfer", "a file of another kind"},
		[]string{"export it again"}},
	{PFXUnsupportedAlgorithm, Certificate, OurServer, ForCertificate, "The PFX uses an algorithm we cannot open",
		[]string{"an unusual export"},
		[]string{"export it again with AES or 3DES"}},
	{CertMissingAMTUsage, Certificate, OurServer, ForCertificate, "The certificate is not made for AMT setup",
		[]string{"an ordinary TLS certificate", "the CA rewrote the subject"},
		[]string{"re-issue with EKU 2.16.840.1.113741.1.2.3 or OU \"Intel(R) Client Setup Certificate\""}},
	{CertMissingServerAuth, Certificate, OurServer, ForCertificate, "The certificate lacks serverAuth",
		[]string{"a wrong template"},
		[]string{"re-issue with EKU serverAuth"}},
	{CertSelfSigned, Certificate, OurServer, ForCertificate, "The certificate is its own root",
		[]string{"a self-signed leaf was offered"},
		[]string{"use a certificate issued by a CA the devices trust"}},
	{CertAmbiguous, Certificate, OurServer, ForCertificate, "More than one certificate could be meant",
		[]string{"two leaves with keys in one file"},
		[]string{"import one certificate a file"}},
	{CertInputInvalid, Certificate, OurServer, ForCertificate, "The file holds no certificate we can read",
		[]string{"another kind of file", "an empty or oversized one"},
		[]string{"give PEM, DER, PKCS#7, PFX or a zip of these"}},
	{ChainIncomplete, Certificate, OurServer, ForCertificate, "An intermediate or the root is missing",
		[]string{"the vendor's bundle was left out"},
		[]string{"import the CA's bundle beside it: provctl cert import CERTIFICATE BUNDLE, or let --aia fetch it"}},
	{ChainWrongOrder, Certificate, NoBlame, Repeat, "The file's certificates were out of order",
		[]string{"vendors do that"},
		[]string{"nothing: the order is repaired"}},
	{ChainBrokenSignature, Certificate, OurServer, ForCertificate, "A signature in the chain does not hold",
		[]string{"a wrong intermediate of the same name"},
		[]string{"get the right bundle from the CA"}},
	{ChainSHA1Rejected, Certificate, TheDevice, ForCertificate, "The chain uses SHA-1 and this firmware refuses it",
		[]string{"AMT 15 desktop and 16 onward take no SHA-1"},
		[]string{"use a chain signed with SHA-256 throughout"}},
	{KeyTooSmall, Certificate, TheDevice, ForCertificate, "An RSA key in the chain is under 2048 bits",
		[]string{"an old root or request"},
		[]string{"re-issue with a 2048-bit key"}},
	{KeyTypeUnsupported, Certificate, TheDevice, ForCertificate, "The key is not RSA",
		[]string{"an elliptic-curve request"},
		[]string{"re-issue with an RSA key"}},
	{KeySizeUnsupported, Certificate, TheDevice, ForCertificate, "The key is too large for this firmware",
		[]string{"4096-bit keys need AMT 6.0"},
		[]string{"use a 2048-bit certificate for old devices"}},
	{RootNotTrusted, Certificate, OurServer, ForCertificate, "No certificate of ours ends in a root this device announced",
		[]string{"the CA changed its root", "a custom hash is missing", "the hash is disabled in MEBx"},
		[]string{"see which roots the devices know: provctl cert advise", "buy a certificate under one of them, or add our root's hash to the device: provctl root setup-bin"}},
	{NoCertForSuffix, Certificate, OurServer, ForCertificate, "No certificate serves the device's DNS suffix",
		[]string{"a new domain"},
		[]string{"get a certificate whose name lies in that domain: provctl cert request --cn NAME"}},
	{CAUnavailable, Certificate, OurServer, Repeat, "The device CA cannot sign",
		[]string{"its key is unavailable"},
		[]string{"look at the server log"}},
	{CRLUnreachable, Certificate, OurServer, Repeat, "A revocation list cannot be fetched",
		[]string{"the CA's server is down"},
		[]string{"check the URL named"}},
	{TLSVersionRefused, Handshake, TheDevice, ForOperator, "No common TLS version or cipher suite",
		[]string{"old firmware and a policy that forbids TLS 1.0 or 1.1"},
		[]string{"set provisioning.min_tls to what the detail names, or update the firmware"}},
	{TLSRenegotiationRefused, Handshake, TheDevice, Repeat, "The device asked to renegotiate TLS",
		[]string{"unusual firmware", "somebody between us and the device"},
		[]string{"look at the network path"}},
	{TLSClientCertRefused, Handshake, OurServer, ForCertificate, "The device refused our certificate",
		[]string{"DNS suffix, OU or EKU, an inactive root, SHA-1 or a short key"},
		[]string{"compare suffix, root and usage side by side: provctl device why UUID"}},
	{TLSSuffixRejected, Handshake, OurServer, ForCertificate, "The device refused our certificate, most likely for its DNS suffix",
		[]string{"DHCP option 15 or the PKI DNS suffix in MEBx names another domain"},
		[]string{"set option 15 to a domain the certificate serves"}},
	{TLSPeerCertInvalid, Handshake, TheDevice, ForOperator, "The device's own certificate cannot be read",
		[]string{"a fault of the firmware that made it; the detail names the field (AMT 3.2.1 is known for one)"},
		[]string{"update the firmware, which is known to help from 3.2.1 only; then provctl device retry UUID", "send a support bundle: the event attempt_failed holds the certificate"}},
	{TLSHandshakeFailed, Handshake, TheDevice, Repeat, "The TLS handshake broke off",
		[]string{"the device is busy or restarting", "something that is not AMT answers"},
		[]string{"wait for the next attempt", "check what listens on 16993"}},
	{ODCAVerificationFailed, Handshake, TheDevice, ForOperator, "The device's hardware certificate is not Intel's",
		[]string{"somebody imitating a device", "pre-production hardware"},
		[]string{"check the machine"}},
	{ODCARevoked, Handshake, TheDevice, ForOperator, "The device's hardware certificate is revoked",
		[]string{"vulnerable firmware"},
		[]string{"update the firmware"}},
	{TLSPinnedKeyChanged, Handshake, TheDevice, ForOperator, "What answers shows a TLS key that is not this device's",
		[]string{"CMOS was cleared, or another console gave it a certificate", "somebody sits in between, or answers in its name"},
		[]string{"look at the machine and at the fingerprint it shows; if it is the one you know: provctl device trust UUID --fingerprint SHA256"}},
	{PeerUnverified, Handshake, TheDevice, ForOperator, "Nobody has vouched for the certificate of a device that is to be adopted",
		[]string{"a password that was typed, or derived as Intel SCS does, would be answered to whoever is at its address"},
		[]string{"compare the fingerprint with the machine's, then: provctl device trust UUID --fingerprint SHA256", "or trust whoever answers first: provctl device trust UUID --first"}},
	{DeviceHalfProvisioned, Handshake, TheDevice, Repeat, "The device is half set up",
		[]string{"an earlier setup broke off"},
		[]string{"nothing: the next attempt resumes it"}},
	{OTPRequired, Proof, ThePolicy, ForOperator, "A one-time password is required",
		[]string{"no agent announced this device"},
		[]string{"run the agent on the device"}},
	{OTPMismatch, Proof, TheDevice, ForOperator, "The one-time password is wrong",
		[]string{"agent and device disagree"},
		[]string{"run the agent on the device once more: it makes a new one"}},
	{OTPExpired, Proof, ThePolicy, ForOperator, "The one-time password has expired",
		[]string{"too much time passed"},
		[]string{"run the agent on the device once more: it makes a new one"}},
	{AuthFailed, WSMAN, TheDevice, Repeat, "The device refused a password it should accept",
		[]string{"the password was changed elsewhere"},
		[]string{"nothing: stored passwords are tried in order, slowly", "if you know the password, one login does: provctl device adopt UUID --password-file FILE"}},
	{CredentialsUnknown, WSMAN, TheDevice, ForOperator, "No stored password works",
		[]string{"another tool set the device up"},
		[]string{"try a password known from elsewhere: provctl device adopt UUID --password-file FILE", "or reset it at the machine"}},
	{AccountLocked, WSMAN, TheDevice, Repeat, "The device asks for a pause between logins",
		[]string{"too many tries"},
		[]string{"wait"}},
	{RealmChanged, WSMAN, TheDevice, ForOperator, "The digest realm differs from the recorded one",
		[]string{"CMOS was cleared", "the board was swapped"},
		[]string{"look at the machine; if it is the one you know: provctl device release UUID"}},
	{FirmwareTooOld, WSMAN, TheDevice, ForOperator, "The firmware is too old",
		[]string{"below AMT 3.2 there is no WS-MAN setup"},
		[]string{"update the firmware"}},
	{FirmwareVulnerable, WSMAN, TheDevice, ForOperator, "The firmware has a known hole",
		[]string{"a build named in an Intel advisory"},
		[]string{"update the firmware"}},
	{FirmwareUnknown, WSMAN, TheDevice, ForOperator, "The device does not say its version",
		[]string{"unusual firmware"},
		[]string{"report it"}},
	{AMTDisabled, WSMAN, TheDevice, ForOperator, "AMT is disabled",
		[]string{"a BIOS or MEBx setting", "privacy level Extreme"},
		[]string{"enable it at the machine"}},
	{WSMANFault, WSMAN, TheDevice, Repeat, "The device refused a request",
		[]string{"see the fault in the evidence"},
		[]string{"look at the step's detail: provctl device show UUID"}},
	{WSMANTimeout, WSMAN, TheDevice, Repeat, "The device did not answer in time",
		[]string{"it is busy or went away"},
		[]string{"wait for the next attempt"}},
	{WSMANInvalid, WSMAN, TheDevice, Repeat, "The device's answer makes no sense",
		[]string{"something that is not AMT answers", "a damaged answer"},
		[]string{"check what listens on 16993"}},
	{ConnectionLost, WSMAN, TheDevice, Repeat, "The connection broke in the middle",
		[]string{"power loss", "a network fault"},
		[]string{"nothing: the next attempt asks first and resumes"}},
	{UUIDMismatch, WSMAN, TheDevice, ForOperator, "Another device answered than said hello",
		[]string{"a NAT", "an address that moved", "somebody imitating a device"},
		[]string{"look for a NAT", "wait for the next hello"}},
	{NotInSetup, WSMAN, TheDevice, ForOperator, "The device is not in setup mode",
		[]string{"somebody else finished it"},
		[]string{"if it is yours: provctl device adopt UUID --password-file FILE"}},
	{MEBxPasswordRejected, WSMAN, TheDevice, ForOperator, "The device refused the MEBx password",
		[]string{"MEBx policy", "it was changed by hand before"},
		[]string{"reset MEBx at the machine"}},
	{AdminPasswordRejected, WSMAN, TheDevice, ForOperator, "The device refused the admin password",
		[]string{"an unusual firmware rule"},
		[]string{"look at the step's detail: provctl device show UUID"}},
	{ClockSyncFailed, WSMAN, TheDevice, Repeat, "The device's clock could not be set",
		[]string{"the device refused"},
		[]string{"look at the step's detail: provctl device show UUID"}},
	{ClockSkew, WSMAN, OurServer, Repeat, "Server and device disagree about the time",
		[]string{"the server's clock is wrong"},
		[]string{"check NTP"}},
	{KeypairGenerationFailed, WSMAN, TheDevice, Repeat, "The device could not make a key pair",
		[]string{"it is busy for a while after power-up"},
		[]string{"nothing: it is tried again"}},
	{DeviceCertInstallFailed, WSMAN, TheDevice, Repeat, "The device's certificate could not be stored",
		[]string{"its store is full"},
		[]string{"old certificates are cleaned away at the next attempt"}},
	{TLSEnableFailed, WSMAN, TheDevice, Repeat, "TLS could not be switched on",
		[]string{"clock, key or certificate is missing in the device"},
		[]string{"look at the step's detail: provctl device show UUID"}},
	{WiFiApplyFailed, WSMAN, TheDevice, Repeat, "The wireless settings were refused",
		[]string{"see the evidence"},
		[]string{"check the profile"}},
	{Dot1xApplyFailed, WSMAN, TheDevice, Repeat, "The 802.1x settings were refused",
		[]string{"see the evidence"},
		[]string{"check the profile"}},
	{ACLApplyFailed, WSMAN, TheDevice, Repeat, "The user list was refused",
		[]string{"see the evidence"},
		[]string{"check the profile"}},
	{CommitFailed, WSMAN, TheDevice, Repeat, "The device refused to commit",
		[]string{"host name, clock, TLS parts or the MEBx password is missing"},
		[]string{"look at the step's detail: provctl device show UUID"}},
	{CommitUnverified, WSMAN, TheDevice, Repeat, "The commit could not be confirmed",
		[]string{"the device restarts its network slowly"},
		[]string{"nothing: it is asked again"}},
	{UnprovisionBlocked, WSMAN, TheDevice, ForOperator, "An auditor account blocks unprovisioning",
		[]string{"audit log policy up to AMT 11.6"},
		[]string{"the auditor must release the device"}},
	{ProfileDrift, WSMAN, NoBlame, ForOperator, "The device differs from its profile",
		[]string{"somebody changed the device with another console", "the profile was changed after the device was set up"},
		[]string{"see what differs in the device's detail", "bring it back: provctl maintain UUID --task clock,cert,name,tls,settings"}},
	{LockoutAverted, WSMAN, ThePolicy, ForOperator, "A change would have shut us out and was taken back",
		[]string{"the device does not let this server in under the profile's TLS settings"},
		[]string{"see what was refused in the device's detail: provctl device show UUID", "mend the profile, or go back: provctl profile rollback NAME --to VERSION", "then: provctl maintain UUID --task tls"}},
	{FlashWriteLimit, WSMAN, TheDevice, ForOperator, "The device takes no more writes for now",
		[]string{"its settings were written too often in a short time, and firmware spares its flash"},
		[]string{"nothing: it is left alone for a day", "where it comes again, look for another console that writes to it"}},
	{SecretStoreUnavailable, Server, OurServer, Repeat, "The key store is unavailable",
		[]string{"the master key cannot be read"},
		[]string{"restore it", "nothing was sent to the device"}},
	{MasterPasswordMissing, Server, OurServer, ForOperator, "The password to derive from is not kept here",
		[]string{"the profile says passwords: derived, and the digest master password of the device's domain was never given"},
		[]string{"keep it: provctl secret master set DOMAIN", "or take passwords: derived out of the profile", "nothing was sent to the device"}},
	{DBUnavailable, Server, OurServer, Repeat, "The database is unavailable",
		[]string{"an outage"},
		[]string{"restore it", "nothing was sent to the device"}},
	{QueueOverloaded, Server, OurServer, Repeat, "Too much work is waiting",
		[]string{"a backlog"},
		[]string{"add a node or wait"}},
	{WorkerCrashed, Server, OurServer, Repeat, "The node working on this device went away",
		[]string{"a restart or crash"},
		[]string{"nothing: another attempt resumes it"}},
	{LeaseLost, Server, OurServer, Repeat, "Another node took this device over",
		[]string{"a stall", "a network cut"},
		[]string{"nothing: the other node goes on"}},
	{ConfigInvalid, Server, OurServer, ForOperator, "The configuration is wrong",
		[]string{"see the evidence"},
		[]string{"provisiond config check"}},
	{PolicyDenied, Server, ThePolicy, ForOperator, "Policy forbids this",
		[]string{"see the evidence"},
		[]string{"the detail says which policy: provctl device why UUID"}},
	{KeptOut, Server, ThePolicy, ForOperator, "A person keeps this device out",
		[]string{"somebody put it into quarantine: provctl device quarantine"},
		[]string{"look at the machine, then let it go on: provctl device release UUID", "or take it out for good: provctl device retire UUID"}},
	{Rejected, Server, ThePolicy, ForOperator, "A person turned this device away",
		[]string{"somebody looked at it and does not want it set up from here"},
		[]string{"let it in after all: provctl device approve UUID", "have its next hello looked at as if it were new: provctl device release UUID"}},
	{Cancelled, Server, ThePolicy, ForOperator, "An operator stopped the run",
		nil,
		[]string{"provctl device retry UUID"}},
	{InternalError, Server, OurServer, Repeat, "Something unexpected went wrong here",
		[]string{"a fault in this program"},
		[]string{"report it with what provisiond support-bundle writes"}},
}

var byCode = func() map[Code]Entry {
	m := make(map[Code]Entry, len(catalogue))
	for _, e := range catalogue {
		m[e.Code] = e
	}
	return m
}()
