package desk

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// Changed is what a change of the list in use did, or would do.
type Changed = api.CertificateChanged

// Group is a number of devices that are alike in what decides about a
// certificate.
type Group = api.CertificateGroup

// sampleSize bounds the devices that are named in a group.
const sampleSize = 5

// Requeued counts the devices that were queued again.
type Requeued = api.CertificateRequeued

// UseOptions say how a change is made.
type UseOptions struct {
	Actor  string
	DryRun bool
	// Overlap leaves the old certificate in use beside the new one.
	Overlap bool
	// Force makes a change although waiting devices would lose their match.
	Force bool
}

// move is a change of states that has not happened yet.
type move struct {
	entry Entry
	to    State
}

// Activate puts a certificate into use beside those that are.
func (d *Desk) Activate(ctx context.Context, id string, o UseOptions) (Changed, error) {
	return d.use(ctx, "cert.activate", o, func(all []Entry) ([]move, string, error) {
		e, err := deskOwn(all, id)
		switch {
		case err != nil:
			return nil, "", err
		case e.State == Active:
			return nil, "", refused("%s is in use already", e.Name)
		case e.State == Removed:
			return nil, "", refused("%s was removed; take it back first: provctl cert restore %s", e.Name, e.ID)
		}
		if err := fit(e, d.Now()); err != nil && !o.Force {
			return nil, "", err
		}
		return []move{{e, Active}}, fmt.Sprintf("%s (%s) is in use", e.Name, e.ID), nil
	})
}

// Deactivate takes a certificate out of use and keeps it.
func (d *Desk) Deactivate(ctx context.Context, id string, o UseOptions) (Changed, error) {
	return d.use(ctx, "cert.deactivate", o, func(all []Entry) ([]move, string, error) {
		e, err := deskOwn(all, id)
		switch {
		case err != nil:
			return nil, "", err
		case e.State != Active:
			return nil, "", refused("%s is not in use", e.Name)
		}
		return []move{{e, Standby}}, fmt.Sprintf("%s (%s) is kept, not in use", e.Name, e.ID), nil
	})
}

// Replace puts one certificate into use and removes another, in one move.
func (d *Desk) Replace(ctx context.Context, old, with string, o UseOptions) (Changed, error) {
	return d.use(ctx, "cert.replace", o, func(all []Entry) ([]move, string, error) {
		out, err := deskOwn(all, old)
		if err != nil {
			return nil, "", err
		}
		in, err := deskOwn(all, with)
		switch {
		case err != nil:
			return nil, "", err
		case in.ID == out.ID:
			return nil, "", refused("a certificate cannot replace itself")
		case in.State == Removed || out.State == Removed:
			return nil, "", refused("one of them was removed; take it back first: provctl cert restore ID")
		}
		if err := fit(in, d.Now()); err != nil && !o.Force {
			return nil, "", err
		}
		if o.Overlap {
			return []move{{in, Active}}, fmt.Sprintf("%s (%s) is in use beside %s (%s); remove the old one when its devices are done",
				in.Name, in.ID, out.Name, out.ID), nil
		}
		return []move{{in, Active}, {out, Removed}}, fmt.Sprintf("%s (%s) is in use; %s (%s) is in the trash for 30 days", in.Name, in.ID,
			out.Name, out.ID), nil
	})
}

// Remove puts a certificate into the trash. Only what was imported here can be
// removed, and not while waiting devices need it, unless forced.
func (d *Desk) Remove(ctx context.Context, id string, o UseOptions) (Changed, error) {
	return d.use(ctx, "cert.remove", o, func(all []Entry) ([]move, string, error) {
		e, err := deskOwn(all, id)
		switch {
		case err != nil:
			return nil, "", err
		case e.State == Removed:
			return nil, "", refused("%s was removed already", e.Name)
		}
		return []move{{e, Removed}}, fmt.Sprintf("%s (%s) is in the trash until %s; provctl cert restore %s takes it back", e.Name, e.ID,
			d.Now().Add(UndoFor).UTC().Format(time.DateOnly), e.ID), nil
	})
}

