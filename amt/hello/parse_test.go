package hello_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/hello/receive"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// capture reads a recorded hello; n counts from 1.
func capture(t testing.TB, n string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "capture-"+n+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The roots of the captures in wire order; the first capture lacks number 20.
const capturedRoots = `
c3846bf24b9e93ca64274c0ec67c1ecc5e024ffcacd2d74019350e81fe546ae4
45140b3247eb9cc8c5b4f0d7b53091f73292089e6e5a63e2749dd3aca9198eda
d7a7a0fb5d7e2731d771e9484ebcdef71d5f0c3e0a2948782bc83ee0ea699ef4
1465fa205397b876faa6f0a9958e5590e40fcc7faa4fb7c2c8677521fb5fb658
2ce1cb0bf9d2f9e102993fbe215152c3b2dd0cabde1c68e5319b839154dbb7f5
9acfab7e43c8d880d06b262a94deeee4b4659989c3d0caf19baf6405e41ab7df
16af57a9f676b0ab126095aa5ebadef22ab31119d644ac95cd4b93dbf3f26aeb
960adf0063e96356750c2965dd0a0867da0b9cbd6e77714aeafb2349ab393da3
68ad50909b04363c605ef13581a939ff2c96372e3f12325b0a6861e1d59f6603
6dc47172e01cbcb0bf62580d895fe2b8ac9ad4f873801e0c10b9c837d21eb177
73c176434f1bc6d5adf45b0e76e727287c8de57616c1e6e6141a2b2cbc7d8e4c
43df5774b03e7fef5fe40d931a7bedf1bb2e6b42738c4e6d3841103d3aa7f339
2399561127a57125de8cefea610ddf2fa078b5c8067f4e828290bfb860e84b3c
70a73f7f376b60074248904534b11482d5bf0e698ecc498df52577ebf2e93b9a
4348a0e9444c78cb265e058d5e8944b4d84f9662bd26db257f8934a443c70161
cb3ccbb76031e5e0138f8dd39a23f9de47ffc35e43c1144cea27d46a5ab1cb5f
31ad6648f8104138c738f39ea4320133393e3a18cc02296ef97c2ac9ef6731d0
552f7bdcf1a7af9e6ce672017f4f12abf77240c78e761ac203d1d9d20ac89988
67540a47aa5b9f34570a99723cfefa96a96ee3f0d9b8bf4def9440b8065d665d
a267c480b0b29056eb5e8aa7c93add804f5a7df516e969e77bcacafe8d456079
7224395222cd588c4f2683716922addb41e39b581ac34fa87b39efa896fbb39e
cbb522d7b7f127ad6a0113865bdf1cd4102e7d0759af635a7cf4720dc963c53b
179fbc148a3dd00fd24ea13458cc43bfa7f59c8182d783a513f6ebec100c8924
2cabeafe37d06ca22aba7391c0033d25982952c453647349763a3ab5ad6ccf69`

func TestCapturesDecode(t *testing.T) {
	t.Parallel()
	roots := strings.Fields(capturedRoots)
	without20 := append(append([]string(nil), roots[:19]...), roots[20:]...)
	for _, c := range []struct {
		file  string
		size  int
		retry uint32
		uuid  string
		roots []string
	}{
		{"1", 807, 0, "939b524b-13d4-1d18-e487-1c697a6b7a2b", without20},
		{"2", 841, 0, "939b524b-13d4-1d18-e487-1c697a6b7a2b", roots},
		{"3", 841, 1, "d2ffc23e-9dd1-412d-860a-54b2039b72ff", roots},
	} {
		b := capture(t, c.file)
		m, err := hello.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		uuid, err := amt.ParseUUID(c.uuid)
		if err != nil {
			t.Fatal(err)
		}
		want := hello.Message{AdminCredentialsSet: true, Version: hello.VersionPKI, RetryCount: c.retry, UUID: uuid, Raw: b}
		for _, r := range c.roots {
			sum, _ := hex.DecodeString(r)
			want.Hashes = append(want.Hashes, amt.TrustHash{Algorithm: amt.SHA256, Sum: sum})
		}
		if d := cmp.Diff(want, m); d != "" || len(b) != c.size {
			t.Errorf("capture %s (%d bytes): -want +got\n%s", c.file, len(b), d)
		}
		if !bytes.Equal(m.Encode(), b) {
			t.Errorf("capture %s: encoding what was parsed gives other bytes", c.file)
		}
	}
}

// pki is a version 3 header with n as the number of hashes, and body behind it.
func pki(n byte, body ...byte) []byte {
	b := []byte{1, 0, 3, 0, 7, 0, 0, 0, 0x44, 0x33, 0x22, 0x11, 0x66, 0x55, 0x88, 0x77, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0, n}
	return append(b, body...)
}

func psk() []byte {
	b := pki(0)[:24]
	b[2] = 2
	return append(b, "4444-444"[:8]...)
}

func hash(alg, size byte) []byte {
	return append([]byte{alg, size}, bytes.Repeat([]byte{0xab}, int(size))...)
}

func TestParse(t *testing.T) {
	t.Parallel()
	ofVersion := func(v byte, n int) []byte { b := pki(0); b[2] = v; return b[:n] }
	for _, c := range []struct {
		name   string
		in     []byte
		kind   hello.Kind // "" for none
		offset int
		field  string
	}{
		{"no hash at all", pki(0), "", 0, ""},
		{"255 hashes", pki(255, bytes.Repeat(hash(3, 48), 255)...), "", 0, ""},
		{"every algorithm", pki(4, bytes.Join([][]byte{hash(0, 16), hash(1, 20), hash(2, 32), hash(3, 48)}, nil)...), "", 0, ""},
		{"an unknown algorithm of 1 byte", pki(1, hash(9, 1)...), "", 0, ""},
		{"an unknown algorithm of 64 bytes", pki(1, hash(4, 64)...), "", 0, ""},
		{"an unknown algorithm of no bytes", pki(1, hash(4, 0)...), hello.KindMalformed, 26, "hash 1 length"},
		{"an unknown algorithm of 65 bytes", pki(1, hash(4, 65)...), hello.KindMalformed, 26, "hash 1 length"},
		{"SHA-256 of 20 bytes", pki(2, append(hash(1, 20), hash(2, 20)...)...), hello.KindMalformed, 48, "hash 2 length"},
		{"trailing bytes", pki(1, append(hash(1, 20), 1, 2, 3)...), "", 0, ""},
		{"pre-shared key", psk(), "", 0, ""},
		{"pre-shared key, trailing", append(psk(), 9), "", 0, ""},
		{"pre-shared key, cut", psk()[:31], hello.KindTruncated, 31, "PID"},
		{"nothing", nil, hello.KindTruncated, 0, "admin credentials set"},
		{"one byte", []byte{1}, hello.KindTruncated, 1, "admin credentials set"},
		{"cut in the version", pki(0)[:3], hello.KindTruncated, 3, "interface version"},
		{"cut in the retry count", pki(0)[:5], hello.KindTruncated, 5, "retry count"},
		{"cut in the UUID", pki(0)[:20], hello.KindTruncated, 20, "UUID"},
		{"cut before the count", pki(0)[:24], hello.KindTruncated, 24, "number of hashes"},
		{"cut before a hash", pki(2, hash(1, 20)...), hello.KindTruncated, 47, "hash 2 of 2 algorithm"},
		{"cut before a length", pki(1, 1), hello.KindTruncated, 26, "hash 1 of 1 length"},
		{"cut in a hash", pki(1, hash(1, 20)[:10]...), hello.KindTruncated, 35, "hash 1 of 1"},
		{"flag 2", append([]byte{2}, pki(0)[1:]...), hello.KindMalformed, 0, "admin credentials set"},
		{"flag 256", append([]byte{0, 1}, pki(0)[2:]...), hello.KindMalformed, 0, "admin credentials set"},
		{"an HTTP request", []byte("GET / HTTP/1.1\r\n\r\n"), hello.KindMalformed, 0, "admin credentials set"},
		{"version 4", ofVersion(4, 25), hello.KindVersion, 2, "interface version"},
		{"version 1", ofVersion(1, 25), hello.KindVersion, 2, "interface version"},
		{"version 4, cut", ofVersion(4, 4), hello.KindVersion, 2, "interface version"},
	} {
		m, err := hello.Parse(c.in)
		if c.kind == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			} else if !bytes.Equal(m.Encode(), c.in) || !bytes.Equal(m.Raw, c.in) {
				t.Errorf("%s: encoding what was parsed gives other bytes", c.name)
			}
			continue
		}
		var e *hello.ParseError
		if !errors.As(err, &e) {
			t.Errorf("%s: error %v, want a ParseError", c.name, err)
			continue
		}
		want := hello.ParseError{Kind: c.kind, Offset: c.offset, Field: c.field}
		if d := cmp.Diff(want, *e, cmpopts.IgnoreFields(hello.ParseError{}, "Problem")); d != "" || e.Problem == "" {
			t.Errorf("%s: -want +got\n%s", c.name, d)
		}
	}
}

