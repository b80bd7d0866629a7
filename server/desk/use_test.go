package desk_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/desk"
	"github.com/provisiond/provisiond/store"
)

// device records one that trusts the root of a certificate.
func (l *lab) device(n byte, life store.Lifecycle, version, suffix string, trusts certtest.Leaf) amt.UUID {
	l.tb.Helper()
	u := amt.UUID{0xd0, n, 1}
	from := netip.MustParseAddr("10.0.0.1")
	root := trusts.Issuers[len(trusts.Issuers)-1]
	v, err := amt.ParseVersion(version)
	if err != nil && version != "" {
		l.tb.Fatal(err)
	}
	ctx := context.Background()
	err = l.db.Write(ctx, func(tx *store.Tx) error {
		if _, _, err := tx.SeeHello(ctx, store.SeenHello{UUID: u, From: netip.AddrPortFrom(from, 1), Address: from, Via: "plain",
			Version: 3, Hashes: amt.HashesOf(root.Raw)}); err != nil {
			return err
		}
		if err := tx.UpdateDevice(ctx, u, store.DeviceFacts{Version: &v, Suffix: &suffix}); err != nil {
			return err
		}
		return tx.Transition(ctx, store.Transition{UUID: u, To: life, Event: "test", Actor: "test"})
	})
	if err != nil {
		l.tb.Fatal(err)
	}
	return u
}

// TestReplaceAndUndo: what a change does is said before; what waiting devices
// need is not taken away; what was taken away can be taken back.
func TestReplaceAndUndo(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		ctx := t.Context()
		oldLeaf, o := l.leaf("Old Vendor", "prov.corp.example.com")
		old := l.imports(o).Report.ID
		newLeaf, o := l.leaf("New Vendor", "prov.corp.example.com")
		second := l.imports(o)
		fresh := second.Report.ID
		if second.State != desk.Standby || !slices.Equal(l.inUse, []string{old}) {
			t.Fatalf("the second certificate is %s, in use are %v", second.State, l.inUse)
		}
		waiting := l.device(1, store.PendingCertificate, "11.8.50", "corp.example.com", oldLeaf)
		managed := l.device(2, store.Provisioned, "11.8.50", "corp.example.com", oldLeaf)
		if err := l.db.Write(ctx, func(tx *store.Tx) error {
			now, name := tx.Now(), "pc7.corp.example.com"
			// it took it, and was never set up
			if err := tx.UpdateDevice(ctx, waiting, store.DeviceFacts{Certificate: &old, FQDN: &name}); err != nil {
				return err
			}
			return tx.UpdateDevice(ctx, managed, store.DeviceFacts{Certificate: &old, ProvisionedAt: &now})
		}); err != nil {
			t.Fatal(err)
		}
		gains := l.device(3, store.Failed, "16.1.25", "corp.example.com", newLeaf)
		by := desk.UseOptions{Actor: "token:test"}

		all, err := l.desk.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		counts, err := l.desk.Counts(ctx, all)
		if d := cmp.Diff(map[string]desk.Counts{old: {SetUp: 1, Waiting: 1}, fresh: {Waiting: 1, Adds: 1}}, counts); d != "" || err != nil {
			t.Errorf("who has to do with which: %v\n%s", err, d)
		}
		before := l.state()
		dry, err := l.desk.Replace(ctx, old, fresh, desk.UseOptions{Actor: "x", DryRun: true})
		if err != nil {
			t.Fatal(err)
		}
		want := []desk.Group{
			{Version: "11.8.50", Suffix: "corp.example.com", Waiting: true, Devices: 1, Sample: []string{waiting.String() + " (pc7.corp.example.com)"}},
			{Version: "11.8.50", Suffix: "corp.example.com", Waiting: false, Devices: 1, Sample: []string{amt.UUID{0xd0, 2, 1}.String()}},
		}
		if d := cmp.Diff(want, dry.Lose); d != "" {
			t.Errorf("who loses:\n%s", d)
		}
		if len(dry.Gain) != 1 || dry.Gain[0].Sample[0] != gains.String() {
			t.Errorf("who gains: %+v", dry.Gain)
		}
		if d := cmp.Diff(before, l.state()); d != "" {
			t.Errorf("a dry run changed something:\n%s", d)
		}

		var refused *desk.RefusedError
		if _, err := l.desk.Replace(ctx, old, fresh, by); !errors.As(err, &refused) || !strings.Contains(err.Error(), waiting.String()) {
			t.Errorf("a waiting device needs it: %v", err)
		}
		if _, err := l.desk.Remove(ctx, old, by); !errors.As(err, &refused) {
			t.Errorf("a waiting device needs it: %v", err)
		}
		overlap := by
		overlap.Overlap = true
		if _, err := l.desk.Replace(ctx, old, fresh, overlap); err != nil {
			t.Fatal(err)
		}
		if len(l.inUse) != 2 {
			t.Errorf("overlapping: %v", l.inUse)
		}
		forced := by
		forced.Force = true
		if _, err := l.desk.Remove(ctx, old, forced); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(l.inUse, []string{fresh}) {
			t.Errorf("after removal: %v", l.inUse)
		}
		if _, err := l.desk.Restore(ctx, old, by); err != nil || len(l.inUse) != 2 {
			t.Errorf("taken back: %v %v", l.inUse, err)
		}

		// The trash is emptied after 30 days, not before.
		if _, err := l.desk.Remove(ctx, old, forced); err != nil {
			t.Fatal(err)
		}
		for days, left := range map[time.Duration]int{29: 2, 31: 1} {
			was := l.now
			l.now = was.Add(days * 24 * time.Hour)
			if days == 29 {
				if err := l.desk.Tick(ctx); err != nil {
					t.Fatal(err)
				}
				if all, err := l.desk.List(ctx); err != nil || len(all) != left {
					t.Errorf("after %d days: %d certificates, %v", days, len(all), err)
				}
			}
			l.now = was
		}
		l.now = l.now.Add(31 * 24 * time.Hour)
		if err := l.desk.Tick(ctx); err != nil {
			t.Fatal(err)
		}
		if all, err := l.desk.List(ctx); err != nil || len(all) != 1 {
			t.Errorf("after 31 days: %d certificates, %v", len(all), err)
		}
		if _, err := l.desk.Restore(ctx, old, by); err == nil {
			t.Error("what is gone for good came back")
		}
	})
}

