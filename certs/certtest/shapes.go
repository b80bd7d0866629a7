package certtest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"net"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// Plain is the usual shape: a leaf for these names (the first is the common
// name) under an intermediate under a root. Labs of the same name share keys,
// not certificates.
func (l *Lab) Plain(vendor string, names ...string) Leaf {
	root := l.Root(Options{Name: vendor + " Root", Org: vendor})
	middle := root.Intermediate(Options{Name: vendor + " Issuing CA", Org: vendor})
	return middle.Leaf(Options{Name: names[0], Names: names}, root.Cert)
}

// CrossSigned is a leaf that can be shown under either of two roots.
type CrossSigned struct {
	Leaf         Leaf              // Issuers: intermediate, new root
	Intermediate *x509.Certificate // issued by the new root's key
	NewRoot      *x509.Certificate
	Cross        *x509.Certificate // the new root's name and key, certified by the old root
	OldRoot      *x509.Certificate
}

// All is every certificate of the shape, leaf first.
func (c CrossSigned) All() []*x509.Certificate {
	return []*x509.Certificate{c.Leaf.Cert, c.Intermediate, c.NewRoot, c.Cross, c.OldRoot}
}

// GoDaddy rebuilds the shape of Go Daddy Root CA - G2 cross-signed by the
// SHA-1 self-signed Class 2 CA (amt/protocol.md 3.5), with keys of this lab.
func (l *Lab) GoDaddy(names ...string) CrossSigned {
	old := l.Root(Options{NoCN: true, Name: "gd2", Org: "The Go Daddy Group, Inc.",
		OU: []string{"Go Daddy Class 2 Certification Authority"}, SHA1: true})
	return l.crossed(old, Options{Name: "Go Daddy Root Certificate Authority - G2", Org: "GoDaddy.com, Inc."},
		Options{Name: "Go Daddy Secure Certificate Authority - G2", Org: "GoDaddy.com, Inc."}, names)
}

// Sectigo rebuilds the shape of USERTrust RSA cross-signed by AAA Certificate
// Services, whose own signature is SHA-1.
func (l *Lab) Sectigo(names ...string) CrossSigned {
	old := l.Root(Options{Name: "AAA Certificate Services", Org: "Comodo CA Limited", SHA1: true})
	return l.crossed(old, Options{Name: "USERTrust RSA Certification Authority", Org: "The USERTRUST Network"},
		Options{Name: "Sectigo RSA Organization Validation Secure Server CA", Org: "Sectigo Limited"}, names)
}

func (l *Lab) crossed(old *CA, root, middle Options, names []string) CrossSigned {
	newRoot := l.Root(root)
	issuing := newRoot.Intermediate(middle)
	return CrossSigned{
		Leaf:         issuing.Leaf(Options{Name: names[0], Names: names}, newRoot.Cert),
		Intermediate: issuing.Cert,
		NewRoot:      newRoot.Cert,
		Cross:        old.Cross(newRoot, Options{}),
		OldRoot:      old.Cert,
	}
}

// PFXStyle is who wrote the file.
type PFXStyle int

const (
	Modern     PFXStyle = iota // AES-256, PBKDF2, SHA-256: OpenSSL 3, Windows today
	LegacyDES                  // 3DES and SHA-1
	LegacyRC2                  // RC2-40 for certificates: Windows of old
	Newest                     // AES-256 with PBMAC1
	NoPassword                 // neither encryption nor MAC
)

// PFX packs key and certificates in the order given; the first certificate is
// filed as the key's own, whether it is or not.
func PFX(style PFXStyle, password string, key crypto.PrivateKey, certs ...*x509.Certificate) []byte {
	enc := map[PFXStyle]*pkcs12.Encoder{
		Modern: pkcs12.Modern2023, LegacyDES: pkcs12.LegacyDES, LegacyRC2: pkcs12.LegacyRC2,
		Newest: pkcs12.Modern2026, NoPassword: pkcs12.Passwordless,
	}[style]
	data, err := enc.Encode(key, certs[0], certs[1:], password)
	if err != nil {
		panic("certtest: pfx: " + err.Error())
	}
	return data
}

// PFX packs the leaf, its key and its issuers.
func (f Leaf) PFX(style PFXStyle, password string) []byte {
	return PFX(style, password, f.Key, f.Chain()...)
}

// PEM writes certificates one after the other.
func PEM(certs ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range certs {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // bytes.Buffer cannot fail
	}
	return out.Bytes()
}

// KeyPEM writes a private key as PKCS#8.
func KeyPEM(key crypto.Signer) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic("certtest: key: " + err.Error())
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// ClientCA makes the CA a hello listener is told to believe.
func (l *Lab) ClientCA(name string) *CA { return l.Root(Options{Name: name, Org: "clients"}) }

// Client issues a TLS client certificate, chain ready to use.
func (c *CA) Client(name string) *tls.Certificate {
	f := c.Leaf(Options{Name: name, NoServerAuth: true, NoOID: true, ClientAuth: true})
	return f.TLS()
}

// Server issues a TLS server certificate for names and addresses.
func (c *CA) Server(name string, ips ...net.IP) *tls.Certificate {
	return c.Leaf(Options{Name: name, Names: []string{name}, IPs: ips, NoOID: true}).TLS()
}

// TLS is the whole chain, root included, with its key.
func (f Leaf) TLS() *tls.Certificate {
	t := &tls.Certificate{PrivateKey: f.Key, Leaf: f.Cert}
	for _, c := range f.Chain() {
		t.Certificate = append(t.Certificate, c.Raw)
	}
	return t
}

// Pool holds the CA's own certificate.
func (c *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.Cert)
	return p
}

// negateSerial rewrites the serial number's first byte and signs again: the
// library refuses to issue what old CAs once did.
func negateSerial(der []byte, signer crypto.Signer) []byte {
	var outer struct {
		TBS       asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		panic("certtest: negative serial: " + err.Error())
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic("certtest: negative serial: " + err.Error())
	}
	tbs := bytes.Clone(outer.TBS.FullBytes)
	serial := cert.SerialNumber.Bytes()
	at := bytes.Index(tbs, append([]byte{2, byte(len(serial))}, serial...))
	if at < 0 {
		panic("certtest: negative serial: the serial's high bit is set")
	}
	tbs[at+2] |= 0x80
	digest := sha256.Sum256(tbs)
	key, ok := signer.(*rsa.PrivateKey)
	if !ok || cert.SignatureAlgorithm != x509.SHA256WithRSA {
		panic("certtest: negative serial: want RSA and SHA-256")
	}
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		panic("certtest: negative serial: " + err.Error())
	}
	outer.TBS = asn1.RawValue{FullBytes: tbs}
	outer.Signature = asn1.BitString{Bytes: sig, BitLength: len(sig) * 8}
	out, err := asn1.Marshal(outer)
	if err != nil {
		panic("certtest: negative serial: " + err.Error())
	}
	return out
}