func TestPreSharedKeyHelloIsRecognised(t *testing.T) {
	t.Parallel()
	m, err := hello.Parse(psk())
	if err != nil {
		t.Fatal(err)
	}
	if m.Version != hello.VersionPSK || m.PID != "4444-444" || m.UUID.String() != "11223344-5566-7788-99aa-bbccddeeff00" ||
		m.RetryCount != 7 {
		t.Errorf("got %+v", m)
	}
}

func TestUnknownVersionKeepsWhatItSays(t *testing.T) {
	t.Parallel()
	b := pki(0)
	b[2], b[3] = 0x34, 0x12
	for _, read := range []func() (hello.Message, error){
		func() (hello.Message, error) { return hello.Parse(b) },
		func() (hello.Message, error) { return receive.Read(iotest.OneByteReader(bytes.NewReader(b)), 0) },
	} {
		m, err := read()
		if e := (*hello.ParseError)(nil); !errors.As(err, &e) || e.Kind != hello.KindVersion {
			t.Errorf("error %v, want one of the version", err)
		}
		if m.Version != 0x1234 || m.UUID.String() != "11223344-5566-7788-99aa-bbccddeeff00" {
			t.Errorf("got %+v", m)
		}
	}
}

func TestParsedMessageOwnsItsBytes(t *testing.T) {
	t.Parallel()
	b := append(capture(t, "1"), 1, 2)
	want := bytes.Clone(b)
	m, err := hello.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if !bytes.Equal(m.Encode(), want) {
		t.Error("the message changed with the buffer it was parsed from")
	}
}

