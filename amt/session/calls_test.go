package session

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/wsman"
)

// A script answers requests by what they ask for: "Get AMT_GeneralSettings",
// "Put AMT_…", "Enumerate AMT_…" (the items), or a method's name (what stands
// beside ReturnValue 0). An answer that begins with a number is a ReturnValue;
// "fault …" is a SOAP fault with that subcode; "404" is that HTTP status.
// Several answers to the same question are given in turn, the last for ever.
type script map[string][]string

type scripted struct {
	*Session
	t      *testing.T
	asked  []string          // questions, in order
	bodies map[string]string // the last body of each question
	server string
}

func startScript(t *testing.T, s script, serverHeader string) *scripted {
	t.Helper()
	here, there := net.Pipe()
	d := &scripted{t: t, bodies: map[string]string{}, server: serverHeader}
	d.Session = &Session{client: wsman.NewClient(here, wsman.Config{Host: "device", CallTimeout: patience}), now: time.Now}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.serve(there, s)
	}()
	t.Cleanup(func() {
		_ = d.Close()
		<-done
	})
	return d
}

func between(s, from, to string) string {
	_, after, _ := strings.Cut(s, from)
	v, _, _ := strings.Cut(after, to)
	return v
}

func (d *scripted) serve(c net.Conn, s script) {
	defer c.Close()
	br := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		body := string(raw)
		action := between(body, "<a:Action>", "</a:Action>")
		resource := between(body, "<w:ResourceURI>", "</w:ResourceURI>")
		class := resource[strings.LastIndexByte(resource, '/')+1:]
		verb := action[strings.LastIndexByte(action, '/')+1:]
		question := verb
		if !strings.HasPrefix(action, resource) {
			question = verb + " " + class
		}
		if verb == "Pull" {
			question = "Enumerate " + class
		}
		answer, status := "", 200
		if verb == "Enumerate" {
			answer = `<EnumerateResponse><EnumerationContext>1</EnumerationContext></EnumerateResponse>`
			if q := s[question]; len(q) > 0 && (strings.HasPrefix(q[0], "fault ") || q[0] == "404") {
				answer, status = d.next(s, question, body)
			} else if q == nil {
				answer, status = faultOf("InvalidResourceURI"), 400
			}
		} else {
			answer, status = d.next(s, question, body)
		}
		if verb == "Pull" {
			answer = `<PullResponse><Items>` + answer + `</Items><EndOfSequence/></PullResponse>`
		}
		text := `<Envelope><Body>` + answer + `</Body></Envelope>`
		if status == 404 {
			text = "<html/>"
		}
		if _, err := fmt.Fprintf(c, "HTTP/1.1 %d x\r\nServer: %s\r\nContent-Length: %d\r\n\r\n%s", status, d.server, len(text),
			text); err != nil {
			return
		}
	}
}

func faultOf(sub string) string {
	return `<Fault><Code><Value>s:Sender</Value><Subcode><Value>w:` + sub + `</Value></Subcode></Code></Fault>`
}

func (d *scripted) next(s script, question, body string) (string, int) {
	d.asked = append(d.asked, question)
	d.bodies[question] = body
	list := s[question]
	if list == nil {
		return faultOf("InvalidResourceURI"), 400
	}
	answer := list[0]
	if len(list) > 1 {
		s[question] = list[1:]
	}
	switch {
	case answer == "404":
		return "", 404
	case strings.HasPrefix(answer, "fault "):
		return faultOf(answer[6:]), 400
	case strings.Contains(question, " "):
		return answer, 200
	}
	value := "0"
	if answer != "" && answer[0] >= '0' && answer[0] <= '9' {
		value, answer = answer, ""
	}
	return `<` + question + `_OUTPUT>` + answer + `<ReturnValue>` + value + `</ReturnValue></` + question + `_OUTPUT>`, 200
}

const uuidAnswer = `<UUID>RDMiEWZViHeZqrvM3e7/AA==</UUID>`

