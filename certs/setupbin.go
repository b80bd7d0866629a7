package certs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// The setup.bin of a USB key, which MEBx reads while the machine starts: how a
// root of one's own gets into firmware (the only way from AMT 16 on).
//
// Layout, all little-endian: a header of 512 bytes, then records of one or more
// 512-byte chunks. A record has a header of 24 bytes and then entries: module,
// variable and length of 16 bits each, 16 reserved bits, the value, padded to
// four bytes. Sources: amt-setupbin.js of MeshCentral and MeshCommander
// (Apache-2.0), whose comments repeat Intel's "Local Provisioning File" format,
// and the read-me of Intel's USBFile tool (AMT SDK). Not tried on hardware.
const (
	setupChunk       = 512
	setupHeader      = 40 // up to the module list
	setupRecordHead  = 24
	setupEntryHead   = 8
	setupMaxRecords  = 100_000
	flagKeepRecords  = 1 // file: records are not marked as used
	flagValid        = 1 // record
	flagScrambled    = 2 // record: every byte after its header has 17 added
	scrambleDistance = 17
	dataRecord       = 1
	moduleME         = 1
	moduleAMT        = 2
)

// Variables by module (MeshCommander's AmtSetupBinVarIds).
const (
	meCurrentPassword = 1
	meNewPassword     = 2
	meManageability   = 3 // 1: Intel AMT

	amtDNSSuffix     = 3
	amtServerFQDN    = 4
	amtRemoteConfig  = 5 // 1: on
	amtCustomHashes  = 7 // 0 disabled, 1 enabled, 2 delete; stands before every amtCustomHash
	amtCustomHash    = 8 // algorithm, digest, length of name, name
	amtServerAddress = 17
	amtServerPort    = 18
	amtActivate      = 28 // 1: start; stands after suffix, name and address
)

// setupGUIDs begin a file, by major version 1 to 4.
var setupGUIDs = [4][16]byte{
	{0xb5, 0x16, 0xfb, 0x71, 0x87, 0xcb, 0xf9, 0x4a, 0xb4, 0x41, 0xca, 0x7b, 0x38, 0x35, 0x78, 0xf9},
	{0x96, 0xb2, 0x81, 0x58, 0xcf, 0x6b, 0x72, 0x4c, 0x8b, 0x91, 0xa1, 0x5e, 0x51, 0x2e, 0x99, 0xc4},
	{0xa7, 0xf7, 0xf6, 0xc6, 0x89, 0xc4, 0xf6, 0x47, 0x93, 0xed, 0xe2, 0xe5, 0x02, 0x0d, 0xa5, 0x1d},
	{0xaa, 0xa9, 0x34, 0x52, 0xe1, 0x29, 0xa9, 0x44, 0x8d, 0x4d, 0x08, 0x1c, 0x07, 0xb9, 0x63, 0x53},
}

// SetupFile is one record for any number of machines.
type SetupFile struct {
	Version         int        // of the file, 1 to 4; 0 means 4, as Intel's own tool writes. SHA-256 needs 3
	CurrentPassword amt.Secret // of MEBx; "admin" on a new machine
	NewPassword     amt.Secret // of MEBx; the firmware insists on a change from "admin"
	DNSSuffix       string     // "PKI DNS suffix": replaces DHCP option 15 in the certificate check
	ServerFQDN      string     // replaces the name ProvisionServer
	ServerAddress   netip.Addr
	ServerPort      uint16 // 0: left at 9971
	Hashes          []SetupHash
	Activate        bool // ask MEBx to start sending hellos at once
	Consume         bool // mark the record as used by the first machine
	Scramble        bool // hide the record from the casual eye; it is no encryption
}

// SetupHash is a root added to the firmware's list.
type SetupHash struct {
	Hash amt.TrustHash
	Name string // shown in MEBx, at most 32 bytes
}

// maxCustomHashes is what MEBx has room for.
const maxCustomHashes = 3