// Restore takes a certificate back from the trash, into use if it was there.
func (d *Desk) Restore(ctx context.Context, id string, o UseOptions) (Changed, error) {
	return d.use(ctx, "cert.restore", o, func(all []Entry) ([]move, string, error) {
		e, err := deskOwn(all, id)
		switch {
		case err != nil:
			return nil, "", err
		case e.State != Removed:
			return nil, "", refused("%s was not removed", e.Name)
		}
		to, how := Standby, "kept, not in use"
		if e.Note.WasActive {
			to, how = Active, "in use again"
		}
		return []move{{e, to}}, fmt.Sprintf("%s (%s) is %s", e.Name, e.ID, how), nil
	})
}

// fit refuses what no device would accept, with its reason.
func fit(e Entry, now time.Time) error {
	if err := certs.NewReport(e.Provisioning, now).Err(); err != nil {
		return err
	}
	if why := e.Validity(now); why != nil {
		return why
	}
	return nil
}

func deskOwn(all []Entry, id string) (Entry, error) {
	e, err := find(all, id)
	if err == nil && !e.Desk {
		err = refused("%s comes from a file that the configuration names; change provisioning.certificates instead", e.Name)
	}
	return e, err
}

// use works out what a change does to the fleet, and makes it unless asked not to.
func (d *Desk) use(ctx context.Context, action string, o UseOptions, plan func([]Entry) ([]move, string, error)) (Changed, error) {
	all, err := d.List(ctx)
	if err != nil {
		return Changed{}, err
	}
	moves, said, err := plan(all)
	if err != nil {
		return Changed{}, err
	}
	before := inUse(all)
	after := slices.Clone(all)
	for _, m := range moves {
		for i := range after {
			if after[i].ID == m.entry.ID && !after[i].File {
				after[i].State = m.to
			}
		}
	}
	out := Changed{Said: said, DryRun: o.DryRun, InUse: []string{}}
	for _, p := range inUse(after) {
		out.InUse = append(out.InUse, p.ID)
	}
	if out.Gain, out.Lose, err = d.impact(ctx, before, inUse(after)); err != nil {
		return out, err
	}
	for _, m := range moves {
		if m.to == Removed {
			out.Shared = append(out.Shared, shared(m.entry, all)...)
		}
	}
	out.Managed = managedStay(moves)
	if o.DryRun {
		return out, nil
	}
	if waiting := needed(out.Lose); waiting != "" && !o.Force {
		return out, refused("it is needed: %s; put another into use first, or use --force", waiting)
	}
	var ids []string
	for _, m := range moves {
		ids = append(ids, m.entry.ID+" "+string(m.to))
	}
	err = d.change(ctx, store.AuditRecord{Actor: o.Actor, Action: action, Subject: moves[0].entry.ID, Detail: map[string]any{"moves": ids}},
		func(tx *store.Tx) error {
			for _, m := range moves {
				if err := d.moveTx(ctx, tx, m, o.Actor); err != nil {
					return err
				}
			}
			return nil
		})
	if err != nil {
		return out, err
	}
	d.Log.Info(action, zap.Strings("moves", ids), zap.String("actor", o.Actor))
	if slices.ContainsFunc(moves, func(m move) bool { return m.to == Active }) {
		out.Requeued = d.requeue(ctx)
	}
	return out, nil
}

// managedStay says what a certificate that goes out of use means for devices under
// management; "" when none does.
func managedStay(moves []move) string {
	if slices.ContainsFunc(moves, func(m move) bool { return m.entry.State == Active && m.to != Active }) {
		return "devices under management stay reachable: this server logs in there under a name of the device CA, which no provisioning " +
			"certificate changes"
	}
	return ""
}

func (d *Desk) moveTx(ctx context.Context, tx *store.Tx, m move, actor string) error {
	row, err := tx.Certificate(ctx, m.entry.ID)
	if err != nil {
		return err
	}
	event := "certificate_" + string(m.to)
	n, err := d.note(ctx, tx, m.entry.ID)
	if err != nil {
		return err
	}
	switch m.to {
	case Removed:
		n.RemovedAt, n.RemovedBy, n.WasActive = tx.Now().UTC(), actor, row.State == string(Active)
	case Active:
		event = "certificate_activated"
	}
	if m.to != Removed {
		n.RemovedAt, n.RemovedBy = time.Time{}, ""
	}
	if err := tx.SetCertificateState(ctx, m.entry.ID, string(m.to)); err != nil {
		return err
	}
	if err := d.putNote(ctx, tx, m.entry.ID, n); err != nil {
		return err
	}
	_, err = tx.AddEvent(ctx, store.Event{Name: event, Actor: actor, Detail: m.entry.Name, Data: map[string]any{"certificate": m.entry.ID}})
	return err
}

