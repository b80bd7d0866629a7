package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"runtime/debug"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/desk"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// Deps is what the API stands on. DB, StartRun, Enqueue, Log and Metrics are
// needed; the rest may be left out.
type Deps struct {
	DB *store.DB
	operate.Room
	// Reconsider asks again about devices that wait, after something they may
	// have waited for was changed (admit.Reconsider); nil leaves it to a timer.
	Reconsider func(ctx context.Context) (started int, err error)
	// WouldStart counts the runs that Reconsider would start if these were the rules
	// (nil: as they are) and there were a profile of this name ("": as it is).
	WouldStart func(ctx context.Context, tx *store.Tx, rules []profile.Rule, profile string) (int, error)
	// WouldStray counts managed devices, by the profile that they have and the one
	// that they would be given, if these were the rules.
	WouldStray func(ctx context.Context, tx *store.Tx, rules []profile.Rule) (map[[2]string]int, error)
	// DefaultProfile is the configuration's.
	DefaultProfile profile.Profile
	// NameSources are asked for the name of a device that no rule speaks of;
	// empty: profile.DefaultSources.
	NameSources []profile.Source
	// Desk handles provisioning certificates; without it they are only listed.
	Desk *desk.Desk
	// Authority is the device CA, which issues certificates for other consoles.
	Authority *certs.Authority
	// Ready is one more part of /readyz beside the database; Parts are further
	// ones with names of their own.
	Ready func(ctx context.Context) error
	Parts []Part

	Log      *zap.Logger
	Metrics  *Metrics
	Gatherer prometheus.Gatherer // what /metrics shows
	// OpenMetrics offers that form too, the only one that carries exemplars. It
	// writes le="1.0" for le="1", which breaks a series once.
	OpenMetrics bool

	Version, Node  string
	RevealsPerHour int // passwords one token may read in an hour; 0 forbids it, see DefaultReveals

	Doctor Doctor
}

// DefaultReveals is how many passwords a token may read in an hour unless the
// configuration says otherwise.
const DefaultReveals = 30

// Part is one thing the server needs to be ready.
type Part struct {
	Name  string
	Check func(ctx context.Context) error
}

// Server answers the API. It holds no state that matters: limits and caches only.
type Server struct {
	Deps
	db      *store.DB
	log     *zap.Logger
	metrics *Metrics
	now     func() time.Time

	mux     *chi.Mux
	openAPI *huma.OpenAPI
	rest    http.Handler // what is not the API's: the console

	recent   tokenCache
	failures failureLimits
	latest   latestEvent
	counts   counter

	closing   chan struct{}
	closeOnce sync.Once
	streams   chan struct{} // one slot for each open stream
}

const maxStreams = 64

// New wires the API; nothing starts.
func New(d Deps) *Server {
	s := &Server{Deps: d, db: d.DB, log: d.Log, metrics: d.Metrics, now: d.Now, closing: make(chan struct{}),
		streams: make(chan struct{}, maxStreams)}
	if s.now == nil {
		s.now = time.Now
	}
	s.mux = chi.NewMux()
	s.mux.Use(s.observe, s.recoverer, hardened)
	s.mux.NotFound(s.notFound)
	s.mux.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		write(w, api.NewProblem(http.StatusMethodNotAllowed, api.CodeInvalid, "%s is not possible here", r.Method))
	})
	s.mux.Get("/healthz", s.healthz)
	s.mux.Get("/readyz", s.readyz)
	if d.Gatherer != nil {
		s.mux.Method(http.MethodGet, "/metrics", promhttp.HandlerFor(d.Gatherer, promhttp.HandlerOpts{
			ErrorLog: zap.NewStdLog(d.Log), ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 8, Timeout: 30 * time.Second,
			EnableOpenMetrics: d.OpenMetrics,
		}))
	}
	s.mux.Group(func(r chi.Router) {
		r.Use(s.authenticate, legibleAddress)
		to := humachi.New(r, s.humaConfig())
		to.UseMiddleware(s.authorise(to))
		s.openAPI = to.OpenAPI()
		s.routes(to)
	})
	for _, pattern := range []string{"/healthz", "/readyz", "/metrics", "console", "none"} {
		s.metrics.route(pattern, "GET", 200)
	}
	return s
}

