// Package server wires the daemon: New builds, Start serves, Stop undoes in
// reverse and may be called twice, Run is the three together.
package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/console"
	"github.com/provisiond/provisiond/server/desk"
	"github.com/provisiond/provisiond/server/doctor"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/server/provision"
	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/server/rest"
	"github.com/provisiond/provisiond/store"
)

// Server is one daemon.
type Server struct {
	o    Options
	log  *zap.Logger
	node string // name and boot nonce: no two processes ever share it

	metrics *metrics
	DB      *store.DB
	Trust   *Trust
	Desk    *desk.Desk
	Admit   *admit.Admitter
	checks  *checks
	front
	work
	stops

	failed chan error
	ready  atomic.Bool
}

// work is what carries out runs on this node.
type work struct {
	engine  *provision.Engine
	queue   *queue.Queue
	breaker *breaker
	shares  *shares
	due     dueLook
	left    leftBehind
}

// stops are the parts that Stop stops, last first.
type stops struct {
	mu   sync.Mutex
	undo []named
}

type named struct {
	what string
	do   func(context.Context) error
}

func (s *stops) onStop(what string, do func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.undo = append(s.undo, named{what, do})
}

// take returns the parts to stop, once.
func (s *stops) take() []named {
	s.mu.Lock()
	defer s.mu.Unlock()
	undo := s.undo
	s.undo = nil
	slices.Reverse(undo)
	return undo
}

// New binds both ports, so that it reports a port in use before anything
// starts.
func New(o Options) (*Server, error) {
	o = o.withDefaults()
	nonce := make([]byte, 4)
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("make the boot nonce: %w", err)
	}
	s := &Server{o: o, log: o.Log, node: o.Node + "-" + hex.EncodeToString(nonce), failed: make(chan error, 4)}
	s.metrics = newMetrics(o)
	s.breaker, s.shares = newBreaker(s), newShares(o.Workers)
	if err := s.bind(o); err != nil {
		return nil, err
	}
	if s.fds.complaint != "" {
		s.log.Warn("descriptors.few", zap.String("detail", s.fds.complaint), zap.String("hint", doctor.DescriptorsHint))
	}
	s.o.Limits.Connections = s.fds.hello
	return s, nil
}

// Ready reports whether the server takes hellos.
func (s *Server) Ready() bool { return s.ready.Load() }

// TokenFile is the path of the first admin token.
func (s *Server) TokenFile() string { return filepath.Join(s.o.DataDir, "admin.token") }

// Run serves until ctx ends or a part fails, then stops.
func (s *Server) Run(ctx context.Context) error {
	err := s.Start(ctx)
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-s.failed:
		}
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.Drain+15*time.Second)
	defer cancel()
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil
	}
	return errors.Join(err, s.Stop(stop))
}

// Start serves /readyz at once, red, then waits for the database and starts
// everything that needs it. The hello port comes last, since an accepted hello
// must be durable.
func (s *Server) Start(ctx context.Context) error {
	s.serveHTTP()
	if err := s.openStore(ctx); err != nil {
		return err
	}
	ca, err := deviceCA(ctx, s.DB, s.o.Now(), s.o.constrained())
	if err != nil {
		return err
	}
	key, err := consoleKey(ctx, s.DB)
	if err != nil {
		return err
	}
	s.Trust = NewTrust(ca, key, s.o.Now)
	if err := s.startDesk(ctx); err != nil {
		return err
	}
	if err := s.numberProfile(ctx); err != nil {
		return err
	}
	s.checks = s.newChecks()
	if err := s.startQueue(ctx); err != nil {
		return err
	}
	if err := s.startAPI(ctx); err != nil {
		return err
	}
	if err := s.startHello(); err != nil {
		return err
	}
	s.startSelfTest()
	s.ready.Store(true)
	s.log.Info("server.ready", zap.String("node", s.node), zap.String("database", s.DB.Engine()),
		zap.Stringer("hello", s.HelloAddr()), zap.Stringer("api", s.APIAddr()), zap.String("console", s.consoleURL()),
		zap.String("first_token_in", s.TokenFile()), zap.Int("certificates", len(s.Trust.All())))
	return nil
}

// consoleURL is the console's address for a browser on this machine, "" if the
// console is off.
func (s *Server) consoleURL() string {
	switch {
	case !s.o.Console:
		return ""
	case s.o.APITLS != nil:
		return "https://" + s.APIAddr().String() + "/"
	}
	return "http://" + s.APIAddr().String() + "/"
}

// Stop undoes Start in reverse: it takes no new hellos and no new work,
// finishes or hands back what is under way, then closes the store.
func (s *Server) Stop(ctx context.Context) error {
	s.ready.Store(false)
	undo := s.take()
	var errs []error
	for _, u := range undo {
		if err := u.do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", u.what, err))
		}
	}
	if !s.serving.Load() {
		s.unbind()
	}
	if len(undo) > 0 {
		s.log.Info("server.stopped", zap.String("node", s.node))
	}
	return errors.Join(errs...)
}

// fail ends Run because a part returned that should serve for ever.
func (s *Server) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

