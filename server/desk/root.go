package desk

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// A root of one's own is for fleets that can use no public CA: .local domains,
// closed networks. Its hash has to be brought into every device, by USB
// (provctl root setup-bin), in MEBx or by the maker.
const rootKey = "provisioning_root"

// Root is one's own root without its key.
type Root = api.OwnRoot

func viewRoot(a *certs.Authority) Root {
	c := a.Certificate()
	r := Root{Name: c.Subject.CommonName, NotAfter: c.NotAfter.UTC(),
		PEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})), Hashes: amt.HashesOf(c.Raw)}
	for _, h := range r.Hashes {
		r.Words = append(r.Words, h.String())
	}
	return r
}

// CreateRoot makes the root and seals its key. There is one; making another is
// refused, since devices hold its hash.
func (d *Desk) CreateRoot(ctx context.Context, actor, name string) (Root, error) {
	if name == "" {
		name = "provisiond root"
	}
	if len(name) > 64 {
		return Root{}, refused("a common name has at most 64 characters")
	}
	a, err := certs.NewAuthority(name, d.Now())
	if err != nil {
		return Root{}, err
	}
	sealed, err := a.Secret()
	if err != nil {
		return Root{}, err
	}
	err = d.DB.Write(ctx, func(tx *store.Tx) error {
		if err := tx.Audit(ctx, store.AuditRecord{Actor: actor, Action: "root.create", Subject: name}); err != nil {
			return err
		}
		return tx.CreateSealedSetting(ctx, rootKey, sealed)
	})
	if errors.Is(err, store.ErrConflict) {
		return Root{}, refused("there is a root already: provctl root export shows it")
	}
	if err != nil {
		return Root{}, fmt.Errorf("keep the root: %w", err)
	}
	return viewRoot(a), nil
}

func (d *Desk) authority(ctx context.Context) (*certs.Authority, error) {
	var sealed amt.Secret
	err := d.DB.Read(ctx, func(tx *store.Tx) (err error) {
		sealed, err = tx.SealedSetting(ctx, rootKey)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, &UnknownError{"root of our own yet: provctl root create makes", "one"}
	}
	if err != nil {
		return nil, fmt.Errorf("read the root: %w", err)
	}
	return certs.AuthorityFromStore(sealed)
}

// Root is one's own root, as it is given to others.
func (d *Desk) Root(ctx context.Context) (Root, error) {
	a, err := d.authority(ctx)
	if err != nil {
		return Root{}, err
	}
	return viewRoot(a), nil
}

// Issue makes a provisioning certificate under one's own root and imports it
// like any other: with report, backup and one transaction.
func (d *Desk) Issue(ctx context.Context, actor string, names []string, days int) (Imported, error) {
	if len(names) == 0 {
		return Imported{}, refused("a name is needed")
	}
	if days <= 0 {
		days = 1095
	}
	files, err := d.issue(ctx, certs.RequestOptions{CommonName: names[0], Names: names[1:], PrivateNames: true},
		time.Duration(days)*24*time.Hour)
	if err != nil {
		return Imported{}, err
	}
	return d.Import(ctx, ImportOptions{Files: files, Actor: actor})
}

// issue makes a certificate with its key and chain, in the form in which Import
// takes what a CA sent.
func (d *Desk) issue(ctx context.Context, o certs.RequestOptions, life time.Duration) ([]certs.File, error) {
	a, err := d.authority(ctx)
	if err != nil {
		return nil, err
	}
	r, err := certs.NewRequest(o)
	if err != nil {
		return nil, err
	}
	der, err := a.IssueProvisioning(&r.Key.PublicKey, r.Names, d.Now(), life)
	if err != nil {
		return nil, err
	}
	var text []byte
	for _, c := range [][]byte{der, a.Certificate().Raw} {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	key, err := r.KeyDER()
	if err != nil {
		return nil, err
	}
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	return []certs.File{{Name: "issued by " + a.Certificate().Subject.CommonName, Data: text}}, nil
}
