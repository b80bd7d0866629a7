package sim

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim/simtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is a throw-away chain: leaf, intermediate, root.
type lab struct {
	chain  [][]byte
	key    crypto.Signer
	issuer *x509.Certificate
	sign   crypto.Signer
}

func (l *lab) root() []byte            { return l.chain[len(l.chain)-1] }
func (l *lab) hashes() []amt.TrustHash { return amt.HashesOf(l.root()) }
func (l *lab) tls() *tls.Certificate {
	return &tls.Certificate{Certificate: l.chain, PrivateKey: l.key}
}

type labOptions struct {
	cn           string
	dns          []string
	ou           string
	noOID        bool
	noServerAuth bool
	bits         int
	alg          x509.SignatureAlgorithm
	notAfter     time.Time
	ecLeaf       bool
}

func newLab(t *testing.T, o labOptions) *lab {
	t.Helper()
	if o.cn == "" {
		o.cn = "provisionserver.lab.test"
	}
	if o.bits == 0 {
		o.bits = 2048
	}
	if o.alg == 0 {
		o.alg = x509.SHA256WithRSA
	}
	if o.notAfter.IsZero() {
		o.notAfter = time.Now().Add(time.Hour)
	}
	keys := [3]*rsa.PrivateKey{}
	for i := range keys {
		switch o.bits {
		case 1024, 2048:
			keys[i] = newKey(o.bits)
		default:
			k, err := rsa.GenerateKey(rand.Reader, o.bits)
			if err != nil {
				t.Fatal(err)
			}
			keys[i] = k
		}
	}
	ca := func(serial int64, cn string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: cn},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: o.notAfter,
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, SignatureAlgorithm: o.alg}
	}
	leaf := ca(3, o.cn)
	leaf.IsCA, leaf.KeyUsage, leaf.DNSNames = false, x509.KeyUsageDigitalSignature, o.dns
	if o.ou != "" {
		leaf.Subject.OrganizationalUnit = []string{o.ou}
	}
	if !o.noServerAuth {
		leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	if !o.noOID {
		leaf.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 16, 840, 1, 113741, 1, 2, 3}}
	}
	root, inter := ca(1, "Lab Root"), ca(2, "Lab Intermediate")
	var leafKey crypto.Signer = keys[2]
	if o.ecLeaf {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		leafKey = k
	}
	make := func(c, parent *x509.Certificate, pub any, key crypto.Signer) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	return &lab{
		chain: [][]byte{make(leaf, inter, leafKey.Public(), keys[1]), make(inter, root, keys[1].Public(), keys[0]),
			make(root, root, keys[0].Public(), keys[0])},
		key: leafKey, issuer: inter, sign: keys[1],
	}
}

var sharedLab = sync.OnceValue(func() *lab { return newLab(&testing.T{}, labOptions{}) })

var nextAddress atomic.Uint32

// ownAddress is one that no other test of this machine uses.
func ownAddress() netip.Addr { return simtest.Addr() }

func testUUID() amt.UUID {
	n := nextAddress.Add(1)
	return amt.UUID{0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, byte(n >> 8), byte(n)}
}

func startDevice(t *testing.T, cfg Config) *Device {
	t.Helper()
	cfg.UUID, cfg.Addr = testUUID(), ownAddress()
	if cfg.Roots == nil {
		cfg.Roots = sharedLab().hashes()
	}
	if cfg.Suffix == "" {
		cfg.Suffix = "lab.test"
	}
	if cfg.Restart == 0 {
		cfg.Restart = 20 * time.Millisecond
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// client is a console made of the standard library's parts only.
type client struct {
	t              *testing.T
	http           *http.Client
	url            string
	user, password string
	challenge      map[string]string
	nc             int
	handshakes     atomic.Int32
	id             int
	peer           *x509.Certificate
}

var everySuite = func() []uint16 {
	var ids []uint16
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		ids = append(ids, s.ID)
	}
	return ids
}()

func newClient(t *testing.T, d *Device, cert *tls.Certificate) *client {
	c := &client{t: t, url: "https://" + d.Addr().String() + "/wsman"}
	conf := &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12, CipherSuites: everySuite, InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error { c.peer = cs.PeerCertificates[0]; return nil }}
	if cert != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	tr := &http.Transport{MaxConnsPerHost: 1, DisableCompression: true,
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			raw, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			tc := tls.Client(raw, conf)
			if err := tc.HandshakeContext(ctx); err != nil {
				_ = raw.Close()
				return nil, err
			}
			c.handshakes.Add(1)
			return tc, nil
		}}
	c.http = &http.Client{Transport: tr, Timeout: patience}
	t.Cleanup(tr.CloseIdleConnections)
	return c
}

