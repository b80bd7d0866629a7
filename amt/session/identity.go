package session

import (
	"context"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/wsman"
)

const (
	setupService = "AMT_SetupAndConfigurationService"
	general      = "AMT_GeneralSettings"
	wiredPort    = "Intel(r) AMT Ethernet Port Settings 0"
)

// Identify asks a device who it is, by reading only. Fields that a release
// lacks stay zero, even the UUID; version, realm and state are always there.
func (s *Session) Identify(ctx context.Context) (Identity, error) {
	var id Identity
	if err := s.readVersion(ctx, &id); err != nil {
		return id, err
	}
	g, err := s.client.Get(ctx, general)
	if err != nil {
		return id, err
	}
	id.Realm = clipText(g.Child("DigestRealm").Text())
	id.HostName = clipText(g.Child("HostName").Text())
	id.DomainName = clipText(g.Child("DomainName").Text())
	if err := s.readSetup(ctx, &id); err != nil {
		return id, err
	}
	// A release without the method does not say its UUID.
	if id.UUID, err = s.uuid(ctx); err != nil && !absent(err) {
		return id, err
	}
	port, err := s.client.Get(ctx, "AMT_EthernetPortSettings", wsman.Selector{Name: "InstanceID", Value: wiredPort})
	switch {
	case err == nil:
		id.MAC = readMAC(port.Child("MACAddress").Text())
	case !refused(err):
		return id, err
	}
	return id, nil
}

// readVersion finds the version among the instances of CIM_SoftwareIdentity:
// AMT has the release, Build Number what follows it.
func (s *Session) readVersion(ctx context.Context, id *Identity) error {
	items, err := s.client.Enumerate(ctx, "CIM_SoftwareIdentity")
	if err != nil {
		if fault := new(wsman.Fault); errors.As(err, &fault) && fault.HTTPStatus == 404 && fault.Code == "" {
			return reason.Because(reason.FirmwareTooOld, "the device has no WS-Management: %w", err)
		}
		if !absent(err) {
			return err
		}
	}
	var build string
	for _, n := range items {
		value := clipText(n.Child("VersionString").Text())
		switch n.Child("InstanceID").Text() {
		case "AMT":
			if v, err := amt.ParseVersion(value); err == nil {
				id.Version = v
			}
		case "Build Number":
			build = value
		case "Sku":
			id.SKU = value
		}
	}
	if id.Version.IsZero() {
		// Server: Intel(R) Active Management Technology 11.8.50.3425
		words := strings.Fields(s.client.Server())
		if len(words) > 0 {
			id.Version, _ = amt.ParseVersion(words[len(words)-1])
		}
	}
	if n, err := strconv.Atoi(build); err == nil && id.Version.Build == 0 && n > 0 && !id.Version.IsZero() {
		id.Version.Build = n
	}
	if id.Version.IsZero() {
		return reason.Because(reason.FirmwareUnknown, "the device does not say its AMT version")
	}
	return nil
}

func (s *Session) readSetup(ctx context.Context, id *Identity) error {
	n, err := s.client.Get(ctx, setupService)
	if err != nil {
		return err
	}
	if id.State, err = stateOf(n); err != nil {
		return err
	}
	id.DHCPSuffix = clipText(n.Child("DhcpDNSSuffix").Text())
	id.TrustedSuffix = clipText(n.Child("TrustedDNSSuffix").Text())
	// 32 zero bytes mean that nobody set one (a fixture of a configured device).
	if raw, err := decodeBase64(n.Child("ProvisioningServerOTP").Text()); err == nil {
		if otp := strings.TrimRight(string(raw), "\x00"); otp != "" {
			id.OTP = amt.NewSecret(otp)
		}
	}
	return nil
}

// State asks where in its life the device is.
func (s *Session) State(ctx context.Context) (amt.ProvisioningState, error) {
	n, err := s.client.Get(ctx, setupService)
	if err != nil {
		return 0, err
	}
	return stateOf(n)
}

func stateOf(n wsman.Node) (amt.ProvisioningState, error) {
	v, err := strconv.Atoi(n.Child("ProvisioningState").Text())
	if err != nil || v < int(amt.StatePre) || v > int(amt.StatePost) {
		return 0, reason.Because(reason.WSMANInvalid, "the device's provisioning state is %q",
			clipText(n.Child("ProvisioningState").Text()))
	}
	return amt.ProvisioningState(v), nil
}

// uuid is GetUuid: 16 bytes in SMBIOS order.
func (s *Session) uuid(ctx context.Context) (amt.UUID, error) {
	out, err := s.client.Invoke(ctx, setupService, "GetUuid")
	if err != nil {
		return amt.UUID{}, err
	}
	raw, err := decodeBase64(out.Child("UUID").Text())
	if err != nil || len(raw) != 16 {
		return amt.UUID{}, reason.Because(reason.WSMANInvalid, "GetUuid answers with %d bytes, not 16", len(raw))
	}
	return amt.FromSMBIOS([16]byte(raw)), nil
}

// ExtendSetup sets the time for which the device stays open for setup: 1 to 24
// hours from now. 0 closes it at once.
func (s *Session) ExtendSetup(ctx context.Context, hours int) error {
	if hours < 0 || hours > 24 {
		return reason.Because(reason.InternalError, "extend setup by %d hours: the device takes 0 to 24", hours)
	}
	_, err := s.client.Invoke(ctx, setupService, "ExtendProvisioningPeriod", wsman.Arg{Name: "Duration", Value: strconv.Itoa(hours)})
	return err
}

// decodeBase64 ignores white space, with which firmware breaks long values.
func decodeBase64(t string) ([]byte, error) {
	t = strings.Join(strings.Fields(t), "")
	if b, err := base64.StdEncoding.DecodeString(t); err == nil {
		return b, nil
	}
	return base64.RawStdEncoding.DecodeString(t)
}

// readMAC turns 01-02-3f-b0-99-99 into aa:bb:cc:dd:ee:ff form, and anything
// else into "".
func readMAC(t string) string {
	t = strings.ToLower(strings.NewReplacer("-", "", ":", "", ".", "").Replace(t))
	if len(t) != 12 || strings.Trim(t, "0123456789abcdef") != "" || t == "000000000000" {
		return ""
	}
	return t[:2] + ":" + t[2:4] + ":" + t[4:6] + ":" + t[6:8] + ":" + t[8:10] + ":" + t[10:]
}