// Encode writes the file and reads it back to compare. Errors are
// cert_input_invalid with the field's name; passwords are never in them.
func (f SetupFile) Encode() ([]byte, error) {
	if f.Version == 0 {
		f.Version = 4
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	var body []byte
	modules := []uint16{moduleME, moduleAMT}
	text := func(module, id uint16, s string) {
		if s != "" {
			body = appendEntry(body, module, id, []byte(s))
		}
	}
	// Firmware wants the passwords first, and takes the rest in rising order.
	text(moduleME, meCurrentPassword, f.CurrentPassword.Reveal())
	text(moduleME, meNewPassword, f.NewPassword.Reveal())
	body = appendEntry(body, moduleME, meManageability, []byte{1})
	text(moduleAMT, amtDNSSuffix, f.DNSSuffix)
	text(moduleAMT, amtServerFQDN, f.ServerFQDN)
	body = appendEntry(body, moduleAMT, amtRemoteConfig, []byte{1})
	if len(f.Hashes) > 0 {
		body = appendEntry(body, moduleAMT, amtCustomHashes, []byte{1})
	}
	for _, h := range f.Hashes {
		v := append([]byte{byte(h.Hash.Algorithm)}, h.Hash.Sum...)
		v = append(append(v, byte(len(h.Name))), h.Name...)
		body = appendEntry(body, moduleAMT, amtCustomHash, v)
	}
	if f.ServerAddress.IsValid() {
		text(moduleAMT, amtServerAddress, f.ServerAddress.String())
	}
	if f.ServerPort != 0 {
		body = appendEntry(body, moduleAMT, amtServerPort, binary.LittleEndian.AppendUint16(nil, f.ServerPort))
	}
	if f.Activate {
		body = appendEntry(body, moduleAMT, amtActivate, []byte{1})
	}
	if len(body) > setupChunk-setupRecordHead {
		return nil, reason.Because(reason.CertInputInvalid,
			"the settings take %d bytes, and a record has room for %d: use fewer hashes or shorter names", len(body),
			setupChunk-setupRecordHead)
	}

	out := make([]byte, 0, 2*setupChunk)
	out = append(out, setupGUIDs[f.Version-1][:]...)
	out = binary.LittleEndian.AppendUint16(out, 1)                                     // chunks of this header
	out = binary.LittleEndian.AppendUint16(out, uint16(setupHeader+2*len(modules)+2))  // its bytes
	out = binary.LittleEndian.AppendUint32(out, 0)                                     // record number: the header is 0
	out = append(out, byte(f.Version), 0)                                              // major, minor
	out = binary.LittleEndian.AppendUint16(out, boolFlag(!f.Consume, flagKeepRecords)) // flags
	out = binary.LittleEndian.AppendUint32(out, 1)                                     // data records
	out = binary.LittleEndian.AppendUint32(out, 0)                                     // of which used
	out = binary.LittleEndian.AppendUint16(out, 1)                                     // chunks of a data record
	out = binary.LittleEndian.AppendUint16(out, 0)                                     // reserved
	for _, m := range modules {
		out = binary.LittleEndian.AppendUint16(out, m)
	}
	out = append(out, make([]byte, setupChunk-len(out))...) // a zero ends the module list

	out = binary.LittleEndian.AppendUint32(out, dataRecord)
	out = binary.LittleEndian.AppendUint32(out, flagValid|uint32(boolFlag(f.Scramble, flagScrambled)))
	out = append(out, make([]byte, 8)...)          // reserved
	out = binary.LittleEndian.AppendUint16(out, 1) // chunks
	out = binary.LittleEndian.AppendUint16(out, setupRecordHead)
	out = binary.LittleEndian.AppendUint32(out, 1) // record number
	out = append(out, body...)
	out = append(out, make([]byte, 2*setupChunk-len(out))...)
	if f.Scramble {
		scramble(out[setupChunk+setupRecordHead:], scrambleDistance)
	}

	records, err := ReadSetupFile(out)
	if err != nil {
		return nil, fmt.Errorf("read setup.bin back: %w", err)
	}
	if len(records) != 1 || !records[0].same(f) {
		return nil, fmt.Errorf("read setup.bin back: it says something else than was written")
	}
	return out, nil
}

func (f SetupFile) check() error {
	bad := func(format string, args ...any) error {
		return reason.Because(reason.CertInputInvalid, format, args...)
	}
	switch {
	case f.Version < 1 || f.Version > len(setupGUIDs):
		return bad("setup.bin has versions 1 to %d, not %d", len(setupGUIDs), f.Version)
	case f.CurrentPassword.IsZero():
		return bad("the current MEBx password is needed; on a new machine it is \"admin\"")
	case len(f.CurrentPassword.Reveal()) > amt.MaxPassword:
		return bad("the current MEBx password has more than %d characters", amt.MaxPassword)
	case f.CurrentPassword.Reveal() == "admin" && f.NewPassword.IsZero():
		return bad("a new MEBx password is needed: firmware does not let \"admin\" stay")
	case len(f.Hashes) > maxCustomHashes:
		return bad("%d hashes; MEBx has room for %d of one's own", len(f.Hashes), maxCustomHashes)
	case f.Version == 1 && (len(f.Hashes) > 0 || f.DNSSuffix != "" || f.ServerFQDN != ""):
		return bad("a version 1 file cannot carry hashes, a DNS suffix or a server name")
	}
	if !f.NewPassword.IsZero() {
		if err := amt.CheckPassword(f.NewPassword.Reveal()); err != nil {
			return bad("the new MEBx password: %w", err)
		}
	}
	for what, name := range map[string]string{"PKI DNS suffix": f.DNSSuffix, "server name": f.ServerFQDN} {
		if name == "" {
			continue
		}
		if len(name) > 255 || !wellFormed(name) || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return bad("the %s %q is not a DNS name", what, amt.Clip(name))
		}
	}
	if f.ServerAddress.Zone() != "" || f.ServerAddress.Is4In6() {
		return bad("the server address %s is not a plain IPv4 or IPv6 address", f.ServerAddress)
	}
	for _, h := range f.Hashes {
		size := h.Hash.Algorithm.Size()
		switch {
		case h.Hash.Algorithm == amt.MD5 || size == 0 || len(h.Hash.Sum) != size:
			return bad("the hash %q is not SHA-1, SHA-256 or SHA-384", h.Name)
		case h.Hash.Algorithm != amt.SHA1 && f.Version < 3:
			return bad("the hash %q is %s, which needs a file of version 3", h.Name, h.Hash.Algorithm)
		case h.Name == "" || len(h.Name) > 32 || strings.ContainsFunc(h.Name, func(r rune) bool { return r < ' ' || r > '~' }):
			return bad("a hash needs a name of 1 to 32 ASCII characters, not %q", amt.Clip(h.Name))
		}
	}
	return nil
}