// neverEnds fails the test when read past its data: nobody may wait for FIN.
type neverEnds struct {
	t *testing.T
	r io.Reader
}

func (n neverEnds) Read(p []byte) (int, error) {
	k, err := n.r.Read(p)
	if err != nil {
		n.t.Error("read past the declared length")
	}
	return k, nil
}

func TestReadAtEverySplit(t *testing.T) {
	t.Parallel()
	for _, b := range [][]byte{capture(t, "1"), capture(t, "3"), psk(), pki(0), pki(255, bytes.Repeat(hash(77, 64), 255)...)} {
		check := func(how string, r io.Reader) {
			m, err := receive.Read(neverEnds{t, r}, 0)
			if err != nil || !bytes.Equal(m.Raw, b) {
				t.Fatalf("%s: %v, %d bytes of %d", how, err, len(m.Raw), len(b))
			}
		}
		check("whole", bytes.NewReader(b))
		check("one byte at a time", iotest.OneByteReader(bytes.NewReader(b)))
		for at := 1; at < min(len(b), 2000); at++ {
			check("two segments", io.MultiReader(bytes.NewReader(b[:at]), bytes.NewReader(b[at:])))
		}
	}
}

func TestReadOfEveryBeginning(t *testing.T) {
	t.Parallel()
	b := capture(t, "2")
	broken := errors.New("cable pulled")
	for n := range b {
		_, err := receive.Read(bytes.NewReader(b[:n]), 0)
		if n == 0 {
			if err != io.EOF {
				t.Errorf("nothing at all: %v, want io.EOF", err)
			}
			continue
		}
		var e *hello.ParseError
		if !errors.As(err, &e) || e.Kind != hello.KindTruncated || e.Offset != n || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		_, err = receive.Read(io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(broken)), 0)
		if !errors.As(err, &e) || !errors.Is(err, broken) {
			t.Fatalf("%d bytes, then a broken line: %v", n, err)
		}
	}
}