// openStore waits for a database that is not up yet, and logs that it waits.
func (s *Server) openStore(ctx context.Context) error {
	pause := 500 * time.Millisecond
	for {
		db, err := store.Open(ctx, store.Options{URL: s.o.DatabaseURL, Dir: s.o.DataDir, Keys: s.o.Keys, Log: s.log.Named("store"),
			Metrics: s.metrics.store, MaxConns: s.o.MaxConns, Slow: s.o.SlowQuery, NoMigrate: s.o.NoMigrate})
		if err == nil {
			s.DB = db
			s.onStop("the store", func(context.Context) error { return db.Close() })
			s.startFacts(ctx)
			return nil
		}
		if !errors.Is(err, store.ErrUnavailable) {
			return fmt.Errorf("open the store: %w", err)
		}
		s.log.Warn("store.down", zap.Error(err), zap.Duration("again", pause))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, 10*time.Second)
	}
}

func (s *Server) startQueue(ctx context.Context) error {
	guard := session.EgressGuard(s.o.Networks, ownAddresses)
	sessions := session.NewMetrics(s.o.Registry)
	cfg := session.Config{Control: guard, CallTimeout: s.o.CallTimeout, Now: s.o.Now, ODCARoots: s.o.ODCARoots}
	patient := session.NewDialer(cfg, s.log.Named("session"), sessions)
	cfg.RefusedPatience = -1
	once := session.NewDialer(cfg, s.log.Named("session"), sessions)

	journal := &provision.Journal{
		DB: s.DB, Node: s.node,
		Enqueue: s.enqueue, Profile: s.profileOf, Kept: s.profileKept,
		OTPRequired: func(store.Device) bool { return s.o.OTP == admit.OTPRequired },
	}
	s.Admit = admit.New(admit.Config{
		DB: s.DB, Policy: s.policy, Match: s.Trust.Candidates, Enqueue: s.enqueue, Rand: rand.Reader, Lookup: s.o.Lookup,
		Log: s.log.Named("admit"), Metrics: admit.NewMetrics(s.o.Registry),
	})
	journal.Claims = s.Admit
	tracer, err := s.startTracing(ctx)
	if err != nil {
		return err
	}
	s.engine = provision.New(provision.Config{
		Tracer: tracer,
		Store:  newLimited(s, journal), Assign: s.assignAgain, Realm: journal.Realm, Trust: s.Trust, Trusted: s.toldNames,
		Name:         journal.Name,
		ServesDomain: s.servesDomain, Clock: wallClock{}, Rand: rand.Reader,
		Names: s.o.Lookup.Resolver(), Allowed: s.mayConnect,
		Dial: func(ctx context.Context, t session.Target) (provision.Device, error) {
			d := patient
			if len(t.Logins) > 0 {
				d = once // after commit the plan itself waits for the restart
			}
			c, err := d.Dial(ctx, t)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
		Lease: s.o.Lease, Quiet: s.o.Quiet, Retry: s.o.Retry, Attempts: s.o.Attempts, AttemptFor: s.o.AttemptTimeout, Port: s.o.Port,
		MinTLS: s.o.MinTLS, ODCA: provision.ODCA(s.o.ODCA),
	}, s.log.Named("provision"), provision.NewMetrics(s.o.Registry))

	q, err := queue.New(s.DB, queue.Config{Node: s.node, Workers: s.o.Workers, Timeout: s.o.AttemptTimeout + time.Minute},
		working{s.engine, s.shares}, s.log.Named("queue"), queue.NewMetrics(s.o.Registry))
	if err != nil {
		return fmt.Errorf("make the work queue: %w", err)
	}
	s.queue = q
	s.every()
	s.checks.every()
	if err := q.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("start the work queue: %w", err)
	}
	s.onStop("the work queue", func(ctx context.Context) error {
		drain, cancel := context.WithTimeout(ctx, s.o.Drain)
		defer cancel()
		return q.Stop(drain)
	})
	return nil
}

// mayConnect reports whether provisioning.networks names a network with this
// address.
func (s *Server) mayConnect(a netip.Addr) bool {
	return slices.ContainsFunc(s.o.Networks, func(n netip.Prefix) bool { return n.Contains(a) })
}

func (s *Server) enqueue(ctx context.Context, tx *store.Tx, runID int64, at time.Time, priority int) error {
	return s.queue.EnqueueTx(ctx, tx, runID, at, priority)
}

func (s *Server) startAPI(ctx context.Context) error {
	if err := rest.EnsureAdminToken(ctx, s.DB, s.TokenFile()); err != nil {
		return fmt.Errorf("write the first admin token: %w", err)
	}
	s.api = rest.New(rest.Deps{
		DB: s.DB, Room: *s.room(),
		Reconsider: s.Admit.Reconsider, WouldStart: func(ctx context.Context, tx *store.Tx, rules []profile.Rule, made string) (int,
			error) {
			return s.Admit.WouldStart(ctx, tx, admit.Change{Rules: rules, Profile: made})
		},
		WouldStray: admit.WouldStray, DefaultProfile: s.o.Profile, NameSources: s.o.Names, Desk: s.Desk, Authority: s.Trust.ca,
		Log: s.log.Named("api"), Metrics: rest.NewMetrics(s.o.Registry), Gatherer: s.metrics.shown, OpenMetrics: s.o.OTLPEndpoint != "",
		Version: s.o.Version, Node: s.o.Node, RevealsPerHour: s.o.RevealsHour, Doctor: s.checks.api(),
	})
	if s.o.Console {
		pages, err := console.New(s.api, console.Config{SessionLifetime: s.o.Sessions, Log: s.log.Named("console")})
		if err != nil {
			return err
		}
		s.api.Mount(pages)
	}
	var h http.Handler = s.api
	s.handler.Store(&h)
	s.onStop("the API's streams", func(context.Context) error { s.api.Close(); return nil })
	return nil
}
