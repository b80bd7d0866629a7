package store

import (
	"context"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

// settle tidies a device after reading it, and takes away what a row without a
// right MAC grants.
func (tx *Tx) settle(d *Device) {
	if len(d.Tags) == 0 {
		d.Tags = nil
	}
	if d.granted() && !tx.counts("devices", d.UUID, d.place(), d.Signed) {
		d.disown()
	}
	d.Signed = nil
}

func (d *Device) granted() bool {
	return d.Approved || d.AssignedProfile != "" || len(d.Vouched) > 0
}

// grantColumns are a device's columns that grant something, with its MAC;
// grants is the condition that they do.
const (
	grantColumns = "approved, assigned_profile, vouched, address, signed"
	grants       = "(approved OR assigned_profile <> '' OR length(vouched) > 0)"
)

func (d *Device) grant() []any {
	return []any{&d.Approved, &d.AssignedProfile, &d.Vouched, addrOf{&d.Address}, &d.Signed}
}

// place covers the address of an approval and of a person's word for whoever
// answers next, since both are for the machine at that address.
func (d *Device) place() seal.Place {
	covered := []any{d.UUID, d.Approved, d.AssignedProfile, d.Vouched}
	if d.Approved || len(d.Vouched) > 0 {
		covered = append(covered, amt.Text(d.Address))
	}
	return place("devices", covered...)
}

func (d *Device) disown() { d.Approved, d.AssignedProfile, d.Vouched = false, "", nil }

// regrant adds to an update what a device is granted, changed and signed anew.
// It drops what was there without a right MAC. A new address alone signs only
// what counts already.
func (tx *Tx) regrant(ctx context.Context, uuid amt.UUID, f DeviceFacts, c *clause) error {
	changed := f.Approved != nil || f.AssignedProfile != nil || f.Vouched != nil
	if !changed && f.Address == nil {
		return nil
	}
	d := Device{UUID: uuid}
	if err := tx.one(ctx, "SELECT "+grantColumns+" FROM devices WHERE uuid = $1 {lock}", []any{uuid}, d.grant()...); err != nil {
		return err
	}
	if tx.settle(&d); !changed && !d.granted() {
		return nil
	}
	if f.Address != nil {
		d.Address = *f.Address
	}
	if f.Approved != nil {
		d.Approved = *f.Approved
	}
	if f.AssignedProfile != nil {
		d.AssignedProfile = *f.AssignedProfile
	}
	if f.Vouched != nil {
		d.Vouched = *f.Vouched
	}
	var mac []byte
	if d.granted() {
		var err error
		if mac, err = tx.sign(d.place()); err != nil {
			return err
		}
	}
	c.add("approved = ?", d.Approved)
	c.add("assigned_profile = ?", d.AssignedProfile)
	c.add("vouched = ?", d.Vouched)
	c.add("signed = ?", mac)
	return nil
}