func TestReadIsBounded(t *testing.T) {
	t.Parallel()
	b := pki(255, bytes.Repeat(hash(3, 48), 255)...)
	if _, err := receive.Read(bytes.NewReader(b), len(b)); err != nil {
		t.Errorf("as long as allowed: %v", err)
	}
	if e := (*hello.ParseError)(nil); true {
		if _, err := receive.Read(bytes.NewReader(b), len(b)-1); !errors.As(err, &e) || e.Kind != hello.KindMalformed {
			t.Errorf("one byte too long: %v", err)
		}
	}
	m, err := receive.Read(bytes.NewReader(append(pki(0), make([]byte, 1<<20)...)), 100)
	if err != nil || len(m.Raw) != 100 || len(m.Trailing) != 75 {
		t.Errorf("endless trailing bytes: %v, %d bytes kept", err, len(m.Raw))
	}
}

func genMessage(t *rapid.T) hello.Message {
	m := hello.Message{
		AdminCredentialsSet: rapid.Bool().Draw(t, "flag"),
		Version:             rapid.SampledFrom([]uint16{hello.VersionPSK, hello.VersionPKI}).Draw(t, "version"),
		RetryCount:          rapid.Uint32().Draw(t, "retry"),
		UUID:                amt.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid")),
		Trailing:            rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "trailing"),
	}
	if m.Version == hello.VersionPSK {
		m.PID = string(rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "pid"))
		return m
	}
	for range rapid.IntRange(0, 255).Draw(t, "hashes") {
		alg := amt.HashAlgorithm(rapid.Byte().Draw(t, "algorithm"))
		size := alg.Size()
		if size == 0 {
			size = rapid.IntRange(1, 64).Draw(t, "size")
		}
		m.Hashes = append(m.Hashes, amt.TrustHash{Algorithm: alg, Sum: rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "sum")})
	}
	return m
}

func TestWhatIsEncodedParsesToTheSame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := genMessage(t)
		got, err := hello.Parse(want.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(hello.Message{}, "Raw")); d != "" {
			t.Fatalf("-want +got\n%s", d)
		}
	})
}

func addSeeds(f *testing.F) {
	for _, n := range []string{"1", "2", "3"} {
		f.Add(capture(f, n))
	}
	f.Add(psk())
	f.Add(pki(0))
	f.Add(pki(2, append(hash(9, 64), hash(1, 20)...)...))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
}

func FuzzParse(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := hello.Parse(b)
		if err == nil {
			if !bytes.Equal(m.Encode(), b) {
				t.Fatal("encoding what was parsed gives other bytes")
			}
			return
		}
		var e *hello.ParseError
		if !errors.As(err, &e) || e.Offset < 0 || e.Offset > len(b) {
			t.Fatalf("error %#v for %d bytes", err, len(b))
		}
		if (e.Kind == hello.KindVersion) != (len(b) >= 4 && b[0] < 2 && b[1] == 0 && binary.LittleEndian.Uint16(b[2:]) != 2 &&
			binary.LittleEndian.Uint16(b[2:]) != 3) {
			t.Fatalf("kind %s for % x", e.Kind, b[:min(4, len(b))])
		}
	})
}

func FuzzRead(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		want, wantErr := hello.Parse(b)
		got, err := receive.Read(iotest.OneByteReader(bytes.NewReader(b)), 1<<20)
		if len(b) == 0 {
			return
		}
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("byte by byte: %v, at once: %v", err, wantErr)
		}
		want.Trailing = nil // byte by byte nothing comes along behind the message
		if len(got.Trailing) != 0 || !bytes.Equal(got.Encode(), want.Encode()) {
			t.Fatalf("byte by byte %+v, at once %+v", got, want)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	raw := capture(b, "2")
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := hello.Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}
