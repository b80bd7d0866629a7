package hello

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func recordedHello(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "forms", "hello.bin"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRecordingsOfEveryForm: one hello in the forms that tools give it.
func TestRecordingsOfEveryForm(t *testing.T) {
	t.Parallel()
	want := recordedHello(t)
	files, err := filepath.Glob(filepath.Join("testdata", "forms", "*"))
	if err != nil || len(files) < 14 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	forms := map[string][]byte{}
	for _, name := range files {
		if forms[filepath.Base(name)], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	decimal := "{\"type\":\"Buffer\",\"data\":["
	escaped := "char hello[] = \""
	for i, b := range want {
		decimal += fmt.Sprintf("%s%d", map[bool]string{true: ",", false: ""}[i > 0], b)
		escaped += fmt.Sprintf(`\x%02x`, b)
	}
	forms["decimal"], forms["escaped"] = []byte(decimal+"]}"), []byte(escaped+"\";")
	forms["dashes"] = []byte(strings.ReplaceAll(fmt.Sprintf("% X", want), " ", "-"))
	forms["base64url"] = []byte(base64.RawURLEncoding.EncodeToString(want))
	forms["letters beside"] = bytes.ReplaceAll(forms["wireshark-dump.txt"], []byte("\n"), []byte("\r\n"))
	for name, data := range forms {
		got, err := Recordings(data)
		if err != nil || len(got) != 1 || !bytes.Equal(got[0].Raw, want) || got[0].Form == "" {
			t.Errorf("%s: %d hellos, %v", name, len(got), err)
			if len(got) > 0 {
				t.Logf("%s: %d bytes, %.40x", got[0].Form, len(got[0].Raw), got[0].Raw)
			}
		}
	}
}

// TestRecordingsOfRealTools: the tools of this machine write the dumps.
func TestRecordingsOfRealTools(t *testing.T) {
	t.Parallel()
	want := recordedHello(t)
	zeros := bytes.Clone(want) // with lines that od and hexdump write as "*"
	copy(zeros[60:400], make([]byte, 340))
	zeros = append(zeros[:25], bytes.Repeat([]byte{2, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0}, 23)...)
	for _, data := range [][]byte{want, zeros} {
		file := filepath.Join(t.TempDir(), "hello")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"od FILE", "od -x FILE", "od -t x1 FILE", "od -A d -t x1 FILE", "od -A x -t x2 FILE", "od -b FILE",
			"od -A x -t x1z FILE", "xxd FILE", "xxd -p FILE", "xxd -u -c 24 FILE", "xxd -i FILE", "hexdump FILE", "hexdump -C FILE",
			"base64 FILE"} {
			args := strings.Fields(strings.Replace(line, "FILE", file, 1))
			if _, err := exec.LookPath(args[0]); err != nil {
				continue // od and base64 are on every machine
			}
			out, err := exec.Command(args[0], args[1:]...).Output()
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			got, err := Recordings(out)
			if err != nil || len(got) != 1 || !bytes.Equal(got[0].Raw, data) {
				t.Errorf("%s: %v\n%.300s", line, err, out)
			}
		}
	}
}

// frame is an Ethernet packet with IPv4 and TCP.
func frame(from byte, port uint16, seq uint32, data []byte) []byte {
	b := append(make([]byte, 12), 8, 0)
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(40+len(data)))
	copy(ip[12:], []byte{10, 20, 0, from, 10, 20, 0, 9})
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp, port)
	binary.BigEndian.PutUint16(tcp[2:], 9971)
	binary.BigEndian.PutUint32(tcp[4:], seq)
	tcp[12] = 5 << 4
	return append(append(append(b, ip...), tcp...), data...)
}

func pcapOf(frames ...[]byte) []byte {
	b := []byte{0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0, 1, 0, 0, 0}
	for _, f := range frames {
		b = append(b, make([]byte, 8)...)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(f)))
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(f))), f...)
	}
	return b
}

