// Package server wires the daemon: New builds, Start serves, Stop undoes in
// reverse and may be called twice, Run is the three together.
package server

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/door"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/api"
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
	breaker *breaker
	shares  *shares
	fds     descriptors
	swept   atomic.Bool
	helloL  net.Listener
	apiL    net.Listener
	http    *http.Server
	handler atomic.Pointer[http.Handler]

	DB     *store.DB
	Trust  *Trust
	Desk   *desk.Desk
	Admit  *admit.Admitter
	engine *provision.Engine
	queue  *queue.Queue
	hello  *hello.Server
	api    *rest.Server
	checks *checks

	dueMu    sync.Mutex         // only one goroutine looks for due devices at a time
	dueAfter uuidT              // the last device that the timer of maintenance looked at
	found    map[int64]foundRun // the runs to which the sweep gave another job

	mu      sync.Mutex
	undo    []named // what Stop calls, last first
	failed  chan error
	serving atomic.Bool
	ready   atomic.Bool
}

type named struct {
	what string
	do   func(context.Context) error
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
	if s.fds = shareDescriptors(mayOpen(), o.Limits.Connections, o.APIConnections, o.Workers, o.MaxConns); s.fds.complaint != "" {
		s.log.Warn("descriptors.few", zap.String("detail", s.fds.complaint), zap.String("hint", doctor.DescriptorsHint))
	}
	s.o.Limits.Connections = s.fds.hello
	var err error
	if s.helloL, err = listen(o.HelloListener, o.HelloListen, "hello.listen"); err != nil {
		return nil, err
	}
	if s.apiL, err = listen(o.APIListener, o.APIListen, "api.listen"); err != nil {
		_ = s.helloL.Close()
		return nil, err
	}
	return s, nil
}

// HelloAddr is the address for hellos, APIAddr that of the API.
func (s *Server) HelloAddr() net.Addr { return s.helloL.Addr() }
func (s *Server) APIAddr() net.Addr   { return s.apiL.Addr() }

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
	s.mu.Lock()
	undo := s.undo
	s.undo = nil
	s.mu.Unlock()
	var errs []error
	for _, u := range slices.Backward(undo) {
		if err := u.do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", u.what, err))
		}
	}
	if !s.serving.Load() {
		_ = s.helloL.Close()
		_ = s.apiL.Close()
	}
	if len(undo) > 0 {
		s.log.Info("server.stopped", zap.String("node", s.node))
	}
	return errors.Join(errs...)
}

func (s *Server) onStop(what string, do func(context.Context) error) {
	s.mu.Lock()
	s.undo = append(s.undo, named{what, do})
	s.mu.Unlock()
}

// fail ends Run because a part returned that should serve for ever.
func (s *Server) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

func (s *Server) serveHTTP() {
	var starting http.Handler = http.HandlerFunc(s.notYet)
	s.handler.Store(&starting)
	s.http = &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*s.handler.Load()).ServeHTTP(w, r) }),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: zap.NewStdLog(s.log.Named("http")),
	}
	if s.o.APITLS != nil {
		s.http.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.o.APITLS(), nil }}
	}
	guarded := &apiDoor{Listener: s.apiL, door: door.New(s.fds.api, s.o.APIPerSource), metrics: s.metrics.doorMetrics}
	guarded.behind(s.http)
	s.serving.Store(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var err error
		if s.o.APITLS != nil {
			err = s.http.ServeTLS(guarded, "", "")
		} else {
			err = s.http.Serve(guarded)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			s.fail(fmt.Errorf("serve the API: %w", err))
		}
	}()
	s.onStop("the API", func(ctx context.Context) error {
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err := s.http.Shutdown(short)
		if err != nil {
			err = s.http.Close()
		}
		<-done
		_ = s.helloL.Close()
		return err
	})
}

// notYet answers while the database is away.
func (s *Server) notYet(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/healthz":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintln(w, `{"status":"ok"}`)
	case "/metrics":
		s.metrics.handler.ServeHTTP(w, r)
	default:
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusServiceUnavailable)
		_ = json.NewEncoder(w).Encode(api.Health{Status: "starting",
			Parts: []api.HealthPart{{Name: "database", Status: "failing", Detail: "the database does not answer yet; see the log"}}})
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
		Store:  newLimited(s, journal), Assign: s.assignAgain, Realm: journal.Realm, Trust: s.Trust, Trusted: s.toldNames, Name: journal.Name,
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
		DB: s.DB, StartRun: startRun,
		Reconsider: s.Admit.Reconsider, WouldStart: func(ctx context.Context, tx *store.Tx, rules []profile.Rule, made string) (int, error) {
			return s.Admit.WouldStart(ctx, tx, admit.Change{Rules: rules, Profile: made})
		}, WouldStray: admit.WouldStray, DefaultProfile: s.o.Profile, NameSources: s.o.Names, Enqueue: s.enqueue, Certs: s.Trust.All,
		Desk: s.Desk, Authority: s.Trust.ca, Log: s.log.Named("api"), Metrics: rest.NewMetrics(s.o.Registry), Gatherer: s.metrics.shown,
		OpenMetrics: s.o.OTLPEndpoint != "",
		Version:     s.o.Version, Node: s.o.Node, RevealsPerHour: s.o.RevealsHour, MostAttempts: s.o.Attempts,
		SecondApprover: s.o.SecondApprover, SecondApproverAbove: s.o.SecondApproverAbove, Canary: s.canary(), WavePace: s.wavePace(),
		Networks: s.o.Networks, Zones: s.o.Zones, HelloAt: s.HelloAddr().String(), Now: s.o.Now,
		Doctor: s.checks.api(),
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

func (s *Server) startHello() error {
	kept, err := newSpool(s.o.DataDir, failpointHandler{s.Admit, s.engine.Failpoint}, s.log.Named("hello"), s.o.Registry)
	if err != nil {
		return err
	}
	replay, stop := context.WithCancel(context.Background())
	replayed := make(chan struct{})
	go func() {
		defer close(replayed)
		for tick := time.NewTicker(2 * time.Second); ; {
			if err := kept.replay(replay); err != nil {
				s.log.Warn("hello.spool", zap.Error(err))
			}
			select {
			case <-replay.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
		}
	}()
	s.onStop("the hello spool", func(context.Context) error {
		stop()
		<-replayed
		return kept.close()
	})
	s.hello = hello.NewServer(hello.Config{
		Limits: s.o.Limits, ClientCAs: s.o.ClientCAs, Certificate: s.Trust.helloCertificate, PlainOff: s.o.PlainOff,
		ProxyFrom: s.o.ProxyFrom, ReadTimeout: s.o.ReadTimeout, Known: s.Admit.Knows,
	}, kept, s.log.Named("hello"), hello.NewMetrics(s.o.Registry))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.hello.Serve(s.helloL); !errors.Is(err, hello.ErrServerClosed) {
			s.fail(fmt.Errorf("take hellos: %w", err))
		}
	}()
	s.onStop("the hello listener", func(ctx context.Context) error {
		short, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		err := s.hello.Shutdown(short)
		<-done
		return err
	})
	return nil
}
