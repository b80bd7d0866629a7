package operate

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/seal"
	"github.com/provisiond/provisiond/store/storetest"
)

// eachEngine runs a claim on a database of each engine.
func eachEngine(t *testing.T, claim func(*testing.T, *store.DB)) {
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			o := storetest.Options(t, engine)
			keys, err := seal.New([]byte("0123456789abcdef0123456789abcdef"))
			if err != nil {
				t.Fatal(err)
			}
			o.Keys = keys
			db, err := store.Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			claim(t, db)
		})
	}
}

// testRoom begins runs without a queue.
func testRoom() *Room {
	return &Room{
		StartRun: func(ctx context.Context, tx *store.Tx, u amt.UUID, kind, trigger, profile string, at time.Time) (store.Run, error) {
			return tx.CreateRun(ctx, store.NewRun{UUID: u, Kind: kind, Trigger: trigger, Profile: profile, NotBefore: at})
		},
		Enqueue: func(context.Context, *store.Tx, int64, time.Time, int) error { return nil },
	}
}

// stand makes a device that said hello, was approved, and stands somewhere.
func stand(ctx context.Context, tx *store.Tx, u amt.UUID, at store.Lifecycle, code reason.Code) error {
	a, yes := netip.MustParseAddr("10.0.0.1"), true
	_, _, err := tx.SeeHello(ctx, store.SeenHello{UUID: u, From: netip.AddrPortFrom(a, 40000), Address: a, Via: "plain", Version: 3})
	if err == nil {
		err = tx.UpdateDevice(ctx, u, store.DeviceFacts{Approved: &yes})
	}
	if err == nil && at != store.Discovered {
		err = tx.Transition(ctx, store.Transition{UUID: u, To: at, Reason: code, Event: "test", Actor: "system"})
	}
	return err
}

var errBack = errors.New("roll this back")

// TestEligibility: each command is answered for a device in each state as the
// table says, and the same whether a person gives it to the device or a job to many.
func TestEligibility(t *testing.T) {
	t.Parallel()
	if len(tableVerbs) != len(verbs) {
		t.Errorf("the table has %d commands, and %d can be carried out", len(tableVerbs), len(verbs))
	}
	eachEngine(t, func(t *testing.T, db *store.DB) {
		room, who := testRoom(), Principal{Name: "alice", User: "alice"}
		for n, life := range store.Lifecycles() {
			for i, verb := range tableVerbs {
				word, code := cells[verb][life], reason.Code("")
				switch {
				case verb == Reject && life == store.Quarantined:
					code = reason.Rejected
				case verb == Release && word == "named":
					code = reason.TLSPinnedKeyChanged
				}
				u := amt.UUID{1, byte(n), byte(i), 1}
				want := ""
				if word != "yes" && word != "named" && word != "idle" {
					if want = "device_" + word; refusals[word] == "" {
						t.Errorf("%s, %s: %q is no word of the table", verb, life, word)
					}
				}
				cmd := Command{
					Verb: verb, Confirmed: u, Mode: map[bool]string{true: "full"}[verb == Unprovision],
					Vouch:    api.Vouch{TrustFirst: verb == Trust},
					Password: amt.NewSecret("Known!1"), Address: netip.MustParseAddr("10.0.0.2"), Change: changeFor(verb),
				}
				single(t, db, room, who, u, life, code, cmd, want)
				bulk(t, db, room, u, life, code, cmd, want)
			}
		}
	})
}

func changeFor(verb string) api.Change {
	switch verb {
	case Tag, Untag:
		return api.Change{Tags: []string{"x"}}
	case AssignProfile:
		return api.Change{Profile: "default"}
	}
	return api.Change{}
}

// single gives a command to one device, as a person does.
func single(t *testing.T, db *store.DB, room *Room, who Principal, u amt.UUID, life store.Lifecycle, why reason.Code, cmd Command,
	want string) {
	t.Helper()
	err := db.Write(t.Context(), func(tx *store.Tx) error {
		if err := stand(t.Context(), tx, u, life, why); err != nil {
			return err
		}
		if _, err := room.Do(t.Context(), tx, who, u, cmd); err != nil {
			return err
		}
		return errBack
	})
	got := ""
	if no := (*Refused)(nil); errors.As(err, &no) {
		got = no.Code
	} else if !errors.Is(err, errBack) {
		t.Errorf("%s of one that is %s: %v", cmd.Verb, life, err)
	}
	if got != want {
		t.Errorf("%s of one that is %s: %q, want %q", cmd.Verb, life, got, want)
	}
	if err != nil && strings.Contains(err.Error(), "%!") {
		t.Errorf("%s of one that is %s says %q", cmd.Verb, life, err)
	}
}

// bulk lets a job give the same command.
func bulk(t *testing.T, db *store.DB, room *Room, u amt.UUID, life store.Lifecycle, why reason.Code, cmd Command, want string) {
	t.Helper()
	var part Part
	var no *Refused
	err := db.Write(t.Context(), func(tx *store.Tx) error {
		if err := stand(t.Context(), tx, u, life, why); err != nil {
			return err
		}
		d, err := tx.Device(t.Context(), u)
		if err != nil {
			return err
		}
		no = Refusal(cmd.Verb, d)
		j := store.BulkJob{ID: 7, Kind: cmd.Verb, CreatedBy: "alice"}
		part, err = room.Begin(t.Context(), tx, j, JobOptions{Mode: cmd.Mode, Change: cmd.Change}, d)
		if err != nil {
			return err
		}
		return errBack
	})
	if !errors.Is(err, errBack) {
		t.Errorf("a job's %s of one that is %s: %v", cmd.Verb, life, err)
	}
	switch {
	case want != "":
		if no == nil || no.Code != want || part.State != store.ItemSkipped || part.Detail != no.Why {
			t.Errorf("a job's %s of one that is %s: %+v, want %s", cmd.Verb, life, part, want)
		}
	case cmd.Verb == Trust || cmd.Verb == Adopt || cmd.Verb == Address: // which no job does
	case part.State == store.ItemSkipped || part.State == store.ItemFailed:
		t.Errorf("a job's %s of one that is %s: %+v", cmd.Verb, life, part)
	}
}