func pcapngOf(frames ...[]byte) []byte {
	block := func(kind uint32, body []byte) []byte {
		for len(body)%4 != 0 {
			body = append(body, 0)
		}
		n := uint32(len(body) + 12)
		b := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, kind), n)
		return binary.LittleEndian.AppendUint32(append(b, body...), n)
	}
	out := block(0x0a0d0d0a, append([]byte{0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0}, bytes.Repeat([]byte{255}, 8)...))
	out = append(out, block(1, []byte{1, 0, 0, 0, 0, 0, 4, 0})...)
	for _, f := range frames {
		head := make([]byte, 12)
		head = binary.LittleEndian.AppendUint32(head, uint32(len(f)))
		head = binary.LittleEndian.AppendUint32(head, uint32(len(f)))
		out = append(out, block(6, append(head, f...))...)
	}
	return out
}

// TestRecordingsOfCaptures: each hello of a capture, in pieces, twice, out of
// order, and beside other traffic.
func TestRecordingsOfCaptures(t *testing.T) {
	t.Parallel()
	h := recordedHello(t)
	frames := [][]byte{
		frame(1, 50000, 1, nil), frame(1, 50000, 301, h[300:]), frame(2, 443, 7, []byte("GET / HTTP/1.1")), frame(1, 50000, 1, h[:300]),
		frame(1, 50000, 1, h[:300]),
		frame(3, 50001, 0xffffff00, h[:400]), frame(3, 50001, 400-256, h[400:]), {1, 2, 3}, frame(1, 50000, 900000, h),
	}
	for name, data := range map[string][]byte{"pcap": pcapOf(frames...), "pcapng": pcapngOf(frames...),
		"cut": pcapOf(frames...)[:len(pcapOf(frames...))]} {
		got, err := Recordings(data)
		if err != nil || len(got) != 3 {
			t.Fatalf("%s: %d hellos, %v", name, len(got), err)
		}
		for _, r := range got {
			if !bytes.Equal(r.Raw, h) || !strings.Contains(r.Form, "from 10.20.0.") {
				t.Errorf("%s: %d bytes, %s", name, len(r.Raw), r.Form)
			}
		}
	}
	dump := fmt.Sprintf("% x", frame(1, 50000, 1, h))
	if got, err := Recordings([]byte(dump)); err != nil || len(got) != 1 || !bytes.Equal(got[0].Raw, h) ||
		!strings.Contains(got[0].Form, "whole packet") {
		t.Errorf("a whole packet in digits: %v", err)
	}
}

func TestRecordingsRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		data []byte
		says string
	}{
		"nothing": {[]byte(" \n"), "empty"}, "a letter": {[]byte("Dear colleague, here is the hello you wanted."), "no hello in a form known here"}, "an empty capture": {pcapOf(), "0 packets, none of which"},
		"another capture": {pcapOf(frame(1, 443, 1, []byte("GET"))), "1 packets, none of which carries a hello"}, "half a capture": {pcapOf(frame(1, 443, 1, []byte("GET")))[:60], "cut short"},
	} {
		if got, err := Recordings(c.data); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for name, data := range map[string][]byte{"digits": []byte("0100030000"), "a dump": []byte("00000000: 0100 0500 0000 0000  ........\n"),
		"bytes": {1, 0, 3, 0, 0}} {
		if got, err := Recordings(data); err != nil || len(got) != 1 || got[0].Form == "" || isHello(got[0].Raw) {
			t.Errorf("%s is taken for something, and Parse says the rest: %v, %v", name, got, err)
		}
	}
}

func FuzzRecordings(f *testing.F) {
	for _, name := range []string{"hello.bin", "hello.pcap", "od.txt", "xxd.txt", "base64.txt", "c-array.txt", "colons.txt"} {
		b, err := os.ReadFile(filepath.Join("testdata", "forms", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(pcapngOf(frame(1, 1, 1, []byte{1})))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Recordings(data)
		if err == nil && len(got) == 0 {
			t.Error("neither an error nor a recording")
		}
		for _, r := range got {
			if r.Form == "" {
				t.Error("a recording without a form")
			}
		}
	})
}
