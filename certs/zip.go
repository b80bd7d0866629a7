package certs

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/provisiond/provisiond/amt"
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
func (b *bundler) zip(ctx context.Context, data []byte) error {
	r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return reason.Because(reason.CertInputInvalid, "the zip file is damaged or was cut short: download it again (%w)", err)
	}
	if len(r.File) > maxZipEntries {
		return reason.Because(reason.CertInputInvalid, "the zip file has %d entries; at most %d are read", len(r.File), maxZipEntries)
	}
	archive := b.at.file
	defer func() { b.at = place{file: archive} }()
	for _, f := range r.File {
		name := amt.Clip(f.Name)
		switch {
		case f.FileInfo().IsDir() || strings.HasPrefix(f.Name, "__MACOSX/") || strings.HasPrefix(path.Base(f.Name), "."):
			continue
		case f.Flags&1 != 0:
			return reason.Because(reason.CertInputInvalid, "%s in the zip file is encrypted: unpack it first", name)
		}
		inner, err := unpack(f, min(b.left.bytes, MaxFile), int64(len(data)))
		if err != nil {
			return reasoned(err, "%s in the zip file", name)
		}
		b.left.bytes -= int64(len(inner))
		b.at = place{file: strings.TrimPrefix(archive+": "+name, ": ")}
		if err := b.entry(ctx, name, inner); err != nil {
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
func (b *bundler) entry(ctx context.Context, name string, data []byte) error {
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		b.ignore("%s (empty)", name)
		return nil
	case bytes.HasPrefix(data, []byte("PK\x03\x04")):
		return reason.Because(reason.CertInputInvalid, "this is a zip file inside the zip file: unpack it and import what is in it")
	}
	err := b.file(ctx, data)
	if other := strangerError(""); errors.As(err, &other) {
		b.ignore("%s (%s)", name, other)
		return nil
	}
	return err
}
