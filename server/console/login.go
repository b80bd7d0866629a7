package console

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
)

// cookieName is bound to this host by the browser itself where TLS allows it.
func cookieName(r *http.Request) string {
	if r.TLS != nil {
		return "__Host-provisiond"
	}
	return "provisiond"
}

func (c *Console) cookie(r *http.Request, value string, seconds int) *http.Cookie {
	return &http.Cookie{Name: cookieName(r), Value: value, Path: "/", MaxAge: seconds, HttpOnly: true, Secure: r.TLS != nil,
		SameSite: http.SameSiteStrictMode}
}

// session is who the cookie stands for.
func (c *Console) session(r *http.Request) (operate.Principal, error) {
	text := ""
	if k, err := r.Cookie(cookieName(r)); err == nil {
		text = k.Value
	}
	return c.api.Authenticate(r.Context(), text, r.RemoteAddr)
}

func (c *Console) toLogin(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || r.URL.Path == "/stream" {
		http.Error(w, "log in again", http.StatusUnauthorized)
		return
	}
	to := "/login"
	if r.URL.Path != "/" {
		to += "?next=" + url.QueryEscape(r.URL.RequestURI())
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// inside keeps a redirect on this server.
func inside(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Host != "" || u.Scheme != "" || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") ||
		strings.Contains(next, `\`) {
		return "/"
	}
	return next
}

func (c *Console) loginPage(w http.ResponseWriter, r *http.Request) {
	if _, err := c.session(r); err == nil {
		http.Redirect(w, r, inside(r.URL.Query().Get("next")), http.StatusSeeOther)
		return
	}
	v := &visit{w: w, r: r}
	if err := c.show(v, http.StatusOK, "login", page{Title: "Log in", Data: inside(r.URL.Query().Get("next"))}); err != nil {
		c.failed(v, err)
	}
}

func (c *Console) login(w http.ResponseWriter, r *http.Request) {
	v := &visit{w: w, r: r}
	r.Body = http.MaxBytesReader(w, r.Body, 8<<10)
	next := inside(r.PostFormValue("next"))
	session, who, err := c.api.Login(r.Context(), r.PostFormValue("token"), r.RemoteAddr, c.cfg.SessionLifetime)
	if err != nil {
		var p *api.Problem
		if !errors.As(err, &p) {
			c.failed(v, err)
			return
		}
		if r.PostFormValue("token") == "" {
			p = &api.Problem{Status: http.StatusUnauthorized, Detail: "Paste a token first."}
		}
		if err := c.show(v, p.Status, "login", page{Title: "Log in", Trouble: p, Data: next}); err != nil {
			c.failed(v, err)
		}
		return
	}
	c.log.Info("console.login", zap.String("actor", who.Actor()), zap.String("peer", r.RemoteAddr))
	http.SetCookie(w, c.cookie(r, session, int(c.cfg.SessionLifetime.Seconds())))
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func (c *Console) logout(w http.ResponseWriter, r *http.Request) {
	if k, err := r.Cookie(cookieName(r)); err == nil {
		if err := c.api.Logout(r.Context(), k.Value); err != nil {
			c.failed(&visit{w: w, r: r}, err)
			return
		}
	}
	http.SetCookie(w, c.cookie(r, "", -1))
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}