// TestNeverTouchesFiles: what the configuration names is shown and used, and not
// handled here; a certificate that both name is in use once.
func TestNeverTouchesFiles(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	leaf, o := l.leaf("Vendor", "prov.corp.example.com")
	p, err := certs.LoadPFX(t.Context(), leaf.PFX(certtest.Modern, "secret"), amt.NewSecret("secret"), l.now)
	if err != nil {
		t.Fatal(err)
	}
	var list []*certs.Provisioning
	d := desk.New(desk.Config{DB: l.db, Backups: t.TempDir(), Node: "n1", Files: []*certs.Provisioning{p},
		InUse: func(in []*certs.Provisioning) { list = in }, Now: func() time.Time { return l.now }})
	t.Cleanup(d.Close)
	if err := d.Reload(t.Context()); err != nil || len(list) != 1 {
		t.Fatalf("%d in use, %v", len(list), err)
	}
	var refused *desk.RefusedError
	for name, do := range map[string]func(context.Context, string, desk.UseOptions) (desk.Changed, error){"remove": d.Remove,
		"deactivate": d.Deactivate, "activate": d.Activate} {
		if _, err := do(t.Context(), p.ID, desk.UseOptions{Force: true}); !errors.As(err, &refused) ||
			!strings.Contains(err.Error(), "configuration") {
			t.Errorf("%s: %v", name, err)
		}
	}
	o.Actor = "token:test"
	if _, err := d.Import(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	all, err := d.List(t.Context())
	if err != nil || len(all) != 1 || all[0].Source() != "desk and file" || len(list) != 1 {
		t.Errorf("%d entries, %d in use, %v", len(all), len(list), err)
	}
}

// TestEveryNode: a change made on one node is in use on the others when they
// look, without a restart.
func TestEveryNode(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		var there []string
		other := l.another("n2", func(list []*certs.Provisioning) {
			there = there[:0]
			for _, p := range list {
				there = append(there, p.ID)
			}
		})
		_, o := l.leaf("Vendor", "prov.corp.example.com")
		got := l.imports(o)
		if err := other.Poll(t.Context()); err != nil || !slices.Equal(there, []string{got.Report.ID}) {
			t.Errorf("the other node uses %v, %v", there, err)
		}
		id, phrase := got.Report.ID, got.Passphrase.Clear
		if e, opened, err := other.VerifyBackup(t.Context(), id, nil, phrase); err != nil || opened != desk.OpenedCopy ||
			e.Note.Backup.Node != "n1" {
			t.Errorf("the other node opened %q of %s: %v", opened, e.Note.Backup.Node, err)
		}
		if _, opened, err := l.desk.VerifyBackup(t.Context(), id, nil, phrase); err != nil || opened != desk.OpenedFile {
			t.Errorf("the node that wrote it opened %q: %v", opened, err)
		}
		if _, _, err := other.VerifyBackup(t.Context(), id, nil, amt.NewSecret("AAAAA-AAAAA-AAAAA-AAAAA-AAAAA")); err == nil {
			t.Error("a wrong passphrase opens the copy")
		}
		if _, data, err := other.ReadBackup(t.Context(), "token:test", id); err != nil || len(data) == 0 {
			t.Errorf("export on the other node: %v", err)
		} else if back, err := other.RestoreBackup(t.Context(), "token:test", "copy.p12", data, phrase); err != nil ||
			back.Report.ID != id {
			t.Errorf("restore on the other node: %v", err)
		}
		if _, err := other.Deactivate(t.Context(), got.Report.ID, desk.UseOptions{Actor: "x"}); err != nil {
			t.Fatal(err)
		}
		if err := l.desk.Poll(t.Context()); err != nil || len(l.inUse) != 0 {
			t.Errorf("the first node still uses %v, %v", l.inUse, err)
		}
	})
}