func TestIdentify(t *testing.T) {
	t.Parallel()
	software := func(pairs ...string) string {
		var b strings.Builder
		for i := 0; i < len(pairs); i += 2 {
			b.WriteString(`<CIM_SoftwareIdentity><InstanceID>` + pairs[i] + `</InstanceID><VersionString>` + pairs[i+1] +
				`</VersionString></CIM_SoftwareIdentity>`)
		}
		return b.String()
	}
	setup := func(more string) string {
		return `<AMT_SetupAndConfigurationService><ProvisioningState>1</ProvisioningState>` + more + `</AMT_SetupAndConfigurationService>`
	}
	settings := `<AMT_GeneralSettings><DigestRealm>Digest:A4</DigestRealm><HostName>h</HostName><DomainName>d.test</DomainName></AMT_GeneralSettings>`
	uuid, _ := amt.ParseUUID("11223344-5566-7788-99aa-bbccddeeff00")
	base := Identity{UUID: uuid, Realm: "Digest:A4", HostName: "h", DomainName: "d.test", State: amt.StateIn}
	with := func(change func(*Identity)) Identity {
		id := base
		change(&id)
		return id
	}
	for _, tc := range []struct {
		name   string
		script script
		server string
		want   Identity
		code   reason.Code
	}{
		{"everything", script{
			"Enumerate CIM_SoftwareIdentity": {software("Flash", "11.8.50", "AMT", "11.8.50", "Build Number", "3425", "Sku", "16392")},
			"Get AMT_GeneralSettings":        {settings},
			"Get " + setupService: {setup(`<ProvisioningServerOTP>` +
				base64.StdEncoding.EncodeToString([]byte("one-time-pass")) +
				`</ProvisioningServerOTP><DhcpDNSSuffix>d.test</DhcpDNSSuffix><TrustedDNSSuffix>t.test</TrustedDNSSuffix>`)},
			"GetUuid":                      {uuidAnswer},
			"Get AMT_EthernetPortSettings": {`<AMT_EthernetPortSettings><MACAddress>01-02-3F-b0-99-99</MACAddress></AMT_EthernetPortSettings>`},
		}, "", with(func(id *Identity) {
			id.Version = amt.Version{Major: 11, Minor: 8, Hotfix: 50, Build: 3425}
			id.SKU, id.DHCPSuffix, id.TrustedSuffix, id.MAC = "16392", "d.test", "t.test", "01:02:3f:b0:99:99"
			id.OTP = amt.NewSecret("one-time-pass")
		}), ""},
		{"an old one that has less", script{
			"Enumerate CIM_SoftwareIdentity": {software("AMT", "3.2.1")},
			"Get AMT_GeneralSettings":        {settings},
			"Get " + setupService: {setup(`<ProvisioningServerOTP>` + base64.StdEncoding.EncodeToString(make([]byte, 32)) +
				`</ProvisioningServerOTP>`)},
			"GetUuid": {uuidAnswer},
		}, "", with(func(id *Identity) { id.Version = amt.Version{Major: 3, Minor: 2, Hotfix: 1} }), ""},
		{"no method for the UUID", script{
			"Enumerate CIM_SoftwareIdentity": {software("AMT", "3.2.1")},
			"Get AMT_GeneralSettings":        {settings},
			"Get " + setupService:            {setup(``)},
		}, "", with(func(id *Identity) { id.Version, id.UUID = amt.Version{Major: 3, Minor: 2, Hotfix: 1}, amt.UUID{} }), ""},
		{"MAC refused", script{
			"Enumerate CIM_SoftwareIdentity": {software("AMT", "12.0.1")},
			"Get AMT_GeneralSettings":        {settings},
			"Get " + setupService:            {setup(``)},
			"GetUuid":                        {uuidAnswer},
			"Get AMT_EthernetPortSettings":   {"404"},
		}, "", with(func(id *Identity) { id.Version = amt.Version{Major: 12, Hotfix: 1} }), ""},
		{"version only in the Server header", script{
			"Enumerate CIM_SoftwareIdentity": {``},
			"Get AMT_GeneralSettings":        {settings},
			"Get " + setupService:            {setup(``)},
			"GetUuid":                        {uuidAnswer},
		}, "Intel(R) Active Management Technology 5.2.10.1",
			with(func(id *Identity) { id.Version = amt.Version{Major: 5, Minor: 2, Hotfix: 10, Build: 1} }), ""},
		{"no class of software", script{
			"Get AMT_GeneralSettings": {settings},
			"Get " + setupService:     {setup(``)},
			"GetUuid":                 {uuidAnswer},
		}, "AMT 3.2.1", with(func(id *Identity) { id.Version = amt.Version{Major: 3, Minor: 2, Hotfix: 1} }), ""},
		{"no version", script{"Enumerate CIM_SoftwareIdentity": {``}}, "Intel(R) Active Management Technology", Identity{}, reason.FirmwareUnknown},
		{"no WS-Management", script{"Enumerate CIM_SoftwareIdentity": {"404"}}, "", Identity{}, reason.FirmwareTooOld},
		{"a state nobody knows", script{
			"Enumerate CIM_SoftwareIdentity": {software("AMT", "3.2.1")},
			"Get AMT_GeneralSettings":        {settings},
			"Get " + setupService:            {`<AMT_SetupAndConfigurationService><ProvisioningState>7</ProvisioningState></AMT_SetupAndConfigurationService>`},
		}, "", Identity{}, reason.WSMANInvalid},
		{"a short UUID", script{
			"Enumerate CIM_SoftwareIdentity": {software("AMT", "3.2.1")},
			"Get AMT_GeneralSettings":        {settings},
			"Get " + setupService:            {setup(``)},
			"GetUuid":                        {`<UUID>RDMi</UUID>`},
		}, "", Identity{}, reason.WSMANInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			id, err := startScript(t, tc.script, tc.server).Identify(t.Context())
			if tc.code != "" {
				wantReason(t, err, tc.code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, id, cmp.Comparer(func(a, b amt.Secret) bool { return a.Equal(b) })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The check vector of the reference.
func TestDigestPassword(t *testing.T) {
	t.Parallel()
	got := digestPassword("admin", "Digest:A4070000000000000000000000000000", amt.NewSecret("P@ssw0rd"))
	if got != "arkZL7pYoE1eDE34m5pDUA==" {
		t.Errorf("got %s", got)
	}
}

func TestSetClock(t *testing.T) {
	t.Parallel()
	d := startScript(t, script{
		"GetLowAccuracyTimeSynch":  {`<Ta0>1385397387</Ta0>`},
		"SetHighAccuracyTimeSynch": {""},
	}, "")
	d.now = func() time.Time { return time.Unix(1795365387, 0) }
	before, err := d.SetClock(t.Context())
	if err != nil || before.Unix() != 1385397387 {
		t.Fatalf("%v, %v", before, err)
	}
	if diff := cmp.Diff([]string{"GetLowAccuracyTimeSynch", "SetHighAccuracyTimeSynch"}, d.asked); diff != "" {
		t.Errorf("nothing may come between the two:\n%s", diff)
	}
	const want = `<r:Ta0>1385397387</r:Ta0><r:Tm1>1795365387</r:Tm1><r:Tm2>1795365387</r:Tm2>`
	if !strings.Contains(d.bodies["SetHighAccuracyTimeSynch"], want) {
		t.Errorf("sent %s", d.bodies["SetHighAccuracyTimeSynch"])
	}
}

// A status keeps its number and gets the name of its step.
func TestStatusesGetTheirStepsName(t *testing.T) {
	t.Parallel()
	secret := amt.NewSecret("x")
	for _, tc := range []struct {
		method string
		status amt.Status
		call   func(s *Session) error
		code   reason.Code
	}{
		{"SetMEBxPassword", 16, func(s *Session) error { return s.SetMEBxPassword(t.Context(), secret) }, reason.MEBxPasswordRejected},
		{"SetAdminAclEntryEx", 2054, func(s *Session) error { return s.SetAdminPassword(t.Context(), "admin", "r", secret) }, reason.AdminPasswordRejected},
		{"GetLowAccuracyTimeSynch", 36, func(s *Session) error { _, err := s.SetClock(t.Context()); return err }, reason.ClockSyncFailed},
		{"GenerateKeyPair", 2061, func(s *Session) error { _, err := s.GenerateKey(t.Context(), 2048); return err }, reason.KeypairGenerationFailed},
		{"GenerateKeyPair", 1, func(s *Session) error { _, err := s.GenerateKey(t.Context(), 2048); return err }, reason.KeypairGenerationFailed},
		{"AddCertificate", 2058, func(s *Session) error { _, err := s.AddCertificate(t.Context(), nil); return err }, reason.DeviceCertInstallFailed},
		{"AddTrustedRootCertificate", 23, func(s *Session) error { _, err := s.AddTrustedRoot(t.Context(), nil); return err }, reason.DeviceCertInstallFailed},
		{"CommitChanges", 2057, func(s *Session) error { return s.Commit(t.Context()) }, reason.CommitFailed},
		{"Unprovision", 2076, func(s *Session) error { return s.Unprovision(t.Context(), true) }, reason.UnprovisionBlocked},
		{"PartialUnprovision", 16, func(s *Session) error { return s.Unprovision(t.Context(), false) }, reason.WSMANFault},
		{"ExtendProvisioningPeriod", 36, func(s *Session) error { return s.ExtendSetup(t.Context(), 24) }, reason.WSMANFault},
	} {
		t.Run(fmt.Sprintf("%s %d", tc.method, tc.status), func(t *testing.T) {
			t.Parallel()
			err := tc.call(startScript(t, script{tc.method: {fmt.Sprint(uint32(tc.status))}}, "").Session)
			wantReason(t, err, tc.code)
			var status amt.Status
			if !errors.As(err, &status) || status != tc.status {
				t.Errorf("%v does not hold %v", err, tc.status)
			}
			if why := new(reason.Error); errors.As(err, &why) && why.Sent {
				t.Error("an answered call is not open")
			}
		})
	}
	if err := (&Session{}).ExtendSetup(t.Context(), 25); err == nil {
		t.Error("25 hours pass")
	}
}

func TestHostName(t *testing.T) {
	t.Parallel()
	const read = `<g:AMT_GeneralSettings xmlns:g="http://intel.com/wbem/wscim/1/amt-schema/1/AMT_GeneralSettings"><g:AMTNetworkEnabled>1</g:AMTNetworkEnabled><g:DigestRealm>R</g:DigestRealm><g:DomainName></g:DomainName><g:HostName>old</g:HostName><g:IdleWakeTimeout>5</g:IdleWakeTimeout><g:New>keep</g:New></g:AMT_GeneralSettings>`
	t.Run("as read", func(t *testing.T) {
		t.Parallel()
		d := startScript(t, script{"Get AMT_GeneralSettings": {read}, "Put AMT_GeneralSettings": {""}}, "")
		if err := d.SetHostName(t.Context(), "pc<1>", "d.test"); err != nil {
			t.Fatal(err)
		}
		want := `<r:AMTNetworkEnabled>1</r:AMTNetworkEnabled><r:DigestRealm>R</r:DigestRealm><r:DomainName>d.test</r:DomainName><r:HostName>pc&lt;1&gt;</r:HostName><r:IdleWakeTimeout>5</r:IdleWakeTimeout><r:New>keep</r:New></r:AMT_GeneralSettings>`
		if !strings.Contains(d.bodies["Put AMT_GeneralSettings"], want) {
			t.Errorf("sent %s", d.bodies["Put AMT_GeneralSettings"])
		}
	})
	t.Run("without what is read only, when refused", func(t *testing.T) {
		t.Parallel()
		d := startScript(t, script{"Get AMT_GeneralSettings": {read}, "Put AMT_GeneralSettings": {"fault InvalidRepresentation", ""}}, "")
		if err := d.SetHostName(t.Context(), "pc", "d.test"); err != nil {
			t.Fatal(err)
		}
		want := `<r:DomainName>d.test</r:DomainName><r:HostName>pc</r:HostName><r:IdleWakeTimeout>5</r:IdleWakeTimeout><r:New>keep</r:New></r:AMT_GeneralSettings>`
		if got := d.bodies["Put AMT_GeneralSettings"]; !strings.Contains(got, want) || strings.Contains(got, "DigestRealm") {
			t.Errorf("sent %s", got)
		}
	})
	t.Run("refused for good", func(t *testing.T) {
		t.Parallel()
		d := startScript(t, script{"Get AMT_GeneralSettings": {read}, "Put AMT_GeneralSettings": {"fault AccessDenied"}}, "")
		wantReason(t, d.SetHostName(t.Context(), "pc", "d.test"), reason.WSMANFault)
	})
}

func epr(class, selector, value string) string {
	return `<Address>x</Address><ReferenceParameters><ResourceURI>` + wsman.URI(class) + `</ResourceURI><SelectorSet><Selector Name="` +
		selector + `">` + value + `</Selector></SelectorSet></ReferenceParameters>`
}

func TestUseCertificate(t *testing.T) {
	t.Parallel()
	const handle = "Intel(r) AMT Certificate: Handle: 3"
	existing := func(h string) string {
		return `<AMT_TLSCredentialContext><ElementInContext>` + epr("AMT_PublicKeyCertificate", "InstanceID", h) +
			`</ElementInContext><ElementProvidingContext>` +
			epr("AMT_TLSProtocolEndpointCollection", "ElementName", "As The Device Says") +
			`</ElementProvidingContext></AMT_TLSCredentialContext>`
	}
	named := `<AMT_TLSProtocolEndpointCollection><ElementName>The Collection</ElementName></AMT_TLSProtocolEndpointCollection>`
	for _, tc := range []struct {
		name   string
		script script
		asked  string // the writing calls, in order
		in     string // what the last of them holds
		code   reason.Code
	}{
		{"created, name read", script{"Enumerate AMT_TLSCredentialContext": {""}, "Enumerate AMT_TLSProtocolEndpointCollection": {named}, "Create AMT_TLSCredentialContext": {""}},
			"Create", "The Collection", ""},
		{"created, class of contexts unknown", script{"Enumerate AMT_TLSProtocolEndpointCollection": {named}, "Create AMT_TLSCredentialContext": {""}},
			"Create", "The Collection", ""},
		{"created, name not said", script{"Enumerate AMT_TLSCredentialContext": {""}, "Create AMT_TLSCredentialContext": {""}},
			"Create", "TLSProtocolEndpoint Instances Collection", ""},
		{"created at the second spelling", script{"Enumerate AMT_TLSCredentialContext": {""}, "Create AMT_TLSCredentialContext": {"fault InvalidSelectors", ""}},
			"Create Create", "TLSProtocolEndpointInstances Collection", ""},
		{"refused in both", script{"Enumerate AMT_TLSCredentialContext": {""}, "Create AMT_TLSCredentialContext": {"fault InvalidSelectors"}},
			"Create Create", "", reason.TLSEnableFailed},
		{"changed", script{"Enumerate AMT_TLSCredentialContext": {existing("Intel(r) AMT Certificate: Handle: 0")}, "Put AMT_TLSCredentialContext": {""}},
			"Put", "As The Device Says", ""},
		{"already so", script{"Enumerate AMT_TLSCredentialContext": {existing(handle)}}, "", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := startScript(t, tc.script, "")
			err := d.UseCertificate(t.Context(), handle)
			if tc.code != "" {
				wantReason(t, err, tc.code)
			} else if err != nil {
				t.Fatal(err)
			}
			var writes []string
			last := ""
			for _, q := range d.asked {
				if verb, _, _ := strings.Cut(q, " "); verb == "Put" || verb == "Create" {
					writes = append(writes, verb)
					last = d.bodies[q]
				}
			}
			if got := strings.Join(writes, " "); got != tc.asked {
				t.Errorf("wrote %q, want %q", got, tc.asked)
			}
			if tc.in != "" && (!strings.Contains(last, handle) || !strings.Contains(last, ">"+tc.in+"<")) {
				t.Errorf("sent %s", last)
			}
		})
	}
}

func TestEnableTLS(t *testing.T) {
	t.Parallel()
	instance := func(id, more string) string {
		return `<g:AMT_TLSSettingData xmlns:g="` + wsman.URI("AMT_TLSSettingData") +
			`"><g:AcceptNonSecureConnections>true</g:AcceptNonSecureConnections><g:ElementName>` + id +
			`</g:ElementName><g:Enabled>false</g:Enabled><g:InstanceID>` + id +
			`</g:InstanceID><g:MutualAuthentication>false</g:MutualAuthentication>` + more + `</g:AMT_TLSSettingData>`
	}
	const network, local = "Intel(r) AMT 802.3 TLS Settings", "Intel(r) AMT LMS TLS Settings"
	for _, tc := range []struct {
		name    string
		items   string
		mutual  bool
		cns     []string
		with    []string
		without []string
		code    reason.Code
	}{
		{"server authentication", instance(local, "") + instance(network, `<g:TrustedCN></g:TrustedCN>`), false, nil,
			[]string{`Name="InstanceID">` + network + `<`, `<r:Enabled>true</r:Enabled>`, `<r:MutualAuthentication>false<`,
				`<r:AcceptNonSecureConnections>true<`}, []string{"LMS", "TrustedCN"}, ""},
		{"mutual", instance(network, `<g:TrustedCN>old.test</g:TrustedCN><g:TrustedCN>older.test</g:TrustedCN>`), true, []string{"a.test", "b.test"},
			[]string{`<r:MutualAuthentication>true<`, `<r:TrustedCN>a.test</r:TrustedCN><r:TrustedCN>b.test</r:TrustedCN>`},
			[]string{"old"}, ""},
		{"no plain connections in this generation", instance(network, `<g:NonSecureConnectionsSupported>false</g:NonSecureConnectionsSupported>`), false, nil,
			[]string{`<r:Enabled>true</r:Enabled>`}, []string{"AcceptNonSecureConnections"}, ""},
		{"none for the network", instance(local, ""), false, nil, nil, nil, reason.TLSEnableFailed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := startScript(t, script{"Enumerate AMT_TLSSettingData": {tc.items}, "Put AMT_TLSSettingData": {""}}, "")
			err := d.EnableTLS(t.Context(), tc.mutual, tc.cns)
			if tc.code != "" {
				wantReason(t, err, tc.code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := d.bodies["Put AMT_TLSSettingData"]
			for _, w := range tc.with {
				if !strings.Contains(got, w) {
					t.Errorf("%s is missing in %s", w, got)
				}
			}
			for _, w := range tc.without {
				if strings.Contains(got, w) {
					t.Errorf("%s stands in %s", w, got)
				}
			}
		})
	}
}

func TestHandles(t *testing.T) {
	t.Parallel()
	const key, cert = "Intel(r) AMT Key: Handle: 0", "Intel(r) AMT Certificate: Handle: 1"
	d := startScript(t, script{
		"GenerateKeyPair":                 {`<KeyPair>` + epr("AMT_PublicPrivateKeyPair", "InstanceID", key) + `</KeyPair>`},
		"AddCertificate":                  {`<Created>` + epr("AMT_PublicKeyCertificate", "InstanceID", cert) + `</Created>`, ``},
		"Delete AMT_PublicPrivateKeyPair": {""},
		"Delete AMT_PublicKeyCertificate": {""},
		"Enumerate " + recordClasses[0]:   {`<IPS_TLSProvisioningRecord><CaCertificateSerials>1</CaCertificateSerials><CaCertificateSerials>2</CaCertificateSerials><IsTimeValid>true</IsTimeValid><ProvServerFQDN>ps.test</ProvServerFQDN><ProvisioningTLSMode>2</ProvisioningTLSMode><SecureDNS>true</SecureDNS></IPS_TLSProvisioningRecord>`},
	}, "")
	ctx := t.Context()
	if h, err := d.GenerateKey(ctx, 2048); err != nil || h != key {
		t.Errorf("%q, %v", h, err)
	}
	if h, err := d.AddCertificate(ctx, []byte{1}); err != nil || h != cert {
		t.Errorf("%q, %v", h, err)
	}
	if h, err := d.AddCertificate(ctx, []byte{1}); err != nil || h != "" {
		t.Errorf("stored without a name: %q, %v", h, err)
	}
	if err := errors.Join(d.Delete(ctx, key), d.Delete(ctx, cert)); err != nil {
		t.Error(err)
	}
	if !strings.Contains(d.bodies["Delete AMT_PublicPrivateKeyPair"], key) ||
		!strings.Contains(d.bodies["Delete AMT_PublicKeyCertificate"], cert) {
		t.Error("deleted something else")
	}
	rec, err := d.ProvisioningRecord(ctx)
	if err != nil || rec.ServerFQDN != "ps.test" || !rec.TimeValid || !rec.SuffixFromMEBx || rec.Raw["CaCertificateSerials"] != "1,2" {
		t.Errorf("%+v, %v", rec, err)
	}
	if rec, err := startScript(t, script{}, "").ProvisioningRecord(ctx); err != nil || rec.Class != "" {
		t.Errorf("%+v, %v", rec, err)
	}
}
