package provision

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/netip"
	"sync"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/server/profile"
)

// simDevice is firmware as far as the protocol of passwords, commit and TLS goes.
type simDevice struct {
	classes map[string]map[string][]string // its settings, by class and field

	state                     amt.ProvisioningState
	admin, mebx               string
	pendingAdmin, pendingMEBx string // atOnce is false: effective at commit
	clock, host               bool
	hostName, domain          string
	ext                       int
	commits                   int // of set-ups
	cert                      byte
	back                      time.Time // after a power loss or commit, when it listens again
	power                     int       // counts power losses: a connection does not survive one
	keyReady                  bool
	clockOff                  time.Duration
	tls                       simTLS

	atOnce, keeps, mebxOnce, asks, slowKeys, wantsClock bool
	newCert, keepsCert, chip                            bool

	name       string
	addr       netip.Addr
	version    amt.Version
	key        *rsa.PublicKey
	mac, realm string
}

// simTLS is whom the firmware lets in, and what it does with what it is told about
// that. Trusted names are in force at once, the rest with a commit (amt/protocol.md 6.8).
type simTLS struct {
	on, mutual bool
	next       bool     // mutual after the next commit
	trusted    []string // those it goes by
	said       []string // those it says it has
	root       bool     // our device CA's is in its store
	given      []byte   // so is this certificate
	chosen     bool     // it is to show that one
	shows      bool     // it does

	room     int  // so many names are kept
	lies     bool // it says that it kept all as they were
	garbles  bool // it keeps none as it was
	rootless bool // it says yes to our root and forgets it
	holds    bool // connections survive a commit outside setup mode
	single   bool // it takes one connection at a time
}

// tell is the firmware's answer to EnableTLS.
func (f *simTLS) tell(mutual bool, names []string) {
	f.on, f.next, f.said = true, mutual, names
	f.trusted = append([]string(nil), names[:min(f.room, len(names))]...)
	if f.garbles {
		for i := range f.trusted {
			f.trusted[i] = "?" + f.trusted[i]
		}
	}
	if !f.lies {
		f.said = f.trusted
	}
}

// admits reports whether a client of our device CA comes in under a name.
func (f *simTLS) admits(name string) bool {
	return !f.mutual || f.root && name != "" && profile.Admits(f.trusted, name)
}

// peer is what the device shows: in setup a certificate of its own, afterwards
// that one or the one it was given; some have a hardware identity.
func (d *simDevice) peer(setup bool) session.Peer {
	p := shown(d.name, d.cert)
	if !setup && d.tls.shows && !d.keepsCert {
		key, sum := keyProof(d.key), sha256.Sum256(d.tls.given)
		p = session.Peer{Fingerprint: sum[:], Key: key.Hash[:]}
	}
	if d.chip {
		p.Verified, p.Hardware = verifiedODCA, chipKey[:]
	}
	p.ClientCertAsked, p.TLSVersion = setup || d.tls.mutual, 0x0303
	return p
}

func (d *simDevice) material() (m session.TLSMaterial) {
	if d.keyReady {
		m.Keys = []session.KeyInstance{{Handle: "key 1", Public: d.key}}
	}
	if len(d.tls.given) > 0 {
		m.Certificates = append(m.Certificates, session.CertInstance{Handle: "cert 1", DER: d.tls.given})
	}
	if d.tls.root {
		m.Certificates = append(m.Certificates, session.CertInstance{Handle: "root", DER: simRoot, Trusted: true})
	}
	if d.tls.chosen {
		m.Context = "cert 1"
	}
	m.Settings = []session.TLSSetting{{InstanceID: "Intel(r) AMT 802.3 TLS Settings", Enabled: d.tls.on, Mutual: d.tls.next,
		TrustedCN: d.tls.said}}
	return m
}

var chipKey = sha256.Sum256([]byte("a chip"))

func shown(what string, n byte) session.Peer {
	sum := sha256.Sum256(append([]byte(what), n))
	return session.Peer{Fingerprint: sum[:], Key: sum[:]}
}

func (d *simDevice) powerLoss(w *world) {
	effect := "counts at commit"
	if d.atOnce {
		effect = "counts at once"
	}
	if d.keeps {
		w.hit("power loss, settings kept", "password "+effect)
	} else {
		w.hit("power loss, settings lost", "password "+effect)
	}
	d.power++
	if d.state == amt.StateIn && d.newCert {
		d.cert++
	}
	d.back = w.now.Add(time.Duration(2+w.rng.IntN(10)) * time.Second)
	if d.state == amt.StateIn && !d.keeps {
		d.admin, d.mebx, d.pendingAdmin, d.pendingMEBx = "admin", "admin", "", ""
		d.clock, d.host, d.keyReady, d.hostName, d.domain = false, false, false, "", ""
		f := &d.tls
		f.on, f.next, f.trusted, f.said, f.root, f.given, f.chosen = false, false, nil, nil, false, nil, false
		d.clockOff = 22 * 365 * 24 * time.Hour // as a board without a battery: it is 2004
	}
}

// commit makes what waits for it count; the network part restarts, and connections
// are gone with it where the firmware does not hold them.
func (d *simDevice) commit(w *world) error {
	if d.state == amt.StateIn {
		if d.wantsClock && !d.clock || !d.host {
			return &reason.Error{Code: reason.CommitFailed, Err: amt.StatusDataMissing}
		}
		if d.pendingAdmin != "" {
			d.admin, d.pendingAdmin = d.pendingAdmin, ""
		}
		if d.pendingMEBx != "" {
			d.mebx, d.pendingMEBx = d.pendingMEBx, ""
		}
		d.state = amt.StatePost
		d.commits++
		d.power++
	} else if !d.tls.holds {
		d.power++
	}
	d.tls.mutual, d.tls.shows = d.tls.next, d.tls.chosen
	d.back = w.now.Add(time.Duration(w.rng.IntN(4)) * time.Second)
	return nil
}

var (
	simKey  = &rsa.PublicKey{N: big.NewInt(3233), E: 17}
	simRoot = []byte("the root of our device CA")
	simLeaf = &x509.Certificate{Subject: pkix.Name{CommonName: "prov.corp.example.com"}}
	simMade sync.Map // certificates by key and name; each is made once
)

// simConsole is our name towards devices with mutual TLS.
const simConsole = "console.provisiond.example"

func consoleOf(name string) *tls.Certificate {
	return &tls.Certificate{Leaf: &x509.Certificate{Subject: pkix.Name{CommonName: name}}}
}

// nameOf is the name under which a client comes.
func nameOf(c *tls.Certificate) string {
	if c == nil || c.Leaf == nil {
		return ""
	}
	return c.Leaf.Subject.CommonName
}

// simIssue signs a device's key in a name: always the same certificate.
func simIssue(pub *rsa.PublicKey, name string) []byte {
	id := pub.N.String() + " " + name
	if der, ok := simMade.Load(id); ok {
		return der.([]byte)
	}
	ca := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	made := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, Issuer: pkix.Name{CommonName: "simulated device CA"},
		NotBefore: time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2045, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(nil, made, &x509.Certificate{Subject: made.Issuer}, pub, ca)
	if err != nil {
		panic(err)
	}
	simMade.Store(id, der)
	return der
}
