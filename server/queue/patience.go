package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// Asked is the trigger of a run that a person asked for.
const Asked = "api"

// A device is left alone for probeHour after it refused hourlyProbes passwords:
// three tries an hour lock nobody out.
const (
	probeHour    = time.Hour
	hourlyProbes = 3
)

// LongestPatience is how long one run is put off at most.
const LongestPatience = probeHour

// SilentDials is how many attempts an hour one address gets that does not
// answer: behind it may be somebody who never asked for us, and whoever can send
// a hello from there can send many, each of another machine. What a person asks
// for counts, and is not held up.
func SilentDials() store.Limit {
	return store.Limit{Kind: store.LatelySilent, Most: 6, Within: time.Hour}
}

// Wait is how long a run has to wait, and why; a zero time is not at all.
type Wait struct {
	Until  time.Time
	Why    string
	Paused bool // for the network's sake
}

// Patience says until when a device is left alone before a run of it begins. The
// worker obeys it, and whoever tells a person when a run comes asks it too. The
// run may be one that is yet to be made.
func Patience(ctx context.Context, tx *store.Tx, d store.Device, run store.Run, now time.Time) (Wait, error) {
	until, err := refusedLately(ctx, tx, run, now)
	if err != nil || until.After(now) {
		return Wait{Until: until, Why: "the device has refused passwords within the hour, and is not asked before, so that nobody is " +
			"locked out"}, err
	}
	until, err = tx.Full(ctx, SilentDials(), d.Address.String(), now)
	if err != nil {
		return Wait{}, err
	}
	if !until.IsZero() && run.Trigger != Asked && run.Kind != store.ProbeRun {
		return Wait{Until: until, Why: fmt.Sprintf("%d attempts within the hour met nobody at %s", SilentDials().Most, d.Address)}, nil
	}
	network := store.NetworkOf(d.Address)
	if !network.IsValid() {
		return Wait{}, nil
	}
	switch p, err := tx.PausedNetwork(ctx, network); {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return Wait{}, err
	case p.Until.After(now):
		return Wait{Paused: true, Until: p.Until, Why: fmt.Sprintf("its network %s is paused, since attempt after attempt failed there "+
			"for the network's sake", network)}, nil
	}
	return Wait{}, nil
}

// refusedLately is until when a device is left alone that refused our passwords
// within the hour: all of them, or as many as an attempt tries. The others get
// their turn when the hour is over.
func refusedLately(ctx context.Context, tx *store.Tx, run store.Run, now time.Time) (time.Time, error) {
	var until time.Time
	runs, err := tx.Runs(ctx, run.UUID, 4)
	if err != nil {
		return until, err
	}
	for _, r := range runs {
		if r.ID != run.ID && r.Reason == reason.CredentialsUnknown && r.FinishedAt.Add(probeHour).After(until) {
			until = r.FinishedAt.Add(probeHour)
		}
	}
	known, err := tx.Credentials(ctx, run.UUID, store.KindAdmin)
	if err != nil {
		return until, err
	}
	var refused []time.Time
	for _, c := range known {
		if now.Sub(c.RefusedAt) < probeHour {
			refused = append(refused, c.RefusedAt)
		}
	}
	slices.SortFunc(refused, time.Time.Compare)
	if n := len(refused); n >= hourlyProbes {
		if t := refused[n-hourlyProbes].Add(probeHour); t.After(until) {
			until = t
		}
	}
	return until, nil
}