// shared names CA certificates of e that other certificates use too.
func shared(e Entry, all []Entry) []string {
	var out []string
	for _, path := range e.Paths {
		for _, c := range path.Certs[1:] {
			for _, o := range all {
				if o.ID == e.ID || o.State == Removed {
					continue
				}
				if slices.ContainsFunc(o.Paths, func(p certs.Path) bool { return slices.ContainsFunc(p.Certs[1:], c.Equal) }) {
					s := fmt.Sprintf("%s, also of %s (%s)", cmp.Or(c.Subject.CommonName, c.Subject.String()), o.Name, o.ID)
					if !slices.Contains(out, s) {
						out = append(out, s)
					}
				}
			}
		}
	}
	return out
}

// needed lists the waiting devices among those that would lose their match.
func needed(lose []Group) string {
	n := 0
	var list []string
	for _, g := range lose {
		if !g.Waiting {
			continue
		}
		n += g.Devices
		if len(list) < 10 {
			list = append(list, fmt.Sprintf("%d of AMT %s in %s (%s)", g.Devices, g.Version, g.Suffix, strings.Join(g.Sample, ", ")))
		}
	}
	if n == 0 {
		return ""
	}
	devices := "devices wait"
	if n == 1 {
		devices = "device waits"
	}
	return fmt.Sprintf("%d %s for it: %s", n, devices, strings.Join(list, "; "))
}

// impact says which devices gain and lose a match.
func (d *Desk) impact(ctx context.Context, before, after []*certs.Provisioning) (gain, lose []Group, err error) {
	gain, lose = []Group{}, []Group{}
	err = d.DB.Read(ctx, func(tx *store.Tx) error {
		groups, err := tx.FleetGroups(ctx)
		if err != nil {
			return err
		}
		tables, err := tx.TrustTables(ctx)
		if err != nil {
			return err
		}
		for _, waiting := range []bool{true, false} {
			f := fleetOf(groups, tables, func(g store.FleetGroup) int {
				if waiting {
					return g.Waiting
				}
				return g.Devices - g.Waiting
			})
			plus, minus := certs.Change(f, before, after)
			if gain, err = d.grouped(ctx, tx, gain, plus, waiting); err != nil {
				return err
			}
			if lose, err = d.grouped(ctx, tx, lose, minus, waiting); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("work out which devices it concerns: %w", err)
	}
	return gain, lose, nil
}

// grouped joins groups that only differ in their trust table and names some of
// the devices.
func (d *Desk) grouped(ctx context.Context, tx *store.Tx, out []Group, groups []certs.FleetGroup, waiting bool) ([]Group, error) {
	for _, g := range groups {
		v, s := versionWord(g.Version), cmp.Or(g.Suffix, "unknown")
		i := slices.IndexFunc(out, func(have Group) bool { return have.Version == v && have.Suffix == s && have.Waiting == waiting })
		if i < 0 {
			i = len(out)
			out = append(out, Group{Version: v, Suffix: s, Waiting: waiting, Sample: []string{}})
		}
		out[i].Devices += g.Devices
		if len(out[i].Sample) < sampleSize && len(out) <= 20 {
			ids, err := tx.DevicesOfGroup(ctx, store.FleetGroup{Table: g.Table, Version: g.Version, Suffix: g.Suffix}, waiting,
				sampleSize-len(out[i].Sample))
			if err != nil {
				return out, err
			}
			names, err := tx.CalledOf(ctx, ids)
			if err != nil {
				return out, err
			}
			for _, id := range ids {
				out[i].Sample = append(out[i].Sample, amt.Called(id.String(), names[id]))
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Group) int {
		if a.Waiting != b.Waiting {
			if a.Waiting {
				return -1
			}
			return 1
		}
		return b.Devices - a.Devices
	})
	return out, nil
}

func versionWord(v amt.Version) string {
	if v.IsZero() {
		return "unknown"
	}
	return v.String()
}

// fleetOf makes what package certs counts with.
func fleetOf(groups []store.FleetGroup, tables map[int64][]amt.TrustHash, count func(store.FleetGroup) int) certs.Fleet {
	f := certs.Fleet{Tables: tables}
	for _, g := range groups {
		if n := count(g); n > 0 {
			f.Groups = append(f.Groups, certs.FleetGroup{Table: g.Table, Devices: n, Version: g.Version, Suffix: g.Suffix})
		}
	}
	return f
}
