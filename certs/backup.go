package certs

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"
	"time"

	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// backupIterations only matters to a passphrase that can be guessed, and this
// one has 125 random bits: no number of iterations would add to that.
const backupIterations = 10_000

// A Backup is an encrypted PKCS#12 (AES-256, PBKDF2 with SHA-256) of a
// certificate, its key and all its chains, proven to open again.
type Backup struct {
	Data       []byte
	Passphrase amt.Secret // 25 letters and digits in groups of five; shown once
}

// NewBackup writes and re-opens it.
func NewBackup(ctx context.Context, p *Provisioning, now time.Time) (*Backup, error) {
	passphrase, err := newPassphrase()
	if err != nil {
		return nil, err
	}
	var above []*x509.Certificate
	for _, path := range p.Paths {
		for _, c := range path.Certs[1:] {
			if !slices.ContainsFunc(above, c.Equal) {
				above = append(above, c)
			}
		}
	}
	data, err := pkcs12.Modern2023.WithIterations(backupIterations).Encode(p.Key, p.Leaf, above, passphrase.Reveal())
	if err != nil {
		return nil, fmt.Errorf("write the backup of %s: %w", p.Name, err)
	}
	print, err := KeyFingerprint(p.Key.Public())
	if err != nil {
		return nil, fmt.Errorf("write the backup of %s: %w", p.Name, err)
	}
	b := &Backup{Data: data, Passphrase: passphrase}
	restored, err := VerifyBackup(ctx, data, passphrase, print, now)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the backup of %s does not open again: %w", p.Name, err)
	case !restored.Leaf.Equal(p.Leaf) || len(restored.Paths) != len(p.Paths):
		return nil, fmt.Errorf("the backup of %s holds something else than was put in", p.Name)
	}
	return b, nil
}

// VerifyBackup opens a backup and compares its key with the fingerprint that
// was noted when it was made; an empty fingerprint is not compared. It is also
// how a backup is restored.
func VerifyBackup(ctx context.Context, data []byte, passphrase amt.Secret, fingerprint string, now time.Time) (*Provisioning, error) {
	// A person may have typed it in small letters or without the dashes.
	p, err := loadPFX(ctx, data, PassphraseForms(passphrase), now)
	if err != nil {
		return nil, err
	}
	print, err := KeyFingerprint(p.Key.Public())
	if err != nil {
		return nil, err
	}
	if fingerprint != "" && print != fingerprint {
		return nil, reason.Because(reason.CertKeyMismatch, "the file opens, but holds another key than the one that was backed up")
	}
	return p, nil
}

// newPassphrase is 25 characters of base32: 125 bits, nothing to confuse.
func newPassphrase() (amt.Secret, error) {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return amt.Secret{}, fmt.Errorf("make a passphrase: %w", err)
	}
	text := base32.NewEncoding(phraseLetters).WithPadding(base32.NoPadding).EncodeToString(raw)
	return amt.NewSecret(groupFives(text[:25])), nil
}

// groupFives writes letters and digits as AAAAA-BBBBB-…
func groupFives(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range strings.ToUpper(s) {
		if (r < 'A' || r > 'Z') && (r < '0' || r > '9') {
			continue
		}
		if n > 0 && n%5 == 0 {
			b.WriteByte('-')
		}
		b.WriteRune(r)
		n++
	}
	return b.String()
}