// SetupRecord is one record as MEBx would read it.
type SetupRecord struct {
	SetupFile
	Used  bool // a machine has taken it
	Other int  // values this reader has no field for
}

// same compares every field that Encode writes.
func (r SetupRecord) same(f SetupFile) bool {
	g := r.SetupFile
	if !g.CurrentPassword.Equal(f.CurrentPassword) || !g.NewPassword.Equal(f.NewPassword) || len(g.Hashes) != len(f.Hashes) ||
		r.Other != 0 || r.Used {
		return false
	}
	for i := range g.Hashes {
		if !g.Hashes[i].Hash.Equal(f.Hashes[i].Hash) || g.Hashes[i].Name != f.Hashes[i].Name {
			return false
		}
	}
	return g.Version == f.Version && g.DNSSuffix == f.DNSSuffix && g.ServerFQDN == f.ServerFQDN && g.ServerAddress == f.ServerAddress &&
		g.ServerPort == f.ServerPort && g.Activate == f.Activate && g.Consume == f.Consume && g.Scramble == f.Scramble
}

// ReadSetupFile reads a setup.bin of any version. Records of several chunks,
// scrambled ones and unknown variables are understood.
func ReadSetupFile(b []byte) ([]SetupRecord, error) {
	bad := func(at int, format string, args ...any) error {
		return reason.Because(reason.CertInputInvalid, "setup.bin at byte %d: %s", at, fmt.Sprintf(format, args...))
	}
	if len(b) < setupChunk {
		return nil, bad(0, "shorter than its header of %d bytes", setupChunk)
	}
	version := 0
	for i, g := range setupGUIDs {
		if bytes.Equal(b[:16], g[:]) {
			version = i + 1
		}
	}
	if version == 0 {
		return nil, bad(0, "not a setup.bin: the first 16 bytes are of no known version")
	}
	flags := binary.LittleEndian.Uint16(b[26:])
	count := int(binary.LittleEndian.Uint32(b[28:]))
	used := int(binary.LittleEndian.Uint32(b[32:]))
	first := int(binary.LittleEndian.Uint16(b[16:])) * setupChunk
	size := int(binary.LittleEndian.Uint16(b[36:])) * setupChunk
	switch {
	case first < setupChunk || first > len(b):
		return nil, bad(16, "the header claims %d bytes", first)
	case size == 0:
		return nil, bad(36, "a record of no bytes")
	case count > setupMaxRecords || count > (len(b)-first)/size:
		return nil, bad(28, "%d records are claimed, and there is room for %d", count, (len(b)-first)/size)
	}
	var out []SetupRecord
	for i := range count {
		at := first + i*size
		rec := b[at : at+size]
		kind, rflags := binary.LittleEndian.Uint32(rec), binary.LittleEndian.Uint32(rec[4:])
		head := int(binary.LittleEndian.Uint16(rec[18:]))
		if head < setupRecordHead || head > len(rec) {
			return nil, bad(at+18, "a record header of %d bytes", head)
		}
		r := SetupRecord{Used: kind != dataRecord || rflags&flagValid == 0 || i < used}
		r.Version, r.Consume, r.Scramble = version, flags&flagKeepRecords == 0, rflags&flagScrambled != 0
		body := bytes.Clone(rec[head:])
		if r.Scramble {
			scramble(body, 256-scrambleDistance)
		}
		if err := r.entries(body); err != nil {
			return nil, bad(at+head, "%v", err)
		}
		out = append(out, r)
	}
	return out, nil
}

