// Package certtest makes throw-away certificate chains of every shape the
// product has to cope with: for tests, for the demonstration and for the
// simulated fleet. Nothing here is for production.
//
// A Lab remembers its keys by name, so that two certificates of the same name
// share a key, as cross-certificates do.
// A mistake in the options is a programming error and panics.
package certtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"

	"github.com/provisiond/provisiond/amt/cheapkey"
)

// OU in a subject marks a certificate for AMT setup where OID is missing.
const OU = "Intel(R) Client Setup Certificate"

// OID is the AMT setup usage, 2.16.840.1.113741.1.2.3.
var OID = asn1.ObjectIdentifier{2, 16, 840, 1, 113741, 1, 2, 3}

// A Lab makes certificates and keeps their keys. Safe for concurrent use.
type Lab struct {
	now time.Time

	mu   sync.Mutex
	keys map[string]*labKey
}

type labKey struct {
	once sync.Once
	key  crypto.Signer
}

// NewLab makes a Lab whose certificates are valid around now.
func NewLab(now time.Time) *Lab {
	return &Lab{now: now, keys: map[string]*labKey{}}
}

// Now is the moment the lab's certificates are made for.
func (l *Lab) Now() time.Time { return l.now }

// RSAKey gives the RSA key of this name and length, making it on first use.
func (l *Lab) RSAKey(name string, bits int) *rsa.PrivateKey {
	k := l.key(fmt.Sprintf("rsa/%d/%s", bits, name), func() (crypto.Signer, error) {
		return cheapkey.New(bits)
	})
	return k.(*rsa.PrivateKey)
}

// ECKey gives the P-384 key of this name.
func (l *Lab) ECKey(name string) *ecdsa.PrivateKey {
	k := l.key("ec/"+name, func() (crypto.Signer, error) {
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	})
	return k.(*ecdsa.PrivateKey)
}

func (l *Lab) key(name string, generate func() (crypto.Signer, error)) crypto.Signer {
	l.mu.Lock()
	k, ok := l.keys[name]
	if !ok {
		k = &labKey{}
		l.keys[name] = k
	}
	l.mu.Unlock()
	k.once.Do(func() {
		key, err := generate()
		if err != nil {
			panic("certtest: key " + name + ": " + err.Error())
		}
		k.key = key
	})
	return k.key
}

// Options shape one certificate; the zero value is a sound RSA-2048, SHA-256
// certificate valid from a day ago for a year (CAs: ten years).
type Options struct {
	Name  string   // common name
	NoCN  bool     // subject without common name; Org must be given then
	Org   string   // organisation
	OU    []string // organisational units
	Names []string // dNSName entries
	IPs   []net.IP

	Key  string // name of the key, Name when empty
	Bits int    // RSA length, 2048 when zero
	ECC  bool   // P-384 instead of RSA

	SHA1 bool // signed with SHA-1

	NoServerAuth bool // leaf without EKU serverAuth
	NoOID        bool // leaf without the AMT usage
	ClientAuth   bool // leaf with EKU clientAuth

	NotBefore, NotAfter time.Time
	NegativeSerial      bool
	Issuers             []string // AIA caIssuers addresses
	MaxPathZero         bool     // CA with pathLenConstraint 0
}

// A CA can issue. Cert is its own certificate: self-signed for a root.
type CA struct {
	Cert *x509.Certificate
	Key  crypto.Signer
	lab  *Lab
}

// A Leaf is an end-entity certificate with its key and the issuers it was made
// under, nearest first, root last.
type Leaf struct {
	Cert    *x509.Certificate
	Key     crypto.Signer
	Issuers []*x509.Certificate
}

// Chain is leaf first, root last.
func (f Leaf) Chain() []*x509.Certificate {
	return append([]*x509.Certificate{f.Cert}, f.Issuers...)
}

// Root makes a self-signed CA.
func (l *Lab) Root(o Options) *CA {
	key := l.keyFor(o)
	t := l.template(o, true)
	return &CA{Cert: sign(t, o, t, nil, key.Public(), key), Key: key, lab: l}
}

// Intermediate makes a CA under this one.
func (c *CA) Intermediate(o Options) *CA {
	key := c.lab.keyFor(o)
	return &CA{Cert: c.issue(o, c.lab.template(o, true), key.Public()), Key: key, lab: c.lab}
}

