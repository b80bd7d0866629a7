package certs

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// expiringSoon is the first of the reminders before a certificate runs out.
const expiringSoon = 45 * 24 * time.Hour

// inspect says everything worth knowing, the worst first.
func inspect(p *Provisioning, found search, now time.Time) []Finding {
	var out []Finding
	add := addTo(&out)
	inspectUsage(p.Leaf, add)
	inspectLeaf(p.Leaf, add)
	inspectChain(p, found, add)
	inspectAlgorithms(p, add)
	inspectTime(p, now, add)
	inspectNames(p, add)
	slices.SortStableFunc(out, func(a, b Finding) int { return rank(a.Severity) - rank(b.Severity) })
	return out
}

func addTo(out *[]Finding) adder {
	return func(s Severity, c reason.Code, format string, args ...any) {
		*out = append(*out, Finding{Code: c, Severity: s, Detail: fmt.Sprintf(format, args...)})
	}
}

type adder func(s Severity, c reason.Code, format string, args ...any)

func rank(s Severity) int {
	return slices.Index([]Severity{SeverityError, SeverityWarn, SeverityInfo}, s)
}

func inspectUsage(leaf *x509.Certificate, add adder) {
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		add(SeverityError, reason.CertMissingServerAuth, "the extended key usage lacks serverAuth (1.3.6.1.5.5.7.3.1)")
	}
	hasOID := hasSetupOID(leaf)
	exact, near := setupOU(leaf)
	switch {
	case !hasOID && !exact && near != "":
		add(SeverityError, reason.CertMissingAMTUsage, "the OU %q differs in case or spacing from %q, and there is no usage %s", near,
			SetupOU, SetupOID())
	case !hasOID && !exact:
		add(SeverityError, reason.CertMissingAMTUsage, "neither the usage %s nor the OU %q is there", SetupOID(), SetupOU)
	case near != "":
		add(SeverityWarn, reason.CertMissingAMTUsage, "the OU %q differs in case or spacing from %q; the usage %s is there and is enough",
			near, SetupOU, SetupOID())
	}
}

// inspectLeaf looks at what a certificate may be used for beside its extended
// usage (RFC 5280 4.2.1.3 and 4.2.1.9).
func inspectLeaf(leaf *x509.Certificate, add adder) {
	if leaf.IsCA {
		add(SeverityError, reason.CertMissingAMTUsage,
			"it is itself a CA certificate (basicConstraints): firmware refuses such a one as the certificate of a server; order one "+
				"that is no CA")
	}
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		add(SeverityWarn, reason.CertMissingAMTUsage,
			"its key usage lacks digitalSignature, which the handshake of TLS needs: some firmware ends the connection; order it again "+
				"with digitalSignature and keyEncipherment")
	}
}

func hasSetupOID(leaf *x509.Certificate) bool {
	return slices.ContainsFunc(leaf.UnknownExtKeyUsage, SetupOID().Equal)
}

// setupOU reports whether the exact OU is there, and else the one that was
// meant to be it.
func setupOU(leaf *x509.Certificate) (exact bool, near string) {
	fold := func(s string) string { return strings.ToLower(strings.Join(strings.Fields(s), "")) }
	for _, ou := range leaf.Subject.OrganizationalUnit {
		if ou == SetupOU {
			return true, ""
		}
		if fold(ou) == fold(SetupOU) {
			near = ou
		}
	}
	return false, near
}

