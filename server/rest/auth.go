package rest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/store"
)

// tokenPrefix lets scanners for leaked secrets know a token when they see one.
const tokenPrefix = "pvd_"

// sessionPrefix begins what the cookie of a console login holds.
const sessionPrefix = "pvs_"

type principalKey struct{}

// WithPrincipal lets code of this process ask in the name of p.
func WithPrincipal(ctx context.Context, p operate.Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalOf is who is asking; false when nobody has been made out.
func PrincipalOf(ctx context.Context) (operate.Principal, bool) {
	p, ok := ctx.Value(principalKey{}).(operate.Principal)
	return p, ok
}

type vouchKey struct{}

// WithVouch lets code that serves connections know that the request of a
// connection is one of somebody known: vouch is called then.
func WithVouch(ctx context.Context, vouch func()) context.Context {
	return context.WithValue(ctx, vouchKey{}, vouch)
}

func vouch(ctx context.Context) {
	if f, ok := ctx.Value(vouchKey{}).(func()); ok {
		f()
	}
}

// newToken makes the text of a token or of a session, 256 random bits, and what
// is stored of it.
func newToken(prefix string) (text string, hash []byte) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // does not fail: the runtime ends the process instead
	text = prefix + base64.RawURLEncoding.EncodeToString(b[:])
	return text, hashToken(text)
}

func hashToken(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

// EnsureAdminToken makes a first admin token when the store has none of its
// name, and writes its text to path with mode 0600. An existing file whose token
// is still good is left alone; a file that is gone is replaced by a new token,
// since the text of the old one is nowhere.
func EnsureAdminToken(ctx context.Context, db *store.DB, path string) error {
	if text, err := os.ReadFile(path); err == nil {
		var t store.Token
		err := db.Read(ctx, func(tx *store.Tx) (err error) {
			t, err = tx.TokenByHash(ctx, hashToken(strings.TrimSpace(string(text))))
			return err
		})
		if err == nil && live(t, time.Now()) {
			return nil
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("look up the first admin token: %w", err)
		}
	}
	text, hash := newToken(tokenPrefix)
	// The file comes first: a token that is in the store and in no file would be
	// one that nobody can use and somebody has to notice.
	if err := writePrivate(path, text+"\n"); err != nil {
		return fmt.Errorf("write the first admin token: %w", err)
	}
	err := db.Write(ctx, func(tx *store.Tx) error {
		all, err := tx.Tokens(ctx)
		if err != nil {
			return err
		}
		users, err := tx.Users(ctx)
		if err != nil {
			return err
		}
		// A user who was disabled stays so: whoever may read our files gets a new one.
		taken := func(name string) bool {
			return slices.ContainsFunc(all, func(t store.Token) bool { return t.Name == name }) ||
				slices.ContainsFunc(users, func(u store.User) bool { return u.Name == name })
		}
		name := "first-admin"
		for n := 2; taken(name); n++ {
			name = fmt.Sprintf("first-admin-%d", n)
		}
		return createToken(ctx, tx, store.Token{Name: name, User: name, Role: string(api.Admin), Hash: hash, CreatedBy: "system"}, 0)
	})
	if err != nil {
		return fmt.Errorf("store the first admin token: %w", err)
	}
	return nil
}

// writePrivate replaces a file at once, readable by us alone.
func writePrivate(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".token-*") // made with mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

func live(t store.Token, now time.Time) bool {
	return t.RevokedAt.IsZero() && (t.ExpiresAt.IsZero() || now.Before(t.ExpiresAt))
}

// authenticate puts the principal into the context or answers 401.
func (s *Server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := PrincipalOf(r.Context()); ok { // asked from inside this process
			next.ServeHTTP(w, r)
			return
		}
		scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			text = ""
		}
		p, err := s.Authenticate(r.Context(), strings.TrimSpace(text), r.RemoteAddr)
		if err != nil {
			var refused *api.Problem
			if !errors.As(err, &refused) {
				errors.As(s.explain(r.Context(), "authenticate", err), &refused)
			}
			switch refused.Status {
			case http.StatusUnauthorized:
				w.Header().Set("WWW-Authenticate", `Bearer realm="provisiond"`)
			case http.StatusTooManyRequests:
				w.Header().Set("Retry-After", "60")
			}
			write(w, refused)
			return
		}
		next.ServeHTTP(w, r.WithContext(WithPrincipal(r.Context(), p)))
	})
}

