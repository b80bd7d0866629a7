package certs

import (
	"archive/zip"
	"bytes"
	"io"
	"path"
	"strings"

	"github.com/provisiond/provisiond/amt/reason"
)

// Bounds of a zip file. A vendor's holds about five entries that hardly shrink.
const (
	maxZipEntries = 200
	maxZipRatio   = 50 // unpacked to packed, beyond the first 64 KB
)

// zip reads a vendor's archive. Entries that are no certificates (a read-me)
// are named and passed over; limits are held while unpacking, not by what the
// archive says of itself.
func (b *bundler) zip(data []byte) error {
	r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return reason.Because(reason.CertInputInvalid, "the zip file cannot be read: %w", err)
	}
	if len(r.File) > maxZipEntries {
		return reason.Because(reason.CertInputInvalid, "the zip file has %d entries; at most %d are read", len(r.File), maxZipEntries)
	}
	budget := int64(MaxBundle)
	for _, f := range r.File {
		name := clip(f.Name)
		switch {
		case f.FileInfo().IsDir() || strings.HasPrefix(f.Name, "__MACOSX/") || strings.HasPrefix(path.Base(f.Name), "."):
			continue
		case f.Flags&1 != 0:
			return reason.Because(reason.CertInputInvalid, "%s in the zip file is encrypted: unpack it first", name)
		}
		inner, err := unpack(f, min(budget, MaxFile), int64(len(data)))
		if err != nil {
			return reasoned(err, "%s in the zip file", name)
		}
		budget -= int64(len(inner))
		if err := b.entry(name, plainText(inner)); err != nil {
			return reasoned(err, "%s in the zip file", name)
		}
	}
	return nil
}

func unpack(f *zip.File, limit, packed int64) ([]byte, error) {
	rc, err := f.Open()
	if err != nil {
		return nil, reason.Because(reason.CertInputInvalid, "cannot be unpacked: %w", err)
	}
	defer rc.Close()
	limit = min(limit, 64<<10+maxZipRatio*packed)
	data, err := io.ReadAll(io.LimitReader(rc, limit+1))
	switch {
	case err != nil:
		return nil, reason.Because(reason.CertInputInvalid, "cannot be unpacked: %w", err)
	case int64(len(data)) > limit:
		return nil, reason.Because(reason.CertInputInvalid, "unpacks to more than %d bytes: a zip bomb, or not certificates", limit)
	}
	return data, nil
}

// entry reads one unpacked file. What does not look like a certificate at all
// is passed over; what does and cannot be read is an error.
func (b *bundler) entry(name string, data []byte) error {
	_, text := bareBase64(data)
	switch {
	case len(data) == 0:
		b.ignore("%s (empty)", name)
	case bytes.HasPrefix(data, []byte("PK\x03\x04")):
		b.ignore("%s (a zip file inside the zip file)", name)
	case data[0] == 0x30 || text || bytes.Contains(data, []byte("-----BEGIN ")):
		return b.plain(data)
	default:
		b.ignore("%s", name)
	}
	return nil
}