func inspectChain(p *Provisioning, found search, add adder) {
	if selfIssued(p.Leaf) && checkSignature(p.Leaf, p.Leaf) == signatureGood {
		add(SeverityError, reason.CertSelfSigned, "%s signed itself; no device has its hash", p.Name)
		return
	}
	if found.bounded {
		add(SeverityInfo, reason.CertInputInvalid, "the certificates allow more chains than are looked at; the first %d are used",
			len(p.Paths))
	}
	if len(p.Paths) > 0 {
		if found.circle {
			add(SeverityInfo, reason.CertInputInvalid, "some of the issuers of %s certify each other in a circle; the circle is left out",
				p.Name)
		}
		if c := negativeSerial(p.Paths); c != nil {
			add(SeverityWarn, reason.CertInputInvalid,
				"%s has a negative serial number, which RFC 5280 forbids; no source says whether firmware minds it", nameOf(c))
		}
		for _, root := range found.unknown {
			add(SeverityInfo, reason.ChainBrokenSignature,
				"the root %s signed itself with %v, which cannot be checked; devices know it by its hash", nameOf(root),
				root.SignatureAlgorithm)
		}
		known := slices.ContainsFunc(p.Paths, func(path Path) bool { r, ok := rootOf(path); return ok && r.Embedded })
		if !known {
			add(SeverityInfo, reason.RootNotTrusted,
				"the root %s is in no firmware list seen so far: add its hash to the devices first, by a USB key (provctl root setup-bin "+
					"writes one), in MEBx where it can still be typed, or by the maker (OEM)", rootNames(p.Paths))
		}
		return
	}
	if len(found.broken) > 0 {
		for _, c := range found.broken {
			add(SeverityError, reason.ChainBrokenSignature, "%s is here by name, but another key made the signature", nameOf(c))
		}
	}
	for _, top := range found.dead {
		if slices.ContainsFunc(found.broken, func(c *x509.Certificate) bool { return string(c.RawSubject) == string(top.RawIssuer) }) {
			continue
		}
		issuer := displayName(top.Issuer)
		if top == p.Leaf {
			add(SeverityError, reason.ChainIncomplete, "the intermediate %q that issued %s is missing%s", issuer, nameOf(top),
				whereToGet(top))
		} else {
			add(SeverityError, reason.ChainIncomplete, "the certificate %q that issued %q is missing; it may be the root%s", issuer,
				nameOf(top), whereToGet(top))
		}
	}
	if found.circle {
		add(SeverityError, reason.ChainIncomplete,
			"the issuers of %s certify each other in a circle that no root ends: the self-signed certificate of one of them is missing",
			p.Name)
	}
	if len(found.broken) == 0 && len(found.dead) == 0 && !found.circle {
		add(SeverityError, reason.ChainIncomplete, "no chain leads from %s to a root", p.Name)
	}
}

func negativeSerial(paths []Path) *x509.Certificate {
	for _, path := range paths {
		for _, c := range path.Certs {
			if c.SerialNumber.Sign() < 0 {
				return c
			}
		}
	}
	return nil
}

func whereToGet(c *x509.Certificate) string {
	if len(c.IssuingCertificateURL) == 0 {
		return ""
	}
	return "; its issuer publishes it at " + c.IssuingCertificateURL[0]
}