// Authenticate finds whose token or console login text is. source is the caller's host:port;
// failures are counted for it, and after too many of them it may ask less often.
// A good token works even then: somebody else behind the same address must not
// be able to lock an operator out.
func (s *Server) Authenticate(ctx context.Context, text, source string) (operate.Principal, error) {
	hash, find := hashToken(text), (*store.Tx).TokenByHash
	if strings.HasPrefix(text, sessionPrefix) {
		find = (*store.Tx).SessionByHash
	}
	t, fresh, known := s.recent.get(hash, s.now())
	if fresh {
		vouch(ctx)
		return principalOf(t), nil
	}
	tooMany := api.NewProblem(http.StatusTooManyRequests, api.CodeLimited, "too many failed logins from this address; wait a minute")
	exhausted, ask := s.failures.exhausted(source, s.now())
	if !ask && !known {
		s.metrics.authFailed("limited")
		return operate.Principal{}, tooMany
	}
	if text == "" {
		// Not counted against the source: a browser that shows the login page is no attack.
		s.metrics.authFailed("missing")
		return operate.Principal{}, api.NewProblem(http.StatusUnauthorized, api.CodeUnknown, "this needs a token: Authorization: Bearer …")
	}
	err := s.db.Read(ctx, func(tx *store.Tx) (err error) {
		t, err = find(tx, ctx, hash)
		return err
	})
	why := ""
	switch {
	case errors.Is(err, store.ErrNotFound):
		why = "unknown"
	case err != nil && ctx.Err() == nil:
		s.log.Error("api.token_lookup", zap.Error(err))
		return operate.Principal{}, api.NewProblem(http.StatusServiceUnavailable, api.CodeUnavailable,
			"the database does not answer, so no token can be checked; /readyz says more")
	case err != nil:
		return operate.Principal{}, fmt.Errorf("look up the token: %w", err)
	case subtle.ConstantTimeCompare(t.Hash, hash) != 1:
		why = "unknown"
	case !t.RevokedAt.IsZero():
		why = "revoked"
	case !live(t, s.now()):
		why = "expired"
	case !api.Role(t.Role).Valid():
		why = "unknown"
	}
	if why != "" {
		s.recent.drop(hash)
	}
	if why != "" && exhausted {
		s.metrics.authFailed("limited")
		return operate.Principal{}, tooMany
	}
	if why != "" {
		s.failures.note(source, s.now())
		s.metrics.authFailed(why)
		s.log.Warn("api.auth_failed", zap.String("reason", why), zap.String("peer", source))
		return operate.Principal{}, api.NewProblem(http.StatusUnauthorized, api.CodeUnknown, "the token is unknown, revoked or expired")
	}
	s.recent.put(hash, t, s.now())
	s.touch(ctx, t)
	vouch(ctx)
	return principalOf(t), nil
}

// touch remembers when a token was last used, once in ten minutes.
func (s *Server) touch(ctx context.Context, t store.Token) {
	if s.now().Sub(t.LastUsed) < 10*time.Minute {
		return
	}
	if err := s.db.Write(ctx, func(tx *store.Tx) error { return tx.UsedToken(ctx, t.ID) }); err != nil {
		s.log.Warn("api.token_touch", zap.Error(err)) // worth a line, not worth refusing a good token
	}
}

// principalOf is the same for a token and for a session made with it, so that
// limits and records follow the person and not the login.
func principalOf(t store.Token) operate.Principal {
	return operate.Principal{ID: t.ID, Name: t.Name, User: t.User, Role: api.Role(t.Role)}
}

// A tokenCache spares the database the question for every request of a page. It
// keeps answers so briefly that a revocation on another node works in seconds. Which
// tokens were good it knows for longer: who shows one of them may always ask.
type tokenCache struct {
	mu      sync.Mutex
	entries map[string]cachedToken
}

type cachedToken struct {
	token store.Token
	until time.Time
}

const (
	tokenFresh = 3 * time.Second
	tokenCap   = 1024
)

func (c *tokenCache) get(hash []byte, now time.Time) (t store.Token, fresh, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, known := c.entries[string(hash)]
	return e.token, known && now.Before(e.until) && live(e.token, now), known
}

func (c *tokenCache) drop(hash []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, string(hash))
}

func (c *tokenCache) put(hash []byte, t store.Token, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil || len(c.entries) >= tokenCap {
		c.entries = map[string]cachedToken{}
	}
	c.entries[string(hash)] = cachedToken{t, now.Add(tokenFresh)}
}

// stale has each token looked up again.
func (c *tokenCache) stale() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for hash, e := range c.entries {
		c.entries[hash] = cachedToken{e.token, time.Time{}}
	}
}

// failureLimits counts failed logins of each source: ten at once, then one in
// six seconds. Beyond that a source has fifty questions a second left.
type failureLimits struct {
	mu   sync.Mutex
	seen map[netip.Prefix]failureLimit
}

type failureLimit struct {
	failures, questions *rate.Limiter
}

const (
	failureBurst = 10
	failureEvery = 6 * time.Second
	failureCap   = 10000
)

// sourceNet is the address, or the /64 of it: whoever has one has them all.
func sourceNet(hostport string) netip.Prefix {
	ap, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Prefix{}
	}
	a := ap.Addr().Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// exhausted says whether a source has failed too often, and whether the store
// may still be asked about its tokens.
func (f *failureLimits) exhausted(source string, now time.Time) (exhausted, ask bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.seen[sourceNet(source)]
	if !ok || l.failures.TokensAt(now) >= 1 {
		return false, true
	}
	return true, l.questions.AllowN(now, 1)
}

func (f *failureLimits) note(source string, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil {
		f.seen = map[netip.Prefix]failureLimit{}
	}
	if len(f.seen) >= failureCap {
		for k, l := range f.seen {
			if l.failures.TokensAt(now) >= failureBurst {
				delete(f.seen, k)
			}
		}
		if len(f.seen) >= failureCap {
			clear(f.seen)
		}
	}
	key := sourceNet(source)
	l, ok := f.seen[key]
	if !ok {
		l = failureLimit{rate.NewLimiter(rate.Every(failureEvery), failureBurst), rate.NewLimiter(50, 100)}
		f.seen[key] = l
	}
	l.failures.AllowN(now, 1)
}