func (c *client) post(body string) (int, string, error) {
	for try := 0; ; try++ {
		req, err := http.NewRequest("POST", c.url, strings.NewReader(body))
		if err != nil {
			return 0, "", err
		}
		if c.challenge != nil {
			req.Header.Set("Authorization", c.authorization(body))
		}
		resp, err := c.http.Do(req)
		if err != nil {
			return 0, "", err
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return resp.StatusCode, string(b), err
		}
		if resp.StatusCode != 401 || c.user == "" || try > 2 {
			return resp.StatusCode, string(b), nil
		}
		c.challenge, c.nc = digestFields(strings.TrimPrefix(resp.Header.Get("WWW-Authenticate"), "Digest ")), 0
	}
}

func (c *client) authorization(body string) string {
	c.nc++
	h := func(s string) string { sum := md5.Sum([]byte(s)); return hex.EncodeToString(sum[:]) }
	qop, ha2 := "auth", h("POST:/wsman")
	if strings.Contains(c.challenge["qop"], "auth-int") {
		qop, ha2 = "auth-int", h("POST:/wsman:"+h(body))
	}
	nc := fmt.Sprintf("%08x", c.nc)
	response := h(h(c.user+":"+c.challenge["realm"]+":"+c.password) + ":" + c.challenge["nonce"] + ":" + nc + ":0a4f:" + qop + ":" + ha2)
	return fmt.Sprintf(`Digest username="%s", realm="%s", nonce="%s", uri="/wsman", qop=%s, nc=%s, cnonce="0a4f", response="%s"`,
		c.user, c.challenge["realm"], c.challenge["nonce"], qop, nc, response)
}

func uriOf(class string) string {
	switch class[:4] {
	case "IPS_":
		return nsIPS + class
	case "CIM_":
		return nsCIM + class
	}
	return nsAMT + class
}

func (c *client) envelope(class, action, selector, body string) string {
	c.id++
	sel := ""
	if name, value, ok := strings.Cut(selector, "="); ok {
		sel = `<w:SelectorSet><w:Selector Name="` + name + `">` + value + `</w:Selector></w:SelectorSet>`
	}
	return fmt.Sprintf(`<?xml version="1.0" encoding="utf-8"?><Envelope xmlns="http://www.w3.org/2003/05/soap-envelope" xmlns:a="%s" xmlns:w="%s"><Header><a:Action>%s</a:Action><a:To>/wsman</a:To><w:ResourceURI>%s</w:ResourceURI><a:MessageID>%d</a:MessageID><a:ReplyTo><a:Address>%s</a:Address></a:ReplyTo>%s</Header><Body>%s</Body></Envelope>`,
		nsAddr, nsMan, action, uriOf(class), c.id, anyone, sel, body)
}

// call invokes a method and returns ReturnValue, -1 with an error when there is none.
func (c *client) call(class, method, args string) (int, string, error) {
	uri := uriOf(class)
	_, body, err := c.post(c.envelope(class, uri+"/"+method, "", fmt.Sprintf(`<r:%s_INPUT xmlns:r="%s">%s</r:%s_INPUT>`, method, uri, args,
		method)))
	if err != nil {
		return -1, body, err
	}
	v := field1(body, "ReturnValue")
	if v == "" {
		return -1, body, errors.New("no ReturnValue: " + body)
	}
	var n int
	_, _ = fmt.Sscan(v, &n)
	return n, body, nil
}

func (c *client) must(class, method, args string) string {
	c.t.Helper()
	n, body, err := c.call(class, method, args)
	if err != nil || n != 0 {
		c.t.Fatalf("%s = %d, %v\n%s", method, n, err, body)
	}
	return body
}