func (r *SetupRecord) entries(body []byte) error {
	for len(body) >= setupEntryHead {
		module, id := binary.LittleEndian.Uint16(body), binary.LittleEndian.Uint16(body[2:])
		if module == 0 || id == 0 {
			return nil
		}
		n := int(binary.LittleEndian.Uint16(body[4:]))
		padded := setupEntryHead + (n+3)/4*4
		if setupEntryHead+n > len(body) {
			return fmt.Errorf("variable %d.%d claims %d bytes and %d are left", module, id, n, len(body)-setupEntryHead)
		}
		if err := r.entry(module, id, body[setupEntryHead:setupEntryHead+n]); err != nil {
			return err
		}
		body = body[min(padded, len(body)):]
	}
	return nil
}

func (r *SetupRecord) entry(module, id uint16, v []byte) error {
	one := len(v) == 1 && v[0] == 1
	switch {
	case module == moduleME && id == meCurrentPassword:
		r.CurrentPassword = amt.NewSecret(string(v))
	case module == moduleME && id == meNewPassword:
		r.NewPassword = amt.NewSecret(string(v))
	case module == moduleME && id == meManageability && one, module == moduleAMT && id == amtRemoteConfig && one, module == moduleAMT &&
		id == amtCustomHashes && one:
		// the only value Encode writes
	case module == moduleAMT && id == amtDNSSuffix:
		r.DNSSuffix = string(v)
	case module == moduleAMT && id == amtServerFQDN:
		r.ServerFQDN = string(v)
	case module == moduleAMT && id == amtServerAddress:
		a, err := netip.ParseAddr(string(v))
		if err != nil {
			r.Other++
			return nil
		}
		r.ServerAddress = a
	case module == moduleAMT && id == amtServerPort && len(v) == 2:
		r.ServerPort = binary.LittleEndian.Uint16(v)
	case module == moduleAMT && id == amtActivate && one:
		r.Activate = true
	case module == moduleAMT && id == amtCustomHash:
		if len(v) < 1 {
			return fmt.Errorf("an added hash of no bytes")
		}
		alg := amt.HashAlgorithm(v[0])
		size := alg.Size()
		if size == 0 || len(v) < 2+size || len(v) < 2+size+int(v[1+size]) {
			return fmt.Errorf("an added hash of algorithm %d in %d bytes", v[0], len(v))
		}
		r.Hashes = append(r.Hashes, SetupHash{
			Hash: amt.TrustHash{Algorithm: alg, Sum: bytes.Clone(v[1 : 1+size])},
			Name: string(v[2+size : 2+size+int(v[1+size])]),
		})
	default:
		r.Other++
	}
	return nil
}

func appendEntry(out []byte, module, id uint16, v []byte) []byte {
	out = binary.LittleEndian.AppendUint16(out, module)
	out = binary.LittleEndian.AppendUint16(out, id)
	out = binary.LittleEndian.AppendUint16(out, uint16(len(v)))
	out = binary.LittleEndian.AppendUint16(out, 0)
	out = append(out, v...)
	return append(out, make([]byte, (4-len(v)%4)%4)...)
}

func scramble(b []byte, by byte) {
	for i := range b {
		b[i] += by
	}
}

func boolFlag(on bool, flag uint16) uint16 {
	if on {
		return flag
	}
	return 0
}
