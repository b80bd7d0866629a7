package certs

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
)

func hashOf(t *testing.T, f certtest.Leaf, alg amt.HashAlgorithm) amt.TrustHash {
	t.Helper()
	for _, h := range amt.HashesOf(f.Issuers[len(f.Issuers)-1].Raw) {
		if h.Algorithm == alg {
			return h
		}
	}
	t.Fatal("no such hash")
	return amt.TrustHash{}
}

func known(t *testing.T, alg amt.HashAlgorithm, digest string) amt.TrustHash {
	t.Helper()
	b, err := hex.DecodeString(digest)
	if err != nil {
		t.Fatal(err)
	}
	return amt.TrustHash{Algorithm: alg, Sum: b}
}

func TestMatchByEachAlgorithm(t *testing.T) {
	t.Parallel()
	f := lab().Plain("Algorithms", "prov.corp.example.com")
	p := load(t, f)
	for _, alg := range []amt.HashAlgorithm{amt.SHA1, amt.SHA256, amt.SHA384} {
		got, err := Match([]*Provisioning{p}, []amt.TrustHash{{Algorithm: 77, Sum: []byte{1}}, hashOf(t, f, alg)}, Hints{}, now)
		if err != nil || len(got) != 1 || got[0].Hash.Algorithm != alg || got[0].Why == "" {
			t.Errorf("%s: got %v, %v", alg, got, err)
		}
	}
	got, err := Match([]*Provisioning{p}, []amt.TrustHash{hashOf(t, f, amt.SHA1), hashOf(t, f, amt.SHA384), hashOf(t, f, amt.SHA256)},
		Hints{}, now)
	if err != nil || len(got) != 1 || got[0].Hash.Algorithm != amt.SHA384 {
		t.Errorf("one chain is one candidate, by the strongest hash: %v, %v", got, err)
	}
}

func TestMatchCrossSigned(t *testing.T) {
	t.Parallel()
	for name, shape := range map[string]certtest.CrossSigned{
		"Go Daddy": lab().GoDaddy("prov.corp.example.com"), "Sectigo": lab().Sectigo("prov.corp.example.com"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProvisioning(shape.Leaf.Cert, shape.Leaf.Key, shape.All(), now)
			oldRoot, newRoot := amt.HashesOf(shape.OldRoot.Raw)[1], amt.HashesOf(shape.NewRoot.Raw)[1]
			for what, c := range map[string]struct {
				announced []amt.TrustHash
				lengths   []int
			}{
				"old root only": {[]amt.TrustHash{oldRoot}, []int{4}},
				"new root only": {[]amt.TrustHash{newRoot}, []int{3}},
				"both":          {[]amt.TrustHash{oldRoot, newRoot}, []int{3, 4}},
			} {
				got, err := Match([]*Provisioning{p}, c.announced, Hints{}, now)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if len(got) != len(c.lengths) {
					t.Fatalf("%s: want %d candidates, got %d", what, len(c.lengths), len(got))
				}
				for i, n := range c.lengths {
					path := got[i].Path
					if len(path.Certs) != n || !amt.HashesOf(path.Root().Raw)[1].Equal(got[i].Hash) {
						t.Errorf("%s: candidate %d has %d certificates", what, i, len(path.Certs))
					}
				}
			}
			if _, err := Match([]*Provisioning{p}, []amt.TrustHash{oldRoot}, Hints{Version: version("16.1")},
				now); codeOf(err) != reason.ChainSHA1Rejected {
				t.Errorf("AMT 16 refuses the SHA-1 root: %v", err)
			}
		})
	}
}