// TestReminders: one event at 45, 30, 14, 7 and 1 days and at the end, whatever
// the number of nodes, and a banner all the time.
func TestReminders(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		ctx := t.Context()
		_, o := l.leaf("Vendor", "prov.corp.example.com")
		l.imports(o)
		all, err := l.desk.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		end := all[0].Leaf.NotAfter
		other := l.another("n2", func([]*certs.Provisioning) {})
		var said []string
		last := l.lastEvent()
		for _, left := range []time.Duration{60, 45, 44, 30, 14, 7, 2, 1, 0, -1} {
			l.now = end.Add(-left*24*time.Hour + time.Second)
			for range 2 {
				if err := errors.Join(l.desk.Tick(ctx), other.Tick(ctx)); err != nil {
					t.Fatal(err)
				}
			}
			if banner := l.banner("cert_expiring") || l.banner("cert_expired"); banner != (left <= 45) {
				t.Errorf("%d days: banner %v", left, banner)
			}
		}
		err = l.db.Read(ctx, func(tx *store.Tx) error {
			events, err := tx.Events(ctx, store.EventFilter{After: last, Limit: 100})
			for _, e := range events {
				said = append(said, e.Name+" "+string(e.Reason)+": "+strings.TrimPrefix(e.Detail, "prov.corp.example.com ("+all[0].ID+") "))
			}
			return err
		})
		on := end.UTC().Format(time.DateOnly)
		renew := "; provctl cert renew " + all[0].ID
		want := []string{
			"certificate_expiring cert_expiring: ends in 44 days, on " + on + renew,
			"certificate_expiring cert_expiring: ends in 29 days, on " + on + renew,
			"certificate_expiring cert_expiring: ends in 13 days, on " + on + renew,
			"certificate_expiring cert_expiring: ends in 6 days, on " + on + renew,
			"certificate_expiring cert_expiring: ends within a day, on " + on + renew,
			"certificate_expired cert_expired: expired on " + on + ": no device is set up with it" + renew,
		}
		if d := cmp.Diff(want, said); d != "" || err != nil {
			t.Errorf("%v %s", err, d)
		}
	})
}

func (l *lab) lastEvent() (id int64) {
	l.tb.Helper()
	err := l.db.Read(context.Background(), func(tx *store.Tx) (err error) {
		id, err = tx.LastEvent(context.Background())
		return err
	})
	if err != nil {
		l.tb.Fatal(err)
	}
	return id
}

