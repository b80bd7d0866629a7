package amt

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// UUID names a platform, in the order a person reads it:
// 11223344-5566-7788-99aa-bbccddeeff00.
//
// On the wire (the hello, GetUuid) firmware uses SMBIOS order: the first three
// fields little-endian, the last two as bytes. FromSMBIOS and SMBIOS convert.
type UUID [16]byte

// FromSMBIOS reads the 16 bytes of a hello or of GetUuid.
func FromSMBIOS(b [16]byte) UUID {
	return UUID{
		b[3], b[2], b[1], b[0],
		b[5], b[4],
		b[7], b[6],
		b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15],
	}
}

// SMBIOS is the inverse of FromSMBIOS; the swap is its own inverse.
func (u UUID) SMBIOS() [16]byte { return [16]byte(FromSMBIOS([16]byte(u))) }

// ParseUUID reads 32 hexadecimal digits, with or without dashes and braces.
func ParseUUID(s string) (UUID, error) {
	t := strings.NewReplacer("-", "", "{", "", "}", "").Replace(strings.TrimSpace(s))
	var u UUID
	if len(t) != 32 {
		return u, fmt.Errorf("uuid %q: want 32 hexadecimal digits such as 11223344-5566-7788-99aa-bbccddeeff00", Clip(s))
	}
	if _, err := hex.Decode(u[:], []byte(t)); err != nil {
		return UUID{}, fmt.Errorf("uuid %q: want 32 hexadecimal digits such as 11223344-5566-7788-99aa-bbccddeeff00", Clip(s))
	}
	return u, nil
}

// String is the lower-case dashed form.
func (u UUID) String() string {
	var b [36]byte
	hex.Encode(b[0:8], u[0:4])
	hex.Encode(b[9:13], u[4:6])
	hex.Encode(b[14:18], u[6:8])
	hex.Encode(b[19:23], u[8:10])
	hex.Encode(b[24:36], u[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// IsZero reports whether the platform has no UUID at all.
func (u UUID) IsZero() bool { return u == UUID{} }

// placeholders are values that OEMs left in SMBIOS on many machines at once, so
// they name nothing (amt/protocol.md 2.3).
var placeholders = map[UUID]bool{
	{}: true,
	{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}: true,
	{0x03, 0x00, 0x02, 0x00, 0x04, 0x00, 0x05, 0x00, 0x00, 0x06, 0x00, 0x07, 0x00, 0x08, 0x00, 0x09}: true,
	{0x00, 0x02, 0x00, 0x03, 0x00, 0x04, 0x00, 0x05, 0x00, 0x06, 0x00, 0x07, 0x00, 0x08, 0x00, 0x09}: true,
	{0x12, 0x34, 0x56, 0x78, 0x12, 0x34, 0x56, 0x78, 0x90, 0xab, 0xcd, 0xde, 0xef, 0xaa, 0xbb, 0xcc}: true,
	{0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe}: true,
}

// IsPlaceholder reports whether this is a value that OEMs ship on many
// machines, in either byte order. Nobody can tell such a device from its
// neighbours.
func (u UUID) IsPlaceholder() bool { return placeholders[u] || placeholders[FromSMBIOS([16]byte(u))] }

func (u UUID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

func (u *UUID) UnmarshalText(b []byte) error {
	v, err := ParseUUID(string(b))
	if err == nil {
		*u = v
	}
	return err
}

// Scan reads the text form, in which a UUID is stored on both engines, and the 16 raw bytes of a Postgres uuid.
func (u *UUID) Scan(src any) error {
	switch v := src.(type) {
	case string:
		return u.UnmarshalText([]byte(v))
	case []byte:
		if len(v) == 16 {
			copy(u[:], v)
			return nil
		}
		return u.UnmarshalText(v)
	case [16]byte:
		*u = v
		return nil
	}
	return fmt.Errorf("uuid: cannot read a %T", src)
}