func TestMatchOrder(t *testing.T) {
	t.Parallel()
	l := lab()
	root := l.Root(certtest.Options{Name: "Order Root"})
	middle := root.Intermediate(certtest.Options{Name: "Order CA"})
	sha1Root := l.Root(certtest.Options{Name: "Order SHA-1 Root", SHA1: true})
	make := func(f certtest.Leaf) *Provisioning { return load(t, f) }
	plain := make(middle.Leaf(certtest.Options{Name: "plain.corp.example.com"}, root.Cert))
	longer := make(middle.Leaf(certtest.Options{Name: "longer.corp.example.com", NotAfter: now.AddDate(2, 0, 0)}, root.Cert))
	direct := make(root.Leaf(certtest.Options{Name: "direct.corp.example.com"}))
	foreign := make(root.Leaf(certtest.Options{Name: "prov.other.io"}))
	expired := make(root.Leaf(certtest.Options{Name: "expired.corp.example.com", NotBefore: now.AddDate(-2, 0, 0),
		NotAfter: now.AddDate(0, 0, -1)}))
	forced := *expired
	forced.Forced = true
	small := make(root.Leaf(certtest.Options{Name: "small.corp.example.com", Bits: 1024}))
	large := make(root.Leaf(certtest.Options{Name: "large.corp.example.com", Bits: 4096}))
	curve := make(root.Leaf(certtest.Options{Name: "curve.corp.example.com", ECC: true}))
	old := make(sha1Root.Leaf(certtest.Options{Name: "old.corp.example.com"}))
	unusable := make(root.Leaf(certtest.Options{Name: "unusable.corp.example.com", NoOID: true}))

	rootHash := amt.HashesOf(root.Cert.Raw)
	oldHash := amt.HashesOf(sha1Root.Cert.Raw)
	for name, c := range map[string]struct {
		all       []*Provisioning
		announced []amt.TrustHash
		hints     Hints
		want      string
		code      reason.Code
	}{
		"shorter before longer chain":          {[]*Provisioning{plain, direct}, rootHash, Hints{}, "direct plain", ""},
		"longer life before shorter":           {[]*Provisioning{plain, longer}, rootHash, Hints{}, "longer plain", ""},
		"the suffix expected before the rest":  {[]*Provisioning{direct, foreign}, rootHash, Hints{Suffix: "other.io"}, "prov direct", ""},
		"a suffix nobody serves excludes none": {[]*Provisioning{plain, direct}, rootHash, Hints{Suffix: "third.io"}, "direct plain", ""},
		"expired is left out":                  {[]*Provisioning{expired, direct}, rootHash, Hints{}, "direct", ""},
		"expired comes last when forced":       {[]*Provisioning{expired, plain}, rootHash, Hints{AllowExpired: true}, "plain expired", ""},
		"an expired one that is forced":        {[]*Provisioning{&forced, plain, expired}, rootHash, Hints{}, "plain expired", ""},
		"only an expired one":                  {[]*Provisioning{expired}, rootHash, Hints{}, "", reason.CertExpired},
		"unusable is left out":                 {[]*Provisioning{unusable, direct}, rootHash, Hints{}, "direct", ""},
		"only an unusable one":                 {[]*Provisioning{unusable}, rootHash, Hints{}, "", reason.NoProvisioningCertificate},
		"none at all":                          {nil, rootHash, Hints{}, "", reason.NoProvisioningCertificate},
		"no hash announced":                    {[]*Provisioning{direct}, nil, Hints{}, "", reason.RootNotTrusted},
		"stronger hash before weaker":          {[]*Provisioning{direct, old}, []amt.TrustHash{rootHash[2], oldHash[1]}, Hints{Version: version("11.8")}, "old direct", ""},
		"SHA-1 is fine on AMT 9":               {[]*Provisioning{old}, oldHash, Hints{Version: version("9.1")}, "old", ""},
		"SHA-1 comes after on AMT 15":          {[]*Provisioning{old, direct}, append(oldHash, rootHash...), Hints{Version: version("15.0")}, "direct old", ""},
		"SHA-1 is refused on AMT 16":           {[]*Provisioning{old}, oldHash, Hints{Version: version("16.0")}, "", reason.ChainSHA1Rejected},
		"1024 bits on AMT 11":                  {[]*Provisioning{small}, rootHash, Hints{Version: version("11.8")}, "small", ""},
		"1024 bits on AMT 18":                  {[]*Provisioning{small, direct}, rootHash, Hints{Version: version("18.0")}, "direct", ""},
		"only 1024 bits on AMT 18":             {[]*Provisioning{small}, rootHash, Hints{Version: version("18.0")}, "", reason.KeyTooSmall},
		"4096 bits on AMT 5":                   {[]*Provisioning{large}, rootHash, Hints{Version: version("5.2")}, "", reason.KeySizeUnsupported},
		"4096 bits on AMT 6":                   {[]*Provisioning{large}, rootHash, Hints{Version: version("6.0")}, "large", ""},
		"curve on AMT 12":                      {[]*Provisioning{curve}, rootHash, Hints{Version: version("12.0")}, "", reason.KeyTypeUnsupported},
		"curve after RSA on AMT 18":            {[]*Provisioning{curve, direct}, rootHash, Hints{Version: version("18.0")}, "direct curve", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Match(c.all, c.announced, c.hints, now)
			if codeOf(err) != c.code {
				t.Fatalf("want reason %q, got %v", c.code, err)
			}
			var names []string
			for _, g := range got {
				names = append(names, strings.SplitN(g.Cert.Name, ".", 2)[0])
			}
			if s := strings.Join(names, " "); s != c.want {
				t.Errorf("want %q, got %q", c.want, s)
			}
		})
	}
}

func TestMatchNamesWhatTheDeviceTrusts(t *testing.T) {
	t.Parallel()
	p := load(t, lab().Plain("Nobody Knows", "prov.corp.example.com"))
	announced := []amt.TrustHash{
		known(t, amt.SHA256, "c3846bf24b9e93ca64274c0ec67c1ecc5e024ffcacd2d74019350e81fe546ae4"),
		known(t, amt.SHA1, "df3c24f9bfd666761b268073fe06d1cc8d4f82a4"),
		known(t, amt.SHA256, "67540a47aa5b9f34570a99723cfefa96a96ee3f0d9b8bf4def9440b8065d665d"),
	}
	_, err := Match([]*Provisioning{p}, announced, Hints{}, now)
	if codeOf(err) != reason.RootNotTrusted {
		t.Fatal(err)
	}
	for _, want := range []string{"Go Daddy Class 2 CA", "DigiCert Global Root G2", "1 not known by name", "Nobody Knows Root (sha256:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in %q", want, err)
		}
	}
}

