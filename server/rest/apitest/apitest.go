// Package apitest gives tests an API on a real store: SQLite in a folder of the
// test, or Postgres. It stands beside the API so that the console's and
// provctl's tests use the same bench.
package apitest

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/server/rest"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/seal"
	"github.com/provisiond/provisiond/store/storetest"
)

// Bench is an API with everything around it.
type Bench struct {
	TB       testing.TB
	DB       *store.DB
	API      *rest.Server
	HTTP     *httptest.Server
	Registry *prometheus.Registry
	Logs     *observer.ObservedLogs
	Dir      string // holds admin.token
	Admin    string // the first admin token

	deps rest.Deps

	mu       sync.Mutex
	enqueued []int64
}

// Option changes what New builds.
type Option func(*options)

type options struct {
	postgres bool
	deps     func(*rest.Deps)
}

// OnPostgres uses Postgres instead of SQLite.
func OnPostgres(o *options) { o.postgres = true }

// With lets a test change what the API stands on.
func With(f func(*rest.Deps)) Option { return func(o *options) { o.deps = f } }

// New starts an API on a port of its own; the test's end takes it down.
func New(tb testing.TB, opts ...Option) *Bench {
	tb.Helper()
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	core, logs := observer.New(zapcore.DebugLevel)
	b := &Bench{TB: tb, Registry: prometheus.NewRegistry(), Logs: logs, Dir: tb.TempDir()}
	keys, err := seal.New([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		tb.Fatal(err)
	}
	engine := store.SQLite
	if o.postgres {
		engine = store.Postgres
	}
	where := storetest.Options(tb, engine)
	where.Keys, where.Log = keys, zap.NewNop()
	if b.DB, err = store.Open(tb.Context(), where); err != nil {
		tb.Fatalf("open the store: %v", err)
	}
	deps := rest.Deps{
		DB: b.DB, Room: operate.Room{StartRun: startRun, Enqueue: b.enqueue}, Log: zap.New(core), Metrics: rest.NewMetrics(b.Registry),
		Gatherer: b.Registry,
		Version:  "test", Node: "n1", RevealsPerHour: rest.DefaultReveals,
	}
	if o.deps != nil {
		o.deps(&deps)
	}
	b.deps = deps
	b.API = rest.New(deps)
	b.HTTP = httptest.NewServer(b.API)
	tb.Cleanup(func() {
		b.API.Close()
		b.HTTP.Close()
		if err := b.DB.Close(); err != nil {
			tb.Errorf("close the store: %v", err)
		}
	})
	storetest.HoldRoads(tb, b.DB)
	if err := rest.EnsureAdminToken(tb.Context(), b.DB, b.TokenFile()); err != nil {
		tb.Fatal(err)
	}
	text, err := os.ReadFile(b.TokenFile())
	if err != nil {
		tb.Fatal(err)
	}
	b.Admin = strings.TrimSpace(string(text))
	return b
}

// Second starts another API on the same store, as another node or a daemon that
// was started again has it.
func (b *Bench) Second() *Bench {
	b.TB.Helper()
	deps := b.deps
	deps.Node, deps.Metrics, deps.Gatherer = "n2", rest.NewMetrics(prometheus.NewRegistry()), nil
	other := &Bench{TB: b.TB, DB: b.DB, API: rest.New(deps), Dir: b.Dir, Admin: b.Admin, deps: deps}
	other.HTTP = httptest.NewServer(other.API)
	b.TB.Cleanup(func() {
		other.API.Close()
		other.HTTP.Close()
	})
	return other
}

// TokenFile holds the first admin token.
func (b *Bench) TokenFile() string { return filepath.Join(b.Dir, "admin.token") }

// Client asks with a token; "" is none.
func (b *Bench) Client(token string) *api.Client {
	return &api.Client{Base: b.HTTP.URL, Token: token, HTTP: b.HTTP.Client()}
}

// Token makes a token of a role.
func (b *Bench) Token(role api.Role) string {
	b.TB.Helper()
	t, err := b.Client(b.Admin).CreateToken(b.TB.Context(), api.NewToken{Name: "t-" + string(role), Role: string(role)})
	if err != nil {
		b.TB.Fatal(err)
	}
	return t.Secret
}

// Enqueued lists the runs that a worker was nudged for.
func (b *Bench) Enqueued() []int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]int64(nil), b.enqueued...)
}

func (b *Bench) enqueue(_ context.Context, _ *store.Tx, runID int64, _ time.Time, _ int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.enqueued = append(b.enqueued, runID)
	return nil
}

// Write runs fn in a transaction.
func (b *Bench) Write(fn func(ctx context.Context, tx *store.Tx) error) {
	b.TB.Helper()
	ctx := b.TB.Context()
	if err := b.DB.Write(ctx, func(tx *store.Tx) error { return fn(ctx, tx) }); err != nil {
		b.TB.Fatalf("write: %v", err)
	}
}

// Say adds an event that concerns no device.
func (b *Bench) Say(name string) {
	b.TB.Helper()
	b.Write(func(ctx context.Context, tx *store.Tx) error {
		_, err := tx.AddEvent(ctx, store.Event{Name: name, Actor: "system"})
		return err
	})
}

