package sim

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"

	"github.com/provisiond/provisiond/amt"
)

type certEntry struct {
	id      int
	der     []byte
	cert    *x509.Certificate
	trusted bool
	own     bool // the default self-signed one of 16.1 and later; the device makes der on first use
}

type keyEntry struct {
	id  int
	key *rsa.PrivateKey
}

const (
	certHandle     = "Intel(r) AMT Certificate: Handle: "
	keyHandle      = "Intel(r) AMT Key: Handle: "
	networkTLS     = "Intel(r) AMT 802.3 TLS Settings"
	localTLS       = "Intel(r) AMT LMS TLS Settings"
	collectionName = "TLSProtocolEndpoint Instances Collection"
	maxCerts       = 12
	maxRoots       = 4
	maxKeys        = 8
)

func (s *settings) cert(id int) (certEntry, bool) {
	for _, c := range s.certs {
		if c.id == id {
			return c, true
		}
	}
	return certEntry{}, false
}

func (s *settings) keyFor(c *x509.Certificate) (keyEntry, bool) {
	pub, ok := c.PublicKey.(*rsa.PublicKey)
	for _, k := range s.keys {
		if ok && k.key.PublicKey.Equal(pub) {
			return k, true
		}
	}
	return keyEntry{}, false
}

// issuer is the intermediate in the store that signed c.
func (s *settings) issuer(c *x509.Certificate) (*x509.Certificate, bool) {
	for _, e := range s.certs {
		if e.cert != nil && !e.trusted && !bytes.Equal(e.der, c.Raw) && bytes.Equal(c.RawIssuer, e.cert.RawSubject) &&
			!bytes.Equal(c.RawIssuer, c.RawSubject) {
			return e.cert, true
		}
	}
	return nil, false
}

func (s *settings) usableContext() bool {
	c, ok := s.cert(s.context)
	if !ok || c.own {
		return ok
	}
	_, ok = s.keyFor(c.cert)
	return ok
}

func (s *settings) hasRoot() bool {
	for _, c := range s.certs {
		if c.trusted {
			return true
		}
	}
	return false
}

func (d *Device) certDER(c certEntry) []byte {
	if !c.own {
		return c.der
	}
	own, err := d.ownCert()
	if err != nil {
		return nil
	}
	return own.Certificate[0]
}

func certificates(d *Device) []instance {
	var list []instance
	for _, c := range d.now.certs {
		der := d.certDER(c)
		subject, issuer := "CN=Intel AMT self-signed certificate", "CN=Intel AMT self-signed certificate"
		if c.cert != nil {
			subject, issuer = c.cert.Subject.String(), c.cert.Issuer.String()
		}
		list = append(list, instanceOf("ElementName", "Intel(r) AMT Certificate", "InstanceID", certHandle+num(c.id),
			"X509Certificate", base64.StdEncoding.EncodeToString(der), "TrustedRootCertficate", yes(c.trusted), // Intel's own spelling
			"Issuer", issuer, "Subject", subject, "ReadOnlyCertificate", yes(c.own)))
	}
	return list
}

func keyPairs(d *Device) []instance {
	var list []instance
	for _, k := range d.now.keys {
		list = append(list, instanceOf("ElementName", "Intel(r) AMT Key", "InstanceID", keyHandle+num(k.id),
			"DERKey", base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&k.key.PublicKey))))
	}
	return list
}

func keyCapabilities(d *Device) instance {
	in := instanceOf("ElementName", "Intel(r) AMT: Public Key Management Capabilities", "InstanceID",
		"Intel(r) AMT: Public Key Management Capabilities",
		"RootCertMaxSize", "1500", "RootCertMaxInstances", num(maxRoots), "CertChainMaxSize", "4100", "CommonNameMaxSize", "63",
		"CommonNameMaxInstances", "4", "CrlStoreSize", "1424")
	for _, bits := range []string{"1024", "1536", "2048"} {
		in = append(in, prop{name: "SupportedKeyLengths", value: bits})
	}
	return in
}