func inspectAlgorithms(p *Provisioning, add adder) {
	if len(p.Paths) == 0 {
		return
	}
	facts := make([]pathFacts, len(p.Paths))
	for i, path := range p.Paths {
		facts[i] = path.facts()
	}
	every := func(is func(pathFacts) bool) (all, some bool) {
		all = true
		for _, f := range facts {
			all, some = all && is(f), some || is(f)
		}
		return all, some
	}
	worst := func(all bool) Severity {
		if all {
			return SeverityWarn
		}
		return SeverityInfo
	}
	if all, some := every(func(f pathFacts) bool { return len(f.sha1) > 0 }); some {
		add(worst(all), reason.ChainSHA1Rejected, "SHA-1 signature on %s%s: AMT 15 desktop and 16 onward refuse it, the root's own "+
			"included", strings.Join(firstOf(facts, func(f pathFacts) []string { return f.sha1 }), ", "), escape(all))
	}
	if all, some := every(func(f pathFacts) bool { return len(f.small) > 0 }); some {
		add(worst(all), reason.KeyTooSmall, "RSA key under 2048 bits in %s%s: AMT 15 desktop and 16 onward refuse it",
			strings.Join(firstOf(facts, func(f pathFacts) []string { return f.small }), ", "), escape(all))
	}
	if all, some := every(func(f pathFacts) bool { return len(f.ecc) > 0 }); some {
		add(worst(all), reason.KeyTypeUnsupported, "key that is not RSA in %s%s: AMT below 15 cannot be relied on to take it",
			strings.Join(firstOf(facts, func(f pathFacts) []string { return f.ecc }), ", "), escape(all))
	}
	if all, some := every(func(f pathFacts) bool { return len(f.pss) > 0 }); some {
		add(worst(all), reason.KeyTypeUnsupported, "RSA-PSS signature on %s%s: no source says that firmware reads it",
			strings.Join(firstOf(facts, func(f pathFacts) []string { return f.pss }), ", "), escape(all))
	}
	if n := rsaBits(p.Leaf); n > 4096 {
		add(SeverityWarn, reason.KeySizeUnsupported, "the key has %d bits; no source names more than 4096 for AMT", n)
	} else if _, some := every(func(f pathFacts) bool { return len(f.large) > 0 }); some {
		add(SeverityInfo, reason.KeySizeUnsupported, "RSA key over 2048 bits in %s: AMT before 6.0 refuses 4096",
			strings.Join(firstOf(facts, func(f pathFacts) []string { return f.large }), ", "))
	}
}

func escape(all bool) string {
	if all {
		return ""
	}
	return " on one chain; another avoids it"
}

func firstOf(facts []pathFacts, pick func(pathFacts) []string) []string {
	for _, f := range facts {
		if l := pick(f); len(l) > 0 {
			return l
		}
	}
	return nil
}

func inspectTime(p *Provisioning, now time.Time, add adder) {
	if err := p.Validity(now); err != nil {
		add(SeverityWarn, err.Code, "%s; devices do not mind, this server does unless told otherwise", err)
	} else if left := p.Leaf.NotAfter.Sub(now); left < expiringSoon {
		add(SeverityWarn, reason.CertExpiring, "%d days left, until %s", int(left.Hours()/24), day(p.Leaf.NotAfter))
	}
	if len(p.Paths) == 0 {
		return
	}
	for _, c := range p.Paths[0].Certs[1:] {
		if now.After(c.NotAfter) {
			add(SeverityInfo, reason.CertExpired, "%s above it expired on %s; devices do not mind", nameOf(c), day(c.NotAfter))
		}
	}
}

func inspectNames(p *Provisioning, add adder) {
	if len(p.Names) == 0 {
		add(SeverityWarn, reason.NoCertForSuffix, "the certificate holds no name that could serve a DNS suffix")
	}
	for i, n := range p.Names {
		what := "the name"
		if i == 0 && p.Leaf.Subject.CommonName != "" {
			what = "the common name"
		}
		if why := unfitName(n); why != "" {
			add(SeverityWarn, reason.NoCertForSuffix, "%s %s %s", what, n, why)
		}
		if strings.HasPrefix(n, "*.") {
			add(SeverityWarn, reason.NoCertForSuffix, "%s %s is a wildcard: firmware before 4.1 and 5.1 may refuse it", what, n)
		}
	}
}

// pathFacts is what firmware of some age minds in a chain, by certificate name.
type pathFacts struct {
	sha1, small, ecc, pss, large, sha2 []string
}

func (p Path) facts() pathFacts {
	var f pathFacts
	for _, c := range p.Certs {
		name := nameOf(c)
		switch c.SignatureAlgorithm {
		case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1, x509.MD2WithRSA, x509.MD5WithRSA:
			f.sha1 = append(f.sha1, name)
		case x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
			f.pss = append(f.pss, name)
			f.sha2 = append(f.sha2, name)
		default:
			f.sha2 = append(f.sha2, name)
		}
		switch n := rsaBits(c); {
		case n == 0:
			f.ecc = append(f.ecc, name)
		case n < 2048:
			f.small = append(f.small, name)
		case n > 2048:
			f.large = append(f.large, name)
		}
	}
	return f
}