func (c *client) get(class, selector string) string {
	c.t.Helper()
	status, body, err := c.post(c.envelope(class, nsXfer+"/Get", selector, ""))
	if err != nil || status != 200 {
		c.t.Fatalf("Get %s: %d %v\n%s", class, status, err, body)
	}
	return body
}

func (c *client) put(class, selector, fields string) (int, string) {
	c.t.Helper()
	status, body, err := c.post(c.envelope(class, nsXfer+"/Put", selector,
		fmt.Sprintf(`<r:%s xmlns:r="%s">%s</r:%s>`, class, uriOf(class), fields, class)))
	if err != nil {
		c.t.Fatalf("Put %s: %v", class, err)
	}
	return status, body
}

func (c *client) enumerate(class string) string {
	c.t.Helper()
	_, body, err := c.post(c.envelope(class, nsEnum+"/Enumerate", "", `<n:Enumerate xmlns:n="`+nsEnum+`"/>`))
	if err != nil {
		c.t.Fatal(err)
	}
	status, body, err := c.post(c.envelope(class, nsEnum+"/Pull", "", `<n:Pull xmlns:n="`+nsEnum+`"><n:EnumerationContext>`+
		field1(body, "EnumerationContext")+`</n:EnumerationContext><n:MaxElements>999</n:MaxElements></n:Pull>`))
	if err != nil || status != 200 {
		c.t.Fatalf("Pull %s: %d %v\n%s", class, status, err, body)
	}
	return body
}

// field1 is the first element of this local name, whatever its prefix.
func field1(body, name string) string {
	all := fieldsOf(body, name)
	if len(all) == 0 {
		return ""
	}
	return all[0]
}

func fieldsOf(body, name string) []string {
	dec := xml.NewDecoder(strings.NewReader(body))
	var out []string
	for {
		tok, err := dec.Token()
		if err != nil {
			return out
		}
		if s, ok := tok.(xml.StartElement); ok && s.Name.Local == name {
			var v string
			if dec.DecodeElement(&v, &s) == nil {
				out = append(out, strings.TrimSpace(v))
			}
		}
	}
}

var instanceHandle = regexp.MustCompile(`Intel\(r\) AMT (?:Key|Certificate): Handle: \d+`)

func digestArgs(user, realm, password string) string {
	sum := md5.Sum([]byte(user + ":" + realm + ":" + password))
	return "<r:Username>" + user + "</r:Username><r:DigestPassword>" + base64.StdEncoding.EncodeToString(sum[:]) + "</r:DigestPassword>"
}

func endpointReference(class, selector, value string) string {
	return `<a:Address>` + anyone + `</a:Address><a:ReferenceParameters><w:ResourceURI>` + nsAMT + class +
		`</w:ResourceURI><w:SelectorSet><w:Selector Name="` + selector + `">` + value +
		`</w:Selector></w:SelectorSet></a:ReferenceParameters>`
}

const adminPassword, mebxPassword = "Adm1n!Passw0rd", "Mebx#Passw0rd1"

// setUp is a whole setup, as short as the protocol allows.
func setUp(t *testing.T, d *Device, l *lab) *client {
	t.Helper()
	c := newClient(t, d, l.tls())
	c.user, c.password = "admin", "admin"
	realm := field1(c.get("AMT_GeneralSettings", ""), "DigestRealm")
	c.must("AMT_SetupAndConfigurationService", "SetMEBxPassword", "<r:Password>"+mebxPassword+"</r:Password>")
	if d.p.Coupled {
		c.password = mebxPassword
	}
	ta0 := field1(c.must("AMT_TimeSynchronizationService", "GetLowAccuracyTimeSynch", ""), "Ta0")
	now := time.Now().Unix()
	c.must("AMT_TimeSynchronizationService", "SetHighAccuracyTimeSynch",
		fmt.Sprintf("<r:Ta0>%s</r:Ta0><r:Tm1>%d</r:Tm1><r:Tm2>%d</r:Tm2>", ta0, now, now))
	c.must("AMT_AuthorizationService", "SetAdminAclEntryEx", digestArgs("admin", realm, adminPassword))
	if !d.p.PasswordAtCommit {
		c.password = adminPassword
	}
	if status, body := c.put("AMT_GeneralSettings", "",
		"<r:DomainName>lab.test</r:DomainName><r:HostName>pc1</r:HostName><r:PingResponseEnabled>true</r:PingResponseEnabled>"); status != 200 {
		t.Fatalf("host name: %s", body)
	}
	setUpTLS(t, c, d, l)
	n, body, err := c.call("AMT_SetupAndConfigurationService", "CommitChanges", "")
	if d.p.CommitCuts {
		if err == nil {
			t.Fatalf("CommitChanges answered: %s", body)
		}
	} else if err != nil || n != 0 {
		t.Fatalf("CommitChanges = %d, %v\n%s", n, err, body)
	}
	return c
}

