package sim

import (
	"crypto/tls"
	"fmt"
	"strings"

	"github.com/provisiond/provisiond/amt"
)

// A Personality is one firmware generation as data. Where sources say nothing
// it takes the harsher reading: a server that survives it survives the other.
type Personality struct {
	Name    string
	Version amt.Version // Build is what CIM_SoftwareIdentity calls "Build Number"
	SKU     string

	MinTLS, MaxTLS uint16
	Suites         []uint16
	KeyBits        int  // of the device's own certificate
	WeakSelfSign   bool // its certificate is signed with SHA-1
	NewSelfSign    bool // makes another one at each start of its network in setup mode
	KeepsOwnCert   bool // goes on showing it after the commit, whatever the server configured
	SilentRefusal  bool // a refused chain ends in a reset instead of an alert

	Hashes      []amt.TrustHash
	Knows       []amt.HashAlgorithm // custom hashes that the hash table can hold
	Suffix      suffixRules
	LongKeys    bool // RSA above 2048 bits in the chain
	ModernChain bool // no SHA-1 and no RSA below 2048 anywhere in the chain
	ECC         bool

	AsksDigest  bool // wants admin/admin in the setup session
	AuthInt     bool // offers qop auth,auth-int
	NoQop       bool // its challenge names no qop, as in RFC 2069
	NonceUses   int  // requests a nonce is good for; 0 = until the network restarts
	CloseOn401  bool
	CloseAlways bool // Connection: close on every answer
	EOFFramed   bool // the end of the connection ends the body
	ChunkSize   int  // 0: Content-Length
	ServerName  string
	ContentType string
	Style       style

	MEBxPolicy       MEBxPolicy
	Coupled          bool // PasswordModel 0: a MEBx password also becomes admin's while that one is the default
	PasswordAtCommit bool // a new admin password counts only after CommitChanges
	CommitCuts       bool // the network goes down before CommitChanges is answered
	BusyKeys         int  // how many times GenerateKeyPair says busy, first
	NoKVM            bool // Standard Manageability, or a screen that firmware cannot read
	NoWebUI          bool
	NoRedirection    bool // MEBx switched SOL, IDE-R and KVM off
	ConsentLocked    bool // MEBx keeps user consent to the person at the machine
	MEBxBeforeCommit bool // CommitChanges wants the MEBx password changed (19 and later)
}

// MEBxPolicy says when SetMEBxPassword is allowed.
type MEBxPolicy string

const (
	MEBxDefaultOnly MEBxPolicy = "default_only"
	MEBxDuringSetup MEBxPolicy = "during_setup"
	MEBxAnytime     MEBxPolicy = "anytime"
)

// style is how a generation writes XML and which letters it gives to
// namespaces. A client that looks for "g:" finds only half of the fleet.
type style struct {
	env, addr, man, enum, xfer, class string
	alphabetical                      bool // elements by name, else in the order of the class
	declareLate                       bool // namespaces declared where they are used
}

var (
	styleLetters = style{env: "a", addr: "b", man: "c", enum: "g", xfer: "g", class: "h", alphabetical: true}
	styleNamed   = style{env: "s", addr: "wsa", man: "wsman", enum: "wsen", xfer: "wxf", class: "p", declareLate: true}
	styleDefault = style{env: "soap", addr: "a", man: "w", enum: "n", xfer: "t", class: "", alphabetical: true, declareLate: true}
)

var (
	suitesOld  = []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_256_CBC_SHA}
	suitesMid  = []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_256_CBC_SHA}
	suitesLate = []uint16{
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
	}
	knowsSHA1 = []amt.HashAlgorithm{amt.SHA1}
	knowsAll  = []amt.HashAlgorithm{amt.SHA1, amt.SHA256, amt.SHA384}
	knowsSHA2 = []amt.HashAlgorithm{amt.SHA256, amt.SHA384}
)

// Personalities lists the names that New takes, oldest first, variants after
// their generation.
func Personalities() []string {
	return []string{
		"3.2", "5", "5-coupled", "6", "6.1", "7", "9", "9-401",
		"11", "11-close", "11-eof", "12", "12-at-commit", "15", "16", "18", "19",
	}
}

// LookupPersonality finds a generation by name; "amt11" and "11.0" also work.
func LookupPersonality(name string) (Personality, error) {
	p, ok := generation(strings.TrimSuffix(strings.TrimPrefix(name, "amt"), ".0"))
	if !ok {
		return p, fmt.Errorf("personality %q: want one of %s", name, strings.Join(Personalities(), ", "))
	}
	p.Name = name
	return p, nil
}

func generation(name string) (Personality, bool) {
	base, variant, _ := strings.Cut(name, "-")
	p, ok := plain(base)
	switch name {
	case base:
	case "5-coupled":
		p.Coupled = true
	case "9-401":
		p.AsksDigest, p.CloseOn401, p.NonceUses = true, true, 4
	case "11-close":
		p.CloseAlways = true
	case "11-eof":
		p.EOFFramed = true
	case "12-at-commit":
		p.PasswordAtCommit, p.AsksDigest = true, true
	default:
		return p, false
	}
	_ = variant
	return p, ok
}