// rsaBits is the length of an RSA key, 0 for another kind.
func rsaBits(c *x509.Certificate) int {
	if k, ok := c.PublicKey.(*rsa.PublicKey); ok {
		return k.N.BitLen()
	}
	return 0
}

// Fit is what firmware of a release is expected to say to a chain.
type Fit int

const (
	Fits     Fit = iota
	Doubtful     // sources are silent, or it depends on the platform
	Refused
)

// FitFor judges algorithms and key lengths only (amt/protocol.md 3.2). A zero
// version is judged as the newest would be, but never Refused.
func (p Path) FitFor(v amt.Version) (Fit, reason.Code, string) {
	f := p.facts()
	strict := v.AtLeast(16, 0)
	old := !v.IsZero() && !v.AtLeast(6, 0)
	switch {
	case len(f.sha1) > 0 && strict:
		return Refused, reason.ChainSHA1Rejected, fmt.Sprintf("AMT %d refuses the SHA-1 signature on %s", v.Major, f.sha1[0])
	case len(f.small) > 0 && strict:
		return Refused, reason.KeyTooSmall, fmt.Sprintf("AMT %d refuses the RSA key under 2048 bits of %s", v.Major, f.small[0])
	case len(f.ecc) > 0 && !v.IsZero() && !v.AtLeast(15, 0):
		return Refused, reason.KeyTypeUnsupported, fmt.Sprintf("AMT %d.%d takes RSA only, and %s has another kind of key", v.Major, v.Minor,
			f.ecc[0])
	case len(f.large) > 0 && old && p.largest() >= 4096:
		return Refused, reason.KeySizeUnsupported, fmt.Sprintf("AMT before 6.0 refuses the 4096-bit key of %s", f.large[0])
	case len(f.sha1) > 0 && (v.IsZero() || v.Major == 15):
		return Doubtful, reason.ChainSHA1Rejected, fmt.Sprintf("AMT 15 on desktop platforms and 16 onward refuse the SHA-1 signature on %s",
			f.sha1[0])
	case len(f.small) > 0 && (v.IsZero() || v.Major == 15):
		return Doubtful, reason.KeyTooSmall, fmt.Sprintf("AMT 15 on desktop platforms and 16 onward refuse the RSA key under 2048 bits "+
			"of %s", f.small[0])
	case len(f.ecc) > 0:
		return Doubtful, reason.KeyTypeUnsupported, fmt.Sprintf("no source says which firmware takes the elliptic-curve key of %s",
			f.ecc[0])
	case len(f.pss) > 0:
		return Doubtful, reason.KeyTypeUnsupported, fmt.Sprintf("no source says which firmware reads the RSA-PSS signature on %s", f.pss[0])
	case old && len(f.large) > 0:
		return Doubtful, reason.KeySizeUnsupported, fmt.Sprintf("no source says that AMT before 6.0 takes the %d-bit key of %s",
			p.largest(), f.large[0])
	case old && len(f.sha2) > 0:
		return Doubtful, reason.ChainSHA1Rejected, fmt.Sprintf("AMT before 6.0 may not know the SHA-256 signature on %s", f.sha2[0])
	}
	return Fits, "", ""
}

func (p Path) largest() int {
	n := 0
	for _, c := range p.Certs {
		n = max(n, rsaBits(c))
	}
	return n
}

func shortestLife(p Path) time.Time {
	t := p.Certs[0].NotAfter
	for _, c := range p.Certs[1:] {
		if c.NotAfter.Before(t) {
			t = c.NotAfter
		}
	}
	return t
}

func keyKind(pub any) string {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "EC " + k.Curve.Params().Name
	}
	return "unknown"
}
