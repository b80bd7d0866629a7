package session

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// oddities says in words what is wrong with a certificate that crypto/x509 does
// not take: each field that breaks a rule, and which rule. It reads no further
// than the encoding allows, decides nothing, and returns nil if it finds
// nothing.
func oddities(der []byte) (found []string) {
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	outer, rest, ok := value(der)
	if !ok || outer.Tag != asn1.TagSequence {
		say("it is not DER, or it is cut short")
		return found
	}
	if len(rest) > 0 {
		say("%d bytes follow its end", len(rest))
	}
	parts := values(outer.Bytes)
	if len(parts) != 3 {
		say("it has %d parts and not the three of a certificate", len(parts))
		return found
	}
	fields := values(parts[0].Bytes)
	if len(fields) > 0 && fields[0].Class == asn1.ClassContextSpecific && fields[0].Tag == 0 {
		fields = fields[1:]
	}
	if len(fields) < 6 {
		say("fields are missing: it has %d of the six from serial number to public key", len(fields))
		return found
	}
	if n := fields[0]; n.Tag != asn1.TagInteger {
		say("the serial number is no integer")
	} else if len(n.Bytes) == 0 {
		say("the serial number is empty")
	} else if len(n.Bytes) > 1 && (n.Bytes[0] == 0 && n.Bytes[1] < 0x80 || n.Bytes[0] == 0xff && n.Bytes[1] >= 0x80) {
		say("the serial number %X is padded: DER has no needless leading byte", clipBytes(n.Bytes))
	}
	if !bytes.Equal(fields[1].FullBytes, parts[1].FullBytes) {
		say("the signature algorithm inside is %s and outside %s: both have to be the same", algorithmName(fields[1]),
			algorithmName(parts[1]))
	}
	names := []string{"issuer", "subject"}
	if bytes.Equal(fields[2].FullBytes, fields[4].FullBytes) {
		names = []string{"issuer and subject"} // its own issuer: tell one fault once
	}
	for i, what := range names {
		for _, wrong := range oddName(fields[2+2*i]) {
			say("in the name of the %s, the %s", what, wrong)
		}
	}
	dates := values(fields[3].Bytes)
	if len(dates) != 2 {
		say("the validity has %d dates and not two", len(dates))
	} else {
		for i, what := range []string{"notBefore", "notAfter"} {
			var t time.Time
			if rest, err := asn1.Unmarshal(dates[i].FullBytes, &t); err != nil || len(rest) > 0 {
				say("the date %s is written %q: DER wants UTC, with seconds, and a Z at its end", what, clipBytes(dates[i].Bytes))
			}
		}
	}
	if _, err := x509.ParsePKIXPublicKey(fields[5].FullBytes); err != nil {
		say("the public key cannot be read: %v", err)
	}
	for _, f := range fields[6:] {
		if f.Class == asn1.ClassContextSpecific && f.Tag == 3 {
			found = append(found, oddExtensions(f)...)
		}
	}
	return found
}

// oddName names the attributes of a distinguished name whose text does not fit
// their type.
func oddName(name asn1.RawValue) (found []string) {
	for _, set := range values(name.Bytes) {
		for _, pair := range values(set.Bytes) {
			attribute := values(pair.Bytes)
			if len(attribute) != 2 {
				found = append(found, "attribute is no pair of type and value")
				continue
			}
			text, what := attribute[1], oidName(attribute[0])
			switch {
			case text.Class != asn1.ClassUniversal:
			case text.Tag == asn1.TagUTF8String && !utf8.Valid(text.Bytes):
				found = append(found, fmt.Sprintf("%s %q calls itself UTF-8 and is not: most likely it is Latin-1", what,
					clipBytes(text.Bytes)))
			case text.Tag == asn1.TagPrintableString:
				if i := bytes.IndexFunc(text.Bytes, unprintable); i >= 0 {
					found = append(found, fmt.Sprintf("%s %q holds the character %q, which a PrintableString may not", what,
						clipBytes(text.Bytes),
						text.Bytes[i:i+1]))
				}
			case (text.Tag == asn1.TagIA5String || text.Tag == asn1.TagNumericString) && bytes.IndexFunc(text.Bytes, func(r rune) bool {
				return r >= utf8.RuneSelf || text.Tag == asn1.TagNumericString && r != ' ' && (r < '0' || r > '9')
			}) >= 0:
				found = append(found, fmt.Sprintf("%s %q holds a character that its kind of string may not", what, clipBytes(text.Bytes)))
			case text.Tag == asn1.TagBMPString && len(text.Bytes)%2 != 0:
				found = append(found, what+" is a BMPString of an odd number of bytes")
			}
		}
	}
	return found
}