func setUpTLS(t *testing.T, c *client, d *Device, l *lab) {
	t.Helper()
	var pub crypto.PublicKey
	if d.p.has(6, 2) {
		var body string
		for range 3 {
			var n int
			var err error
			if n, body, err = c.call("AMT_PublicKeyManagementService", "GenerateKeyPair",
				"<r:KeyAlgorithm>0</r:KeyAlgorithm><r:KeyLength>2048</r:KeyLength>"); err != nil || n != 2061 {
				break
			}
		}
		handle := instanceHandle.FindString(body)
		der, err := base64.StdEncoding.DecodeString(field1(c.get("AMT_PublicPrivateKeyPair", "InstanceID="+handle), "DERKey"))
		if err != nil {
			t.Fatal(err)
		}
		if pub, err = x509.ParsePKCS1PublicKey(der); err != nil {
			t.Fatal(err)
		}
	} else {
		key := newKey(2048)
		pub = key.Public()
		c.must("AMT_PublicKeyManagementService", "AddKey",
			"<r:KeyBlob>"+base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PrivateKey(key))+"</r:KeyBlob>")
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(77), Subject: pkix.Name{CommonName: "pc1.lab.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, leaf, l.issuer, pub, l.sign)
	if err != nil {
		t.Fatal(err)
	}
	cert := instanceHandle.FindString(c.must("AMT_PublicKeyManagementService", "AddCertificate",
		"<r:CertificateBlob>"+base64.StdEncoding.EncodeToString(der)+"</r:CertificateBlob>"))
	name := field1(c.get("AMT_TLSProtocolEndpointCollection", ""), "ElementName")
	context := "<r:ElementInContext>" + endpointReference("AMT_PublicKeyCertificate", "InstanceID", cert) +
		"</r:ElementInContext><r:ElementProvidingContext>" +
		endpointReference("AMT_TLSProtocolEndpointCollection", "ElementName", name) + "</r:ElementProvidingContext>"
	verb := "Create"
	if d.p.has(16, 1) {
		verb = "Put"
	}
	const class = "AMT_TLSCredentialContext"
	status, body, err := c.post(c.envelope(class, nsXfer+"/"+verb, "",
		fmt.Sprintf(`<r:%s xmlns:r="%s">%s</r:%s>`, class, uriOf(class), context, class)))
	if err != nil || status != 200 {
		t.Fatalf("%s %s: %d %v\n%s", verb, class, status, err, body)
	}
	if status, body := c.put("AMT_TLSSettingData", "InstanceID="+networkTLS,
		"<r:ElementName>"+networkTLS+"</r:ElementName><r:Enabled>true</r:Enabled><r:InstanceID>"+networkTLS+
			"</r:InstanceID><r:MutualAuthentication>false</r:MutualAuthentication>"); status != 200 {
		t.Fatalf("TLS settings: %s", body)
	}
	if all := fieldsOf(c.enumerate("AMT_TLSSettingData"), "Enabled"); len(all) != 2 || all[0] != "true" || all[1] != "false" {
		t.Fatalf("TLS enabled on the two instances: %v", all)
	}
}

// patience is for a machine that stands still for half a minute.
const patience = 2 * time.Minute

// awaitListening waits until the network has restarted and is back.
func awaitListening(t *testing.T, d *Device) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		d.mu.Lock()
		ready := d.epoch > 0 && len(d.listeners) > 0
		d.mu.Unlock()
		if ready {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the network did not come back")
		}
		<-time.After(5 * time.Millisecond)
	}
}

func awaitState(t *testing.T, d *Device, want amt.ProvisioningState) {
	t.Helper()
	deadline := time.After(patience)
	for {
		got, changed := d.State()
		if got == want {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("state %s, want %s", got, want)
		}
	}
}
