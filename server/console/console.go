// Package console is the web pages over the API's answers. It knows nothing the
// API does not say: every page asks the API in the name of whoever is logged in
// (api.Server.Client), so roles, limits, audit and metrics hold here as well.
//
// The pages are html/template, embedded, and work without JavaScript; with it
// they follow the stream of events. Nothing comes from another server, and the
// content policy forbids it. What a device says of itself is hostile text: it is
// cut and cleaned by the API and escaped by the templates.
package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/server/rest"
)

//go:embed pages static
var files embed.FS

// Config of the console; zero values are the defaults.
type Config struct {
	SessionLifetime time.Duration // 12 hours
	Log             *zap.Logger
}

// Console serves the pages.
type Console struct {
	api    *rest.Server
	cfg    Config
	log    *zap.Logger
	pages  map[string]*template.Template
	static map[string]asset
	root   http.Handler
}

type asset struct {
	content    []byte
	kind, etag string
}

// policy allows what is served here and nothing else: no inline script or style.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; " +
	"base-uri 'none'; frame-ancestors 'none'"

// New wires the pages to the API; give the result to api.Server.Mount.
func New(a *rest.Server, cfg Config) (*Console, error) {
	if cfg.SessionLifetime == 0 {
		cfg.SessionLifetime = 12 * time.Hour
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	c := &Console{api: a, cfg: cfg, log: cfg.Log, pages: map[string]*template.Template{}, static: map[string]asset{}}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("load the console: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /static/{name}", c.serveStatic)
	mux.HandleFunc("GET /favicon.ico", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/static/icon.svg", http.StatusMovedPermanently)
	})
	mux.HandleFunc("GET /login", c.loginPage)
	mux.HandleFunc("POST /login", c.login)
	mux.HandleFunc("POST /logout", c.logout)
	for pattern, h := range map[string]handler{
		"GET /{$}":                      c.overview,
		"GET /devices":                  c.devices,
		"POST /devices/bulk":            c.bulk,
		"GET /devices/{uuid}":           c.device,
		"POST /devices/{uuid}/reveal":   c.reveal,
		"POST /devices/{uuid}/{verb}":   c.act,
		"GET /why":                      c.why,
		"GET /certificates":             c.certificates,
		"GET /certificates/{id}":        c.certificate,
		"POST /certificates/import":     c.importCertificate,
		"POST /certificates/{id}/renew": c.renewCertificate,
		"GET /jobs":                     c.jobs,
		"GET /jobs/{id}":                c.job,
		"POST /jobs/{id}/{verb}":        c.jobAct,
		"GET /audit":                    c.audit,
		"GET /events":                   c.events,
		"GET /reasons":                  c.reasons,
		"GET /stream":                   c.stream,
		"/":                             c.nowhere,
	} {
		mux.Handle(pattern, c.member(h))
	}
	c.root = http.NewCrossOriginProtection().Handler(mux)
	return c, nil
}

func (c *Console) load() error {
	funcs := template.FuncMap{
		"at": at, "stamp": stamp, "tone": tone, "word": word, "credential": credential, "short": short, "took": took, "jobword": jobword,
		"may": func(role, op string) bool { return api.Role(role).May(op) }, "width": width, "until": until, "query": query,
		"inc": func(n int) int { return n + 1 },
	}
	names, err := fs.Glob(files, "pages/*.html")
	if err != nil {
		return err
	}
	for _, name := range names {
		base := strings.TrimSuffix(path.Base(name), ".html")
		if base == "layout" {
			continue
		}
		t, err := template.New("layout.html").Funcs(funcs).ParseFS(files, "pages/layout.html", name)
		if err != nil {
			return err
		}
		c.pages[base] = t
	}
	return fs.WalkDir(files, "static", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		c.static[path.Base(name)] = asset{b, mime.TypeByExtension(path.Ext(name)), `"` + hex.EncodeToString(sum[:8]) + `"`}
		return nil
	})
}

// ServeHTTP answers one request.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Security-Policy", policy)
	w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
	c.root.ServeHTTP(w, r)
}

func (c *Console) serveStatic(w http.ResponseWriter, r *http.Request) {
	a, ok := c.static[r.PathValue("name")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("ETag", a.etag)
	w.Header().Set("Content-Type", a.kind)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.content))
}

// visit is one request of somebody who is logged in.
type visit struct {
	w   http.ResponseWriter
	r   *http.Request
	who operate.Principal
	api *api.Client
}

// A handler answers a visit; an error becomes a page in one place.
type handler func(v *visit) error

// member lets only those through who are logged in.
func (c *Console) member(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := c.session(r)
		if err != nil {
			var p *api.Problem
			if errors.As(err, &p) && p.Status == http.StatusUnauthorized {
				c.toLogin(w, r)
				return
			}
			c.failed(&visit{w: w, r: r}, err)
			return
		}
		v := &visit{w, r, who, c.api.Client(who)}
		if err := h(v); err != nil {
			c.failed(v, err)
		}
	})
}

// page is what the layout shows around a page.
type page struct {
	Title   string
	Nav     string // which entry of the navigation is this
	Who     string
	Role    string
	Version string
	Said    string // what was done just now
	Trouble *api.Problem
	Q       string // what stands in the search box
	Live    bool   // follows the stream
	Data    any
}

func (c *Console) show(v *visit, status int, name string, p page) error {
	p.Who, p.Role, p.Version = v.who.User, string(v.who.Role), c.api.Version
	var b bytes.Buffer // whole or not at all
	if err := c.pages[name].Execute(&b, p); err != nil {
		return fmt.Errorf("page %s: %w", name, err)
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.Header().Set("Cache-Control", "no-store")
	v.w.WriteHeader(status)
	_, err := b.WriteTo(v.w)
	if err != nil {
		c.log.Debug("console.write", zap.Error(err)) // the reader left
	}
	return nil
}

// failed shows what went wrong; what is not for the reader goes to the log.
func (c *Console) failed(v *visit, err error) {
	var p *api.Problem
	if !errors.As(err, &p) {
		if v.r.Context().Err() != nil {
			return
		}
		c.log.Error("console.failed", zap.String("path", v.r.URL.Path), zap.Error(err))
		p = &api.Problem{Status: http.StatusInternalServerError, Title: "The server failed at this", Detail: "Its log says why."}
	}
	if err := c.show(v, p.Status, "trouble", page{Title: p.Title, Trouble: p}); err != nil {
		c.log.Error("console.failed", zap.Error(err))
		http.Error(v.w, p.Title, p.Status)
	}
}

func (c *Console) nowhere(v *visit) error {
	return &api.Problem{Status: http.StatusNotFound, Title: "There is nothing here",
		Detail: "The address is wrong, or what it named is gone."}
}