// Mount gives everything that is not the API's to h. Call it before serving.
func (s *Server) Mount(h http.Handler) { s.rest = h }

// Close ends the open streams, so that an http.Server can shut down:
// register it with RegisterOnShutdown. It may be called twice.
func (s *Server) Close() { s.closeOnce.Do(func() { close(s.closing) }) }

// ServeHTTP answers one request. Whoever asks for the events as a stream gets
// the stream, as a browser's EventSource does.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	accept := r.Header.Get("Accept")
	if r.URL.Path == "/api/v1/events" && strings.Contains(accept, "text/event-stream") && !strings.Contains(accept, "application/json") {
		stream := r.Clone(r.Context())
		stream.URL.Path = "/api/v1/events/stream"
		r = stream
	}
	s.mux.ServeHTTP(w, r)
}

func (s *Server) humaConfig() huma.Config {
	c := huma.DefaultConfig("provisiond", s.Version)
	c.OpenAPIPath = "/api/v1/openapi"
	c.DocsPath, c.SchemasPath, c.CreateHooks = "", "", nil // no scripts from elsewhere, no $schema in bodies
	c.RejectUnknownQueryParameters = true
	c.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	c.Transformers = []huma.Transformer{asProblem}
	c.Info.Description = "Provisioning of Intel AMT devices. Every operation under /api/ needs a bearer token; errors are RFC 9457 " +
		"problems with a code."
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}}
	c.Security = []map[string][]string{{"token": {}}}
	return c
}

// schemaName tells types of other packages apart from those of this one that
// have the same name.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if strings.HasSuffix(t.PkgPath(), "/certs") {
		return "Chain" + name
	}
	return name
}

// body is an answer with nothing but a body.
type body[T any] struct {
	Body T
}

// none is an input without anything in it.
type none struct{}

// add registers one operation. Its id has to be in the table of roles.
func add[I, O any](s *Server, to huma.API, op huma.Operation, fn func(ctx context.Context, in *I) (O, error)) {
	if _, known := api.Allowed(op.OperationID); !known {
		panic("rest: operation " + op.OperationID + " is not in the table of roles")
	}
	s.document(to, &op)
	huma.Register(to, op, func(ctx context.Context, in *I) (*body[O], error) {
		out, err := fn(ctx, in)
		if err != nil {
			return nil, s.explain(ctx, op.OperationID, err)
		}
		return &body[O]{out}, nil
	})
	ok := op.DefaultStatus
	if ok == 0 {
		ok = http.StatusOK
	}
	s.metrics.route(op.Path, op.Method, ok, http.StatusInternalServerError)
}

// document says what errors look like and who may call.
func (s *Server) document(to huma.API, op *huma.Operation) {
	schema := to.OpenAPI().Components.Schemas.Schema(problemType, true, "Problem")
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	op.Responses["default"] = &huma.Response{Description: "A problem",
		Content: map[string]*huma.MediaType{"application/problem+json": {Schema: schema}}}
	op.Description = strings.TrimSpace(op.Description + "\n\nRoles: " + callers(op.OperationID) + ".")
}

// callers names the roles that may call an operation.
func callers(operation string) string {
	who := []string{string(api.Admin)}
	roles, _ := api.Allowed(operation)
	for _, r := range roles {
		who = append(who, string(r))
	}
	return strings.Join(who, ", ")
}

// authorise is the one place where roles are asked for.
func (s *Server) authorise(to huma.API) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		p, ok := PrincipalOf(ctx.Context())
		op := ctx.Operation().OperationID
		if !ok || !p.Role.May(op) {
			s.metrics.authFailed("role")
			if op == "reveal-secret" {
				s.metrics.secretRead(p.Role, secretDenied)
			}
			s.log.Warn("api.role_missing", zap.String("operation", op), zap.String("actor", p.Actor()), zap.String("role", string(p.Role)))
			_, w := humachi.Unwrap(ctx)
			write(w, api.NewProblem(http.StatusForbidden, api.CodeForbidden, "this token has the role %s; %s needs one of: %s", p.Role, op,
				callers(op)))
			return
		}
		next(ctx)
	}
}

