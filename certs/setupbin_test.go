package certs

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

func labSetup() SetupFile {
	sum := make([]byte, 32)
	for i := range sum {
		sum[i] = byte(i)
	}
	return SetupFile{
		Version: 4, CurrentPassword: secret("admin"), NewPassword: secret("P@ssw0rd"),
		DNSSuffix: "corp.example.com", ServerFQDN: "prov.corp.example.com",
		ServerAddress: netip.MustParseAddr("192.0.2.10"), ServerPort: 9971, Activate: true,
		Hashes: []SetupHash{{Hash: amt.TrustHash{Algorithm: amt.SHA256, Sum: sum}, Name: "Lab Root"}},
	}
}

// The recordings were written by the encoder of MeshCentral 1.1.55
// (amt-setupbin.js) from the values of labSetup.
func TestSetupFileAgreesWithAnotherWriter(t *testing.T) {
	t.Parallel()
	for file, scrambled := range map[string]bool{"testdata/setup-meshcentral.bin": false,
		"testdata/setup-meshcentral-scrambled.bin": true} {
		theirs, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		f := labSetup()
		f.Scramble = scrambled
		ours, err := f.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(theirs, ours); d != "" {
			t.Errorf("%s (-theirs +ours):\n%s", file, d)
		}
		records, err := ReadSetupFile(theirs)
		if err != nil || len(records) != 1 || !records[0].same(f) {
			t.Errorf("%s is read as %+v, %v", file, records, err)
		}
		if bytes.Contains(ours, []byte("P@ssw0rd")) == scrambled {
			t.Error("scrambling hides the password from the eye, nothing else does")
		}
	}
}

func TestSetupFileRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := SetupFile{
			Version:         rapid.IntRange(3, 4).Draw(t, "version"),
			CurrentPassword: secret(rapid.StringMatching(`[!-~]{1,16}`).Draw(t, "current")),
			NewPassword:     secret(rapid.StringMatching(`[a-z]{3,8}[A-Z]{2}[0-9]{2}!`).Draw(t, "new")),
			DNSSuffix:       rapid.SampledFrom([]string{"", "corp.example.com", "example.io"}).Draw(t, "suffix"),
			ServerFQDN:      rapid.SampledFrom([]string{"", "prov.example.com"}).Draw(t, "server"),
			ServerPort:      rapid.Uint16().Draw(t, "port"),
			Activate:        rapid.Bool().Draw(t, "activate"), Consume: rapid.Bool().Draw(t, "consume"),
			Scramble: rapid.Bool().Draw(t, "scramble"),
		}
		if rapid.Bool().Draw(t, "address") {
			f.ServerAddress = rapid.SampledFrom([]netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("2001:db8::7")}).Draw(t,
				"ip")
		}
		for range rapid.IntRange(0, 3).Draw(t, "hashes") {
			all := amt.HashesOf(rapid.SliceOfN(rapid.Byte(), 1, 9).Draw(t, "der"))
			f.Hashes = append(f.Hashes, SetupHash{Hash: rapid.SampledFrom(all).Draw(t, "hash"),
				Name: rapid.StringMatching(`[ -~]{1,32}`).Draw(t, "name")})
		}
		if _, err := f.Encode(); err != nil { // Encode reads back and compares
			t.Fatal(err)
		}
	})
}

func TestSetupFileRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*SetupFile){
		"no current password":  func(f *SetupFile) { f.CurrentPassword = amt.Secret{} },
		"admin stays":          func(f *SetupFile) { f.NewPassword = amt.Secret{} },
		"weak new password":    func(f *SetupFile) { f.NewPassword = secret("hunter2hunter2") },
		"SHA-256 in version 2": func(f *SetupFile) { f.Version = 2 },
		"version 5":            func(f *SetupFile) { f.Version = 5 },
		"four hashes":          func(f *SetupFile) { f.Hashes = append(f.Hashes, f.Hashes[0], f.Hashes[0], f.Hashes[0]) },
		"half a hash":          func(f *SetupFile) { f.Hashes[0].Hash.Sum = f.Hashes[0].Hash.Sum[:16] },
		"hash without name":    func(f *SetupFile) { f.Hashes[0].Name = "" },
		"suffix with a blank":  func(f *SetupFile) { f.DNSSuffix = "corp example.com" },
		"more than a record":   func(f *SetupFile) { f.DNSSuffix = strings.Repeat("a.", 120) + "com"; f.ServerFQDN = f.DNSSuffix },
		"address with zone":    func(f *SetupFile) { f.ServerAddress = netip.MustParseAddr("fe80::1%eth0") },
	} {
		f := labSetup()
		change(&f)
		_, err := f.Encode()
		if codeOf(err) != reason.CertInputInvalid {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the sentence gives the password away", name)
		}
	}
	good, err := labSetup().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func([]byte) []byte{
		"empty":               func([]byte) []byte { return nil },
		"cut":                 func(b []byte) []byte { return b[:700] },
		"another file":        func(b []byte) []byte { b[0] ^= 1; return b },
		"a million records":   func(b []byte) []byte { binary.LittleEndian.PutUint32(b[28:], 1_000_000); return b },
		"records of nothing":  func(b []byte) []byte { b[36] = 0; return b },
		"entry past its end":  func(b []byte) []byte { binary.LittleEndian.PutUint16(b[512+24+4:], 9999); return b },
		"header past the end": func(b []byte) []byte { binary.LittleEndian.PutUint16(b[16:], 9); return b },
	} {
		if _, err := ReadSetupFile(change(bytes.Clone(good))); codeOf(err) != reason.CertInputInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReadSetupFile(f *testing.F) {
	for _, name := range []string{"testdata/setup-meshcentral.bin", "testdata/setup-meshcentral-scrambled.bin"} {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		records, err := ReadSetupFile(b)
		if err == nil && len(records)*setupChunk > len(b) {
			t.Errorf("%d records out of %d bytes", len(records), len(b))
		}
	})
}