// generateKeyPair is busy for a while on some releases, like a chip that looks
// for primes.
func generateKeyPair(d *Device, c *call) ([]prop, amt.Status, error) {
	alg, ok := c.numberArg("KeyAlgorithm")
	bits, ok2 := c.numberArg("KeyLength")
	switch {
	case !ok || !ok2:
		return nil, 0, errSchema
	case alg != 0 || bits != 2048 && bits != 1024 || bits == 1024 && d.p.has(16, 0):
		return nil, amt.StatusUnsupported, nil
	case len(d.now.keys) >= maxKeys:
		return nil, amt.StatusMaxLimitReached, nil
	case d.busyKeys > 0:
		d.busyKeys--
		return nil, amt.StatusGeneratingKeys, nil
	case d.faults.once(SlowKeygen):
		return nil, amt.StatusGeneratingKeys, nil
	}
	id := d.storeKey(newKey(int(bits)))
	c.note = keyHandle + num(id)
	return []prop{{name: "KeyPair", ref: d.ref(nsAMT+"AMT_PublicPrivateKeyPair", "InstanceID", keyHandle+num(id))}}, 0, nil
}

func (d *Device) storeKey(key *rsa.PrivateKey) int {
	id := d.now.nextID[1]
	d.now.nextID[1]++
	d.now.keys = append(d.now.keys, keyEntry{id, key})
	return id
}

func addKey(d *Device, c *call) ([]prop, amt.Status, error) {
	blob, ok := c.arg("KeyBlob")
	if !ok {
		return nil, 0, errSchema
	}
	der, err := base64.StdEncoding.DecodeString(blob)
	if err != nil {
		return nil, amt.StatusInvalidKey, nil
	}
	key, err := x509.ParsePKCS1PrivateKey(der)
	if err != nil || key.N.BitLen() > 2048 {
		return nil, amt.StatusInvalidKey, nil
	}
	for _, k := range d.now.keys {
		if k.key.Equal(key) {
			return nil, amt.StatusDuplicate, nil
		}
	}
	if len(d.now.keys) >= maxKeys {
		return nil, amt.StatusMaxLimitReached, nil
	}
	id := d.storeKey(key)
	c.note = keyHandle + num(id)
	return []prop{{name: "CreatedKey", ref: d.ref(nsAMT+"AMT_PublicPrivateKeyPair", "InstanceID", keyHandle+num(id))}}, 0, nil
}

func addCertificate(d *Device, c *call) ([]prop, amt.Status, error) { return d.storeCert(c, false) }
func addTrustedRoot(d *Device, c *call) ([]prop, amt.Status, error) { return d.storeCert(c, true) }