func (s *Server) routes(to huma.API) {
	s.deviceRoutes(to)
	s.actionRoutes(to)
	s.admissionRoutes(to)
	s.addressRoutes(to)
	s.ruleRoutes(to)
	s.profileRoutes(to)
	s.orderRoutes(to)
	s.jobRoutes(to)
	s.secretRoutes(to)
	s.revealRoute(to)
	s.eventRoutes(to)
	s.fleetRoutes(to)
	s.helloRoutes(to)
	s.auditRoutes(to)
	s.userRoutes(to)
	s.tokenRoutes(to)
	s.doctorRoutes(to)
	s.certRoutes(to)
	s.consoleRoutes(to)
}

// OpenAPI is the description of all routes.
func (s *Server) OpenAPI() *huma.OpenAPI { return s.openAPI }

func (s *Server) notFound(w http.ResponseWriter, r *http.Request) {
	if s.rest != nil && !strings.HasPrefix(r.URL.Path, "/api/") {
		s.rest.ServeHTTP(w, r)
		return
	}
	write(w, api.NewProblem(http.StatusNotFound, api.CodeNotFound, "there is nothing at %s; the routes are in /api/v1/openapi.json",
		api.Clip(r.URL.Path, 80)))
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, api.Health{Status: "ok", Parts: []api.HealthPart{}})
}

// readyz is red when one part is: a balancer then sends hellos elsewhere.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	parts := []Part{{"database", s.db.Ping}}
	if s.Ready != nil {
		parts = append(parts, Part{"server", s.Ready})
	}
	parts = append(parts, s.Parts...)
	h := api.Health{Status: "ok"}
	for _, p := range parts {
		hp := api.HealthPart{Name: p.Name, Status: "ok"}
		if err := p.Check(ctx); err != nil {
			hp.Status, hp.Detail, h.Status = "failing", err.Error(), "failing"
		}
		h.Parts = append(h.Parts, hp)
	}
	status := http.StatusOK
	if h.Status != "ok" {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, h)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// observe counts and times every request under the pattern of its route.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := s.now()
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		defer func() {
			pattern := chi.RouteContext(r.Context()).RoutePattern()
			if pattern == "" {
				pattern = "console"
				if strings.HasPrefix(r.URL.Path, "/api/") || s.rest == nil {
					pattern = "none"
				}
			}
			status := ww.Status()
			if status == 0 {
				status = http.StatusOK
			}
			stream := strings.HasPrefix(ww.Header().Get("Content-Type"), "text/event-stream")
			s.metrics.answered(pattern, r.Method, status, s.now().Sub(start), stream)
		}()
		next.ServeHTTP(ww, r)
	})
}

func (s *Server) recoverer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v)
			}
			s.log.Error("api.panic", zap.String("path", api.Clip(r.URL.Path, 80)), zap.String("panic", fmt.Sprint(v)),
				zap.ByteString("stack", debug.Stack()))
			write(w, api.NewProblem(http.StatusInternalServerError, api.CodeInternal, "the server failed at this; its log says why"))
		}()
		next.ServeHTTP(w, r)
	})
}

// legibleAddress refuses letters that no text has: SQLite takes them, and Postgres
// does not.
func legibleAddress(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fields := map[string][]string{"path": {r.URL.Path}}
		for name, values := range r.URL.Query() {
			fields["query."+name] = values
		}
		for field, values := range fields {
			if all := strings.Join(values, ""); strings.ContainsRune(all, 0) || !utf8.ValidString(all) {
				write(w, refusal(operate.WrongField(field, "holds a zero byte or bytes that are no UTF-8")))
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// hardened sets what every answer should carry; the console sets its own policy
// for content.
func hardened(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		if r.TLS != nil {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		next.ServeHTTP(w, r)
	})
}
