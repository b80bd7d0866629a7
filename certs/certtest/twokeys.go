package certtest

import "encoding/asn1"

// contentInfo is the envelope of each part of a PFX (RFC 7292 4, RFC 2315 7).
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"tag:0,explicit,optional"`
}

// TwoKeys merges two PFX files into one without a password, as a careless export
// does: two leaves, each with its key.
func TwoKeys(a, b Leaf) []byte {
	read := func(der []byte, into any) {
		if _, err := asn1.Unmarshal(der, into); err != nil {
			panic("certtest: merge two PFX files: " + err.Error())
		}
	}
	wrap := func(v any) []byte {
		der, err := asn1.Marshal(v)
		if err != nil {
			panic("certtest: merge two PFX files: " + err.Error())
		}
		return der
	}
	parts := func(f Leaf) (safes []contentInfo) {
		var outer struct {
			Version  int
			AuthSafe contentInfo
		}
		var inner []byte
		read(f.PFX(NoPassword, ""), &outer)
		read(outer.AuthSafe.Content.Bytes, &inner)
		read(inner, &safes)
		return safes
	}
	explicit := func(octets []byte) contentInfo {
		return contentInfo{
			Type:    asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}, // data
			Content: asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: wrap(octets)},
		}
	}
	one, two := parts(a), parts(b)
	var merged []contentInfo
	for i := range one {
		var bags []asn1.RawValue
		for _, s := range []contentInfo{one[i], two[i]} {
			var octets []byte
			var some []asn1.RawValue
			read(s.Content.Bytes, &octets)
			read(octets, &some)
			bags = append(bags, some...)
		}
		merged = append(merged, explicit(wrap(bags)))
	}
	return wrap(struct {
		Version  int
		AuthSafe contentInfo
	}{3, explicit(wrap(merged))})
}