// Cross certifies another CA's name and key under this one. Bits, ECC, Key and
// Name of o are not used.
func (c *CA) Cross(other *CA, o Options) *x509.Certificate {
	t := c.lab.template(o, true)
	t.Subject, t.RawSubject = other.Cert.Subject, other.Cert.RawSubject
	t.SubjectKeyId = other.Cert.SubjectKeyId
	return c.issue(o, t, other.Cert.PublicKey)
}

// Leaf issues a provisioning certificate. issuers is what stands above this CA,
// nearest first, root last; nil when the CA is a root.
func (c *CA) Leaf(o Options, issuers ...*x509.Certificate) Leaf {
	key := c.lab.keyFor(o)
	cert := c.issue(o, c.lab.template(o, false), key.Public())
	return Leaf{Cert: cert, Key: key, Issuers: append([]*x509.Certificate{c.Cert}, issuers...)}
}

// Sign issues for somebody else's public key, as a vendor does for a request.
func (c *CA) Sign(o Options, pub crypto.PublicKey) *x509.Certificate {
	return c.issue(o, c.lab.template(o, false), pub)
}

// SelfSigned makes an end-entity certificate that no CA issued.
func (l *Lab) SelfSigned(o Options) Leaf {
	key := l.keyFor(o)
	t := l.template(o, false)
	return Leaf{Cert: sign(t, o, t, nil, key.Public(), key), Key: key}
}

func (c *CA) issue(o Options, t *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	return sign(t, o, c.Cert, c.Cert.SubjectKeyId, pub, c.Key)
}

func (l *Lab) keyFor(o Options) crypto.Signer {
	name := o.Key
	if name == "" {
		name = o.Name + o.Org
	}
	if o.ECC {
		return l.ECKey(name)
	}
	bits := o.Bits
	if bits == 0 {
		bits = 2048
	}
	return l.RSAKey(name, bits)
}

func (l *Lab) template(o Options, ca bool) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 62))
	if err != nil {
		panic("certtest: " + err.Error())
	}
	t := &x509.Certificate{
		SerialNumber:          serial.SetBit(serial, 61, 1), // always eight bytes, the first bit clear
		Subject:               pkix.Name{CommonName: o.Name, OrganizationalUnit: o.OU},
		DNSNames:              o.Names,
		IPAddresses:           o.IPs,
		NotBefore:             o.NotBefore,
		NotAfter:              o.NotAfter,
		BasicConstraintsValid: true,
		IsCA:                  ca,
		IssuingCertificateURL: o.Issuers,
		MaxPathLen:            -1,
	}
	if o.NoCN {
		t.Subject.CommonName = ""
	}
	if o.Org != "" {
		t.Subject.Organization = []string{o.Org}
	}
	if t.NotBefore.IsZero() {
		t.NotBefore = l.now.Add(-24 * time.Hour)
	}
	if t.NotAfter.IsZero() {
		t.NotAfter = l.now.AddDate(1, 0, 0)
		if ca {
			t.NotAfter = l.now.AddDate(10, 0, 0)
		}
	}
	if ca {
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		if o.MaxPathZero {
			t.MaxPathLen, t.MaxPathLenZero = 0, true
		}
		return t
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	if !o.NoServerAuth {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if o.ClientAuth {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if !o.NoOID {
		t.UnknownExtKeyUsage = append(t.UnknownExtKeyUsage, OID)
	}
	return t
}

func sign(t *x509.Certificate, o Options, parent *x509.Certificate, akid []byte, pub crypto.PublicKey,
	signer crypto.Signer) *x509.Certificate {
	_, isRSA := signer.(*rsa.PrivateKey)
	switch {
	case !isRSA && o.SHA1:
		t.SignatureAlgorithm = x509.ECDSAWithSHA1
	case !isRSA:
		t.SignatureAlgorithm = x509.ECDSAWithSHA384
	case o.SHA1:
		t.SignatureAlgorithm = x509.SHA1WithRSA
	default:
		t.SignatureAlgorithm = x509.SHA256WithRSA
	}
	if t.SubjectKeyId == nil {
		spki, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			panic("certtest: " + err.Error())
		}
		sum := sha1.Sum(spki)
		t.SubjectKeyId = sum[:]
	}
	t.AuthorityKeyId = akid
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, signer)
	if err != nil {
		panic("certtest: issue " + t.Subject.String() + ": " + err.Error())
	}
	if o.NegativeSerial {
		der = negateSerial(der, signer)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic("certtest: parse " + t.Subject.String() + ": " + err.Error())
	}
	return cert
}