// unprintable allows what crypto/x509 does: PrintableString, and the asterisk
// and ampersand that many put into one.
func unprintable(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(" '()+,-./:=?*&", r)
}

var basicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}

func oddExtensions(field asn1.RawValue) (found []string) {
	seen := map[string]bool{}
	list, _, _ := value(field.Bytes)
	for _, e := range values(list.Bytes) {
		parts := values(e.Bytes)
		if len(parts) < 2 || len(parts) > 3 {
			found = append(found, fmt.Sprintf("an extension has %d parts and not two or three", len(parts)))
			continue
		}
		id := oidName(parts[0])
		if seen[id] {
			found = append(found, "the extension "+id+" is there twice")
		}
		seen[id] = true
		if len(parts) == 3 {
			if c := parts[1]; c.Tag != asn1.TagBoolean || len(c.Bytes) != 1 || c.Bytes[0] != 0 && c.Bytes[0] != 0xff {
				found = append(found, fmt.Sprintf("the extension %s marks itself critical with %X: DER knows 00 and FF only", id,
					clipBytes(c.Bytes)))
			}
		}
		content := parts[len(parts)-1]
		if content.Tag != asn1.TagOctetString {
			found = append(found, "the content of the extension "+id+" is no octet string")
		} else if id == oidWord(basicConstraints) {
			found = append(found, oddConstraints(content.Bytes)...)
		}
	}
	return found
}

func oddConstraints(der []byte) (found []string) {
	list, rest, ok := value(der)
	if !ok || list.Tag != asn1.TagSequence || len(rest) > 0 {
		return []string{"the basic constraints are no sequence"}
	}
	for _, v := range values(list.Bytes) {
		switch {
		case v.Tag == asn1.TagBoolean && (len(v.Bytes) != 1 || v.Bytes[0] != 0 && v.Bytes[0] != 0xff):
			found = append(found, fmt.Sprintf("the basic constraints say whether it is a CA with %X: DER knows 00 and FF only",
				clipBytes(v.Bytes)))
		case v.Tag == asn1.TagInteger && len(v.Bytes) > 0 && v.Bytes[0] >= 0x80:
			found = append(found, "the basic constraints give a path length below zero")
		case v.Tag != asn1.TagBoolean && v.Tag != asn1.TagInteger:
			found = append(found, "the basic constraints hold what is neither a flag nor a path length")
		}
	}
	return found
}

// value reads one DER value, whatever it holds.
func value(b []byte) (v asn1.RawValue, rest []byte, ok bool) {
	rest, err := asn1.Unmarshal(b, &v)
	return v, rest, err == nil
}

// values reads values to the end, or to the first unreadable one.
func values(b []byte) (all []asn1.RawValue) {
	for len(b) > 0 && len(all) < 64 {
		v, rest, ok := value(b)
		if !ok {
			break
		}
		all, b = append(all, v), rest
	}
	return all
}

func clipBytes(b []byte) []byte { return b[:min(len(b), 40)] }

// oidWords names the attributes in certificates of devices.
var oidWords = map[string]string{
	"2.5.4.3": "common name", "2.5.4.5": "serial number", "2.5.4.6": "country", "2.5.4.7": "locality", "2.5.4.8": "state",
	"2.5.4.10": "organization", "2.5.4.11": "organizational unit",
	"2.5.29.14": "subject key identifier", "2.5.29.15": "key usage", "2.5.29.17": "subject alternative name",
	"2.5.29.19": "basic constraints", "2.5.29.35": "authority key identifier", "2.5.29.37": "extended key usage",
	"1.2.840.113549.1.1.4": "MD5 with RSA", "1.2.840.113549.1.1.5": "SHA-1 with RSA", "1.2.840.113549.1.1.11": "SHA-256 with RSA",
	"1.2.840.113549.1.1.12": "SHA-384 with RSA", "1.2.840.10045.4.3.2": "SHA-256 with ECDSA", "1.2.840.10045.4.3.3": "SHA-384 with ECDSA",
}

func oidName(v asn1.RawValue) string {
	var id asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(v.FullBytes, &id); err != nil {
		return "field without a readable name"
	}
	return oidWord(id)
}

func oidWord(id asn1.ObjectIdentifier) string {
	if word, ok := oidWords[id.String()]; ok {
		return word
	}
	return id.String()
}

func algorithmName(v asn1.RawValue) string {
	if parts := values(v.Bytes); len(parts) > 0 {
		return oidName(parts[0])
	}
	return "none"
}