// Read runs fn on what is committed.
func (b *Bench) Read(fn func(ctx context.Context, tx *store.Tx) error) {
	b.TB.Helper()
	ctx := b.TB.Context()
	if err := b.DB.Read(ctx, func(tx *store.Tx) error { return fn(ctx, tx) }); err != nil {
		b.TB.Fatalf("read: %v", err)
	}
}

// Device is what a test wants to be true of a device.
type Device struct {
	UUID      amt.UUID
	Address   string // 10.0.0.1 when empty
	Lifecycle store.Lifecycle
	Reason    reason.Code
	Detail    string
	Facts     store.DeviceFacts
	Hashes    []amt.TrustHash
}

// Seen makes a device that said hello and stands where d says.
func (b *Bench) Seen(d Device) amt.UUID {
	b.TB.Helper()
	if d.UUID.IsZero() {
		_, _ = rand.Read(d.UUID[:])
	}
	if d.Address == "" {
		d.Address = "10.0.0.1"
	}
	a := netip.MustParseAddr(d.Address)
	b.Write(func(ctx context.Context, tx *store.Tx) error {
		if _, _, err := tx.SeeHello(ctx, store.SeenHello{UUID: d.UUID, From: netip.AddrPortFrom(a, 40000), Address: a, Via: "plain",
			Version: 3, Hashes: d.Hashes}); err != nil {
			return err
		}
		if _, err := tx.AddEvent(ctx, store.Event{UUID: d.UUID, Name: "hello_received", Actor: "system",
			Data: map[string]any{"address": d.Address}}); err != nil {
			return err
		}
		if err := tx.UpdateDevice(ctx, d.UUID, d.Facts); err != nil {
			return err
		}
		if d.Lifecycle == "" || d.Lifecycle == store.Discovered {
			return nil
		}
		return tx.Transition(ctx, store.Transition{UUID: d.UUID, To: d.Lifecycle, Reason: d.Reason, Detail: d.Detail,
			Event: "test_" + string(d.Lifecycle), Actor: "system"})
	})
	return d.UUID
}

// Provisioned makes a device under management whose passwords are known.
func (b *Bench) Provisioned(d Device, admin, mebx string) amt.UUID {
	b.TB.Helper()
	u := b.Seen(d)
	b.Write(func(ctx context.Context, tx *store.Tx) error {
		run, err := tx.CreateRun(ctx, store.NewRun{UUID: u, Kind: "provision", Trigger: "hello"})
		if err != nil {
			return err
		}
		if _, err := tx.StageCredentials(ctx, u, run.ID, amt.NewSecret(admin), amt.NewSecret(mebx)); err != nil {
			return err
		}
		for _, kind := range []string{store.KindAdmin, store.KindMEBx} {
			list, err := tx.Credentials(ctx, u, kind)
			if err != nil {
				return err
			}
			if err := tx.MarkSent(ctx, list[0].ID, "admin", "Digest:A4070000", []byte{1, 2, 3}, netip.MustParseAddr("10.0.0.1"),
				false); err != nil {
				return err
			}
			if err := tx.Activate(ctx, list[0].ID); err != nil {
				return err
			}
		}
		now := tx.Now()
		steps := []store.StepRecord{
			{Seq: 1, Name: "connect", State: "done", Attempt: 1, StartedAt: now, FinishedAt: now.Add(40 * time.Millisecond)},
			{Seq: 2, Name: "commit", State: "done", Attempt: 1, StartedAt: now, FinishedAt: now.Add(90 * time.Millisecond)},
		}
		if err := tx.PutSteps(ctx, run.ID, steps); err != nil {
			return err
		}
		if err := tx.FinishRun(ctx, run.ID, store.RunDone, "", "", "none"); err != nil {
			return err
		}
		if err := tx.UpdateDevice(ctx, u, store.DeviceFacts{ProvisionedAt: &now}); err != nil {
			return err
		}
		return tx.Transition(ctx, store.Transition{UUID: u, To: store.Provisioned, Event: "verified", Actor: "node:n1", RunID: run.ID})
	})
	return u
}

func startRun(ctx context.Context, tx *store.Tx, u amt.UUID, kind, trigger, profile string, at time.Time) (store.Run, error) {
	run, err := tx.CreateRun(ctx, store.NewRun{UUID: u, Kind: kind, Trigger: trigger, Profile: profile, NotBefore: at})
	if err != nil {
		return run, err
	}
	_, err = tx.StageCredentials(ctx, u, run.ID, amt.NewSecret("Canary-Admin-1!"), amt.NewSecret("Canary-Mebx-1!"))
	return run, err
}

// Get asks for a path with a token and gives the answer back, body read by the caller.
func (b *Bench) Get(path, token string) *http.Response {
	b.TB.Helper()
	return b.Do(http.MethodGet, path, token, "")
}

// Do asks anything; a body makes it JSON.
func (b *Bench) Do(method, path, token, body string) *http.Response {
	b.TB.Helper()
	req, err := http.NewRequestWithContext(b.TB.Context(), method, b.HTTP.URL+path, strings.NewReader(body))
	if err != nil {
		b.TB.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := b.HTTP.Client().Do(req)
	if err != nil {
		b.TB.Fatal(err)
	}
	b.TB.Cleanup(func() { resp.Body.Close() })
	return resp
}
