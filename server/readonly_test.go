package server

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// TestStartWaitsForADatabaseThatTakesWrites: a standby that is not promoted yet
// ends no daemon; it says what is the matter, and serves when that is over.
func TestStartWaitsForADatabaseThatTakesWrites(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.Postgres, nil)
	if err := l.s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	readOnly := func(word string) {
		t.Helper()
		c, err := pgx.Connect(t.Context(), l.o.DatabaseURL+"&default_transaction_read_only=off")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context())
		if _, err := c.Exec(t.Context(), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = `+word+
			`', current_database()); END $$`); err != nil {
			t.Fatal(err)
		}
	}
	readOnly("on")
	core, seen := observer.New(zapcore.WarnLevel)
	l.o.Registry, l.o.Log = prometheus.NewRegistry(), zap.New(core)
	next, err := New(l.o)
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() { started <- next.Start(t.Context()) }()
	if !waitFor(t, func() bool {
		down := seen.FilterMessage("store.down").All()
		return len(down) > 0 && strings.Contains(down[0].ContextMap()["error"].(string), "takes no writes")
	}) {
		t.Fatalf("it does not say what is the matter: %v", seen.All())
	}
	readOnly("off")
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	l.s = next
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := next.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	d := l.device(sim.Faults{})
	l.says(d)
	l.untilState(d.UUID(), store.Provisioned)
}