// TestOwnRoot: made once, sealed, and what it issues is imported like any other.
func TestOwnRoot(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		ctx := t.Context()
		if _, err := l.desk.Root(ctx); err == nil {
			t.Error("there is a root before one was made")
		}
		made, err := l.desk.CreateRoot(ctx, "token:test", "Example AMT root")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.desk.CreateRoot(ctx, "token:test", "another"); err == nil {
			t.Error("a second root was made")
		}
		l.restart()
		again, err := l.desk.Root(ctx)
		if d := cmp.Diff(made.PEM, again.PEM); d != "" || err != nil {
			t.Errorf("%v %s", err, d)
		}
		got, err := l.desk.Issue(ctx, "token:test", []string{"provisionserver.corp.local"}, 0)
		if err != nil || !got.Activated || got.Passphrase.IsZero() || got.Report.Chains[0].Root != "Example AMT root" {
			t.Errorf("issued: %+v %v", got, err)
		}
	})
}

// TestNames: the names to order come from the suffixes that devices told, the
// zones of the configuration and what is given besides.
func TestNames(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		ctx := t.Context()
		leaf, _ := l.leaf("A", "prov.corp.example.com")
		l.device(1, store.PendingCertificate, "16.1.25", "corp.example.com", leaf)
		l.device(2, store.Failed, "16.1.25", "branch.example.com", leaf)
		l.device(3, store.Provisioned, "16.1.25", "branch.example.com", leaf)
		l.device(4, store.Retired, "16.1.25", "gone.example.org", leaf)
		named := l.device(5, store.PendingIdentity, "", "", leaf)
		domain := "office.lan"
		if err := l.db.Write(ctx, func(tx *store.Tx) error {
			return tx.UpdateDevice(ctx, named, store.DeviceFacts{Domain: &domain})
		}); err != nil {
			t.Fatal(err)
		}
		d := desk.New(desk.Config{DB: l.db, Backups: t.TempDir(), Node: "n1", Zones: []string{"corp.example.com", "zone.com.au"}})
		t.Cleanup(d.Close)
		got, err := d.Names(ctx, []string{"given.example.net"})
		if err != nil {
			t.Fatal(err)
		}
		var names, said []string
		for _, n := range got.Names {
			names = append(names, n.Name)
		}
		for _, s := range got.Suffixes {
			said = append(said, fmt.Sprintf("%s %d %s: %s", s.Suffix, s.Devices, strings.Join(s.From, "+"), s.Name))
		}
		if diff := cmp.Diff([]string{"provisionserver.branch.example.com", "provisionserver.given.example.net",
			"provisionserver.zone.com.au"}, names); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{
			"branch.example.com 2 devices: provisionserver.branch.example.com",
			"corp.example.com 1 devices+zones: provisionserver.branch.example.com",
			"office.lan 1 devices: ",
			"given.example.net 0 given: provisionserver.given.example.net",
			"zone.com.au 0 zones: provisionserver.zone.com.au",
		}, said); diff != "" {
			t.Error(diff)
		}
	})
}

// TestAdvise: which roots the recorded devices would be served by, and whom a
// change of the root would cut off, out of what they announced.
func TestAdvise(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		ctx := t.Context()
		a, o := l.leaf("A", "prov.corp.example.com")
		l.imports(o)
		b := l.vendor.Plain("B", "prov.corp.example.com")
		l.device(1, store.PendingCertificate, "11.8.50", "corp.example.com", a)
		cut := l.device(2, store.Provisioned, "11.8.50", "corp.example.com", a)
		l.device(3, store.Failed, "16.1.25", "corp.example.com", b)
		advice, err := l.desk.Advise(ctx)
		if err != nil || advice.Devices != 3 || advice.Served != 2 {
			t.Fatalf("%+v %v", advice, err)
		}
		name := func(f certtest.Leaf) string {
			for _, h := range amt.HashesOf(f.Issuers[1].Raw) {
				if h.Algorithm == amt.SHA256 {
					return h.String()
				}
			}
			return ""
		}
		change, err := l.desk.ChangeRoot(ctx, name(a), name(b))
		if err != nil || change.CutOff != 2 || change.Gain != 1 || change.Served != 0 || len(change.Devices) != 2 ||
			change.Devices[1].Sample[0] != cut.String() {
			t.Errorf("%+v %v", change, err)
		}
		if _, err := l.desk.ChangeRoot(ctx, "go daddy", "nonsense"); err == nil {
			t.Error("two roots that begin alike, and one that is unknown, were taken")
		}
	})
}