func (d *Device) storeCert(c *call, trusted bool) ([]prop, amt.Status, error) {
	blob, ok := c.arg("CertificateBlob")
	if !ok {
		return nil, 0, errSchema
	}
	der, err := base64.StdEncoding.DecodeString(blob)
	if err != nil {
		return nil, amt.StatusInvalidCert, nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil || trusted && len(der) > 1500 || len(der) > 4100 {
		return nil, amt.StatusInvalidCert, nil
	}
	roots := 0
	for _, e := range d.now.certs {
		if bytes.Equal(e.der, der) && e.trusted == trusted {
			return nil, amt.StatusDuplicate, nil
		}
		if e.trusted {
			roots++
		}
	}
	if len(d.now.certs) >= maxCerts || trusted && roots >= maxRoots {
		return nil, amt.StatusMaxLimitReached, nil
	}
	id := d.now.nextID[0]
	d.now.nextID[0]++
	d.now.certs = append(d.now.certs, certEntry{id: id, der: der, cert: cert, trusted: trusted})
	c.note = certHandle + num(id)
	return []prop{{name: "CreatedCertificate", ref: d.ref(nsAMT+"AMT_PublicKeyCertificate", "InstanceID", certHandle+num(id))}}, 0, nil
}

func handleOf(prefix, s string) (int, bool) {
	var id int
	n, err := fmt.Sscanf(s, prefix+"%d", &id)
	return id, err == nil && n == 1
}

func removeCertificate(d *Device, c *call) error {
	s, _ := c.selector("InstanceID")
	id, ok := handleOf(certHandle, s)
	e, found := d.now.cert(id)
	if !ok || !found || e.own {
		return errSelectors
	}
	if id == d.now.context || id == d.saved.context {
		return errDenied // in use
	}
	for i := range d.now.certs {
		if d.now.certs[i].id == id {
			d.now.certs = append(d.now.certs[:i:i], d.now.certs[i+1:]...)
			return nil
		}
	}
	return errSelectors
}

func removeKey(d *Device, c *call) error {
	s, _ := c.selector("InstanceID")
	id, ok := handleOf(keyHandle, s)
	if !ok {
		return errSelectors
	}
	for i, k := range d.now.keys {
		if k.id != id {
			continue
		}
		for _, e := range d.now.certs {
			if pub, ok := publicKey(e); ok && k.key.PublicKey.Equal(pub) {
				return errDenied // a certificate refers to it
			}
		}
		d.now.keys = append(d.now.keys[:i:i], d.now.keys[i+1:]...)
		return nil
	}
	return errSelectors
}

func publicKey(e certEntry) (*rsa.PublicKey, bool) {
	if e.cert == nil {
		return nil, false
	}
	pub, ok := e.cert.PublicKey.(*rsa.PublicKey)
	return pub, ok
}

func endpointCollection(*Device) instance { return instanceOf("ElementName", collectionName) }

func credentialContexts(d *Device) []instance {
	if d.now.context < 0 {
		return nil
	}
	return []instance{{
		{name: "ElementInContext", ref: d.ref(nsAMT+"AMT_PublicKeyCertificate", "InstanceID", certHandle+num(d.now.context))},
		{name: "ElementProvidingContext", ref: d.ref(nsAMT+"AMT_TLSProtocolEndpointCollection", "ElementName", collectionName)},
	}}
}

// contextArgs reads and checks both references of a credential context.
func contextArgs(d *Device, c *call) (int, error) {
	cert, ok := readReference(c.body.child(c.uri, "ElementInContext"))
	end, ok2 := readReference(c.body.child(c.uri, "ElementProvidingContext"))
	if !ok || !ok2 || cert.uri != nsAMT+"AMT_PublicKeyCertificate" || end.uri != nsAMT+"AMT_TLSProtocolEndpointCollection" {
		return 0, errSchema
	}
	// Clients write both spellings: with and without the space.
	if end.selector != "ElementName" || trimSpaces(end.value) != trimSpaces(collectionName) {
		return 0, errSelectors
	}
	id, ok := handleOf(certHandle, cert.value)
	e, found := d.now.cert(id)
	if !ok || !found || e.trusted {
		return 0, errSelectors
	}
	if _, ok := d.keyOf(e); !ok {
		return 0, errSchema // a certificate without its key is of no use
	}
	return id, nil
}

func (d *Device) keyOf(e certEntry) (keyEntry, bool) {
	if e.own {
		return keyEntry{}, true
	}
	return d.now.keyFor(e.cert)
}

func createContext(d *Device, c *call) (*reference, error) {
	if d.now.context >= 0 {
		return nil, errExists
	}
	id, err := contextArgs(d, c)
	if err != nil {
		return nil, err
	}
	d.now.context = id
	c.note = certHandle + num(id)
	return d.ref(c.uri, "InstanceID", certHandle+num(id)), nil
}

func putContext(d *Device, c *call) error {
	if d.now.context < 0 {
		return errSelectors
	}
	id, err := contextArgs(d, c)
	if err != nil {
		return err
	}
	d.now.context = id
	c.note = certHandle + num(id)
	return nil
}

func removeContext(d *Device, c *call) error {
	if d.now.context < 0 {
		return errSelectors
	}
	if d.now.tls[0].enabled || d.now.tls[1].enabled {
		return errDenied
	}
	d.now.context = -1
	return nil
}

func tlsSettings(d *Device) []instance {
	var list []instance
	for i, name := range []string{networkTLS, localTLS} {
		s := d.now.tls[i]
		in := instanceOf("AcceptNonSecureConnections", yes(s.nonSecure), "ElementName", name, "Enabled", yes(s.enabled),
			"InstanceID", name, "MutualAuthentication", yes(s.mutual))
		if d.p.has(16, 1) {
			in = append(in, prop{name: "NonSecureConnectionsSupported", value: "false"})
		}
		for _, cn := range s.trustedCN {
			in = append(in, prop{name: "TrustedCN", value: cn})
		}
		list = append(list, in)
	}
	return list
}

func putTLS(d *Device, c *call) error {
	id, _ := c.selector("InstanceID")
	at := -1
	for i, name := range []string{networkTLS, localTLS} {
		if id == name {
			at = i
		}
	}
	if at < 0 {
		return errSelectors
	}
	if id, ok := c.arg("InstanceID"); ok && id != []string{networkTLS, localTLS}[at] {
		return errSchema
	}
	if _, ok := c.arg("Enabled"); !ok {
		return errSchema
	}
	s := d.now.tls[at]
	if _, ok := c.arg("AcceptNonSecureConnections"); ok && d.p.has(16, 1) {
		return errSchema // these releases have no non-secure connections
	}
	if err := setFields(c, flag("Enabled", &s.enabled), flag("MutualAuthentication", &s.mutual),
		flag("AcceptNonSecureConnections", &s.nonSecure)); err != nil {
		return err
	}
	s.trustedCN = c.args("TrustedCN")
	if len(s.trustedCN) > 4 {
		return errSchema
	}
	if n := d.cfg.KeepsNames; n > 0 {
		s.trustedCN = s.trustedCN[:min(n, len(s.trustedCN))]
	}
	if s.enabled && !d.now.usableContext() || s.mutual && !d.now.hasRoot() {
		return errDenied // no certificate to show, or no root to believe
	}
	d.now.tls[at] = s
	if at == 1 && d.state == amt.StateIn {
		d.lmsPut = true
	}
	if at == 0 && d.state == amt.StatePost {
		d.saved.tls[0].trustedCN = s.trustedCN // the one field that takes effect before CommitChanges
	}
	c.note = fmt.Sprintf("%s enabled=%t mutual=%t", id, s.enabled, s.mutual)
	return nil
}

// signRequest proves that the device holds a key: it signs the request that the
// server prepared with an empty signature.
func signRequest(d *Device, c *call) ([]prop, amt.Status, error) {
	ref, ok := readReference(c.body.child(c.uri, "KeyPair"))
	alg, ok2 := c.numberArg("SigningAlgorithm")
	null, ok3 := c.arg("NullSignedCertificateRequest")
	if !ok || !ok2 || !ok3 {
		return nil, 0, errSchema
	}
	id, _ := handleOf(keyHandle, ref.value)
	der, err := base64.StdEncoding.DecodeString(null)
	if err != nil || alg > 2 || alg == 0 && d.p.has(18, 0) {
		return nil, amt.StatusInvalidParameter, nil
	}
	for _, k := range d.now.keys {
		if k.id != id {
			continue
		}
		signed, err := signPKCS10(der, k.key, alg)
		if err != nil {
			return nil, amt.StatusInvalidParameter, nil
		}
		return []prop{{name: "SignedCertificateRequest", value: base64.StdEncoding.EncodeToString(signed)}}, 0, nil
	}
	return nil, amt.StatusNotFound, nil
}