func TestACrossCertificateIsSuggested(t *testing.T) {
	t.Parallel()
	root := func(name string) Path {
		for _, r := range KnownRoots() {
			if r.Name == name {
				return Path{RootHashes: r.Hashes()}
			}
		}
		t.Fatal("no root ", name)
		return Path{}
	}
	for _, c := range []struct{ held, trusted, want string }{
		{"Go Daddy Root CA - G2", "Go Daddy Class 2 CA", "Go Daddy Class 2 CA has also certified Go Daddy Root CA - G2"},
		{"Sectigo Public Server Authentication Root R46", "Comodo AAA Certificate Services", "Comodo AAA Certificate Services has also certified Sectigo"},
		{"DigiCert Global Root G2", "Go Daddy Class 2 CA", ""},
		{"Go Daddy Class 2 CA", "Go Daddy Root CA - G2", ""},
	} {
		got := bridge([]*Provisioning{{Name: "prov.example.com", Paths: []Path{root(c.held)}}}, root(c.trusted).RootHashes[:1])
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("held %s, trusted %s: %q", c.held, c.trusted, got)
		}
	}
	for name, older := range crossSigned {
		root(name)
		for _, o := range older {
			root(o)
		}
	}
}

func TestRootNames(t *testing.T) {
	t.Parallel()
	// amt/protocol.md 2.4 and 2.5: by each digest given there.
	for digest, want := range map[string]string{
		"sha256:45140b3247eb9cc8c5b4f0d7b53091f73292089e6e5a63e2749dd3aca9198eda": "Go Daddy Root CA - G2",
		"sha1:47beabc922eae80e78783462a79f45c254fde68b":                           "Go Daddy Root CA - G2",
		"sha256:d7a7a0fb5d7e2731d771e9484ebcdef71d5f0c3e0a2948782bc83ee0ea699ef4": "Comodo AAA Certificate Services",
		"sha1:742c3192e607e424eb4549542be1bbc53e6174e2":                           "VeriSign Class 3 Public Primary CA",
		"sha1:132d0d45534b6997cdb2d5c339e25576609b5cc6":                           "VeriSign Class 3 Public Primary CA - G3",
		"sha256:2cabeafe37d06ca22aba7391c0033d25982952c453647349763a3ab5ad6ccf69": "GlobalSign Root CA - R6",
		"sha256:68ad50909b04363c605ef13581a939ff2c96372e3f12325b0a6861e1d59f6603": "Verizon Global Root CA",
	} {
		var h amt.TrustHash
		if err := h.UnmarshalText([]byte(digest)); err != nil {
			t.Fatal(err)
		}
		if got, ok := RootName(h); !ok || got != want {
			t.Errorf("%s is %q, got %q", digest, want, got)
		}
	}
	if len(KnownRoots()) < 40 {
		t.Errorf("want at least 40 roots, got %d", len(KnownRoots()))
	}
	digests, names := map[string]string{}, map[string]bool{}
	for _, r := range KnownRoots() {
		if names[r.Name] {
			t.Errorf("%s is listed twice", r.Name)
		}
		names[r.Name] = true
		if len(r.Hashes()) == 0 {
			t.Errorf("%s has no digest", r.Name)
		}
		for _, h := range r.Hashes() {
			if len(h.Sum) != h.Algorithm.Size() {
				t.Errorf("%s: %s has %d bytes", r.Name, h.Algorithm, len(h.Sum))
			}
			if other, ok := digests[h.String()]; ok {
				t.Errorf("%s and %s share %s", r.Name, other, h)
			}
			digests[h.String()] = r.Name
		}
	}
}

// TestWaitingForADateIsOneSentence: what is kept of a device that waits does not
// change with the clock, or each hello would be news.
func TestWaitingForADateIsOneSentence(t *testing.T) {
	t.Parallel()
	f := lab().Plain("Waiting", "prov.corp.example.com")
	p := load(t, f)
	var said []string
	for _, early := range []time.Duration{time.Hour, time.Minute} {
		_, err := Match([]*Provisioning{p}, amt.HashesOf(f.Issuers[len(f.Issuers)-1].Raw), Hints{}, f.Cert.NotBefore.Add(-early))
		if codeOf(err) != reason.CertNotYetValid {
			t.Fatalf("%v", err)
		}
		said = append(said, err.Error())
	}
	if said[0] != said[1] || !strings.Contains(said[0], f.Cert.NotBefore.Format(time.RFC3339)) || !strings.Contains(said[0], "clock") {
		t.Errorf("%q, then %q", said[0], said[1])
	}
}