func plain(base string) (Personality, bool) {
	p := Personality{
		SKU: "8", KeyBits: 2048, ChunkSize: 1400, ContentType: "application/soap+xml;charset=UTF-8",
		Style: styleLetters, Knows: knowsAll, LongKeys: true, MEBxPolicy: MEBxDuringSetup,
		Suffix: suffixRules{wildcard: true, comNet: true, extended: true, san: true},
	}
	switch base {
	case "3.2":
		p.Version = amt.Version{Major: 3, Minor: 2, Hotfix: 10, Build: 1038}
		p.MinTLS, p.MaxTLS, p.Suites = tls.VersionTLS10, tls.VersionTLS10, suitesOld
		p.KeyBits, p.WeakSelfSign, p.SilentRefusal = 1024, true, true
		p.Hashes, p.Knows, p.LongKeys = sha1Roots, knowsSHA1, false
		p.Suffix = suffixRules{}
		p.AsksDigest, p.NonceUses, p.CloseOn401 = true, 0, true
		p.ChunkSize, p.ContentType, p.Style = 512, "text/xml", styleNamed
		p.MEBxPolicy = MEBxAnytime
	case "5":
		p.Version = amt.Version{Major: 5, Minor: 2, Hotfix: 20, Build: 1015}
		p.MinTLS, p.MaxTLS, p.Suites = tls.VersionTLS10, tls.VersionTLS10, suitesOld
		p.KeyBits, p.WeakSelfSign, p.SilentRefusal = 1024, true, true
		p.Hashes, p.Knows, p.LongKeys = sha1Roots, knowsSHA1, false
		p.Suffix.san = false
		p.ChunkSize, p.ContentType, p.Style = 1024, "text/xml", styleNamed
	case "6", "6.1":
		p.Version = amt.Version{Major: 6, Minor: 2, Hotfix: 61, Build: 3535}
		if base == "6.1" {
			p.Version = amt.Version{Major: 6, Minor: 1, Hotfix: 0, Build: 1042}
		}
		p.MinTLS, p.MaxTLS, p.Suites = tls.VersionTLS10, tls.VersionTLS10, suitesOld
		p.WeakSelfSign, p.SilentRefusal, p.CommitCuts = true, true, true
		p.Hashes = concat(sha1Roots, sha2Early)
		p.ContentType, p.Style = "text/xml", styleDefault
	case "7":
		p.Version = amt.Version{Major: 7, Minor: 1, Hotfix: 91, Build: 3272}
		p.MinTLS, p.MaxTLS, p.Suites = tls.VersionTLS10, tls.VersionTLS10, suitesOld
		p.WeakSelfSign, p.CommitCuts, p.BusyKeys = true, true, 1
		p.Hashes = concat(sha1Roots, sha2Early)
		p.ContentType = "application/octet-stream"
	case "9":
		p.Version = amt.Version{Major: 9, Minor: 1, Hotfix: 45, Build: 3000}
		p.MinTLS, p.MaxTLS, p.Suites = tls.VersionTLS10, tls.VersionTLS11, suitesOld
		p.Hashes = concat(sha1Roots, sha2Early)
	case "11":
		p.Version = amt.Version{Major: 11, Minor: 8, Hotfix: 92, Build: 4222}
		p.MinTLS, p.MaxTLS, p.Suites = tls.VersionTLS10, tls.VersionTLS11, suitesOld
		p.Hashes = sha2Roots
	case "12":
		p.Version = amt.Version{Major: 12, Minor: 0, Hotfix: 93, Build: 2323}
		p.MinTLS, p.MaxTLS, p.Suites = tls.VersionTLS11, tls.VersionTLS12, suitesMid
		p.Hashes = sha2Roots
	case "15":
		p.Version = amt.Version{Major: 15, Minor: 0, Hotfix: 45, Build: 2411}
		p.MinTLS, p.MaxTLS, p.Suites = tls.VersionTLS12, tls.VersionTLS12, suitesLate
		p.Hashes, p.AuthInt, p.ECC = sha2Roots, true, true
	case "16":
		p.NoWebUI = true
		p.Version = amt.Version{Major: 16, Minor: 1, Hotfix: 25, Build: 2124}
		p.MinTLS, p.MaxTLS, p.Suites = tls.VersionTLS12, tls.VersionTLS12, suitesLate
		p.Hashes, p.Knows, p.AuthInt, p.ECC, p.ModernChain = sha2Roots, knowsSHA2, true, true, true
	case "18", "19":
		p.NoWebUI = true
		p.Version = amt.Version{Major: 18, Minor: 0, Hotfix: 5, Build: 2141}
		p.MinTLS, p.MaxTLS, p.Suites = tls.VersionTLS12, tls.VersionTLS12, suitesLate
		p.Hashes, p.Knows, p.AuthInt, p.ECC, p.ModernChain = sha2Roots, knowsSHA2, true, true, true
		p.ServerName = "Intel(R) Active Management Technology" // newer builds leave the number out
		p.Style = styleNamed
		// Namespaces on the envelope, as in fixtures of this age: MeshCentral misreads
		// an element that declares one.
		p.Style.alphabetical, p.Style.declareLate = true, false
		if base == "19" {
			p.Version = amt.Version{Major: 19, Minor: 0, Hotfix: 5, Build: 1985}
			p.MEBxBeforeCommit = true
		}
	default:
		return p, false
	}
	if p.ServerName == "" {
		p.ServerName = fmt.Sprintf("Intel(R) Active Management Technology %s", p.Version)
	}
	return p, true
}

// has reports whether this release is major.minor or later.
func (p *Personality) has(major, minor int) bool { return p.Version.AtLeast(major, minor) }
