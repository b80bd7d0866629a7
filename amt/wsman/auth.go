package wsman

import (
	"errors"
	"fmt"
	"strings"

	"github.com/provisiond/provisiond/amt/reason"
)

// auth is the state of logging in to one device.
//
// Requests carry no login until the device asks for one, since in setup mode
// the client certificate is the authority. Once it has asked, each request
// carries the last login under the last nonce. Devices forget nonces as they
// like, so a 401 for an old nonce says nothing about the password; a 401 for a
// nonce of this very request does, unless it says stale.
type auth struct {
	logins []loginState
	cur    int // index of the login in use; -1: none yet
	have   bool
	digest digest
	realm  string // first one seen
	used   string // name of the last login accepted

	// of the request at hand
	fresh   bool // the nonce came in answer to this very request
	answers int  // how often the current login has answered a fresh nonce
}

type loginState struct {
	Login
	refused bool
}

// maxAnswers is how often one login answers challenges of one request.
const maxAnswers = 2

// set replaces the logins. One the device refused stays refused.
func (a *auth) set(logins []Login) {
	next := make([]loginState, 0, len(logins))
	for _, l := range logins {
		state := loginState{Login: l}
		for _, old := range a.logins {
			if old.User == l.User && old.Password.Equal(l.Password) {
				state.refused = old.refused
			}
		}
		next = append(next, state)
	}
	a.logins = next
	a.cur, a.have, a.used = -1, false, ""
}

func (a *auth) adopt(l Login) {
	next := []loginState{{Login: l}}
	for _, old := range a.logins {
		if old.User == l.User && old.Password.Equal(l.Password) {
			next[0].Name = old.Name
			continue
		}
		next = append(next, old)
	}
	a.logins, a.cur, a.have, a.used = next, -1, false, ""
}

func (a *auth) begin() { a.fresh, a.answers = false, 0 }

// current is the login to send, nil for none.
func (a *auth) current() *Login {
	if a.cur < 0 || !a.have {
		return nil
	}
	return &a.logins[a.cur].Login
}

func (a *auth) accepted() {
	if l := a.current(); l != nil {
		a.used = l.Name
	}
}

// challenged takes in a 401 and chooses what to answer it with.
func (a *auth) challenged(r *response) *reason.Error {
	d, err := readDigest(r.authLines)
	if err != nil {
		return &reason.Error{Code: reason.AuthFailed, Err: err}
	}
	switch {
	case a.realm == "":
		a.realm = d.realm
	case a.realm != d.realm:
		return reason.Because(reason.RealmChanged, "the device's digest realm changed from %q to %q within one conversation", clip(a.realm), clip(d.realm))
	}
	if a.current() != nil && a.fresh {
		switch {
		case r.retry:
			return reason.Because(reason.AccountLocked, "the device asks for a pause between logins")
		case !d.stale:
			a.logins[a.cur].refused = true
			a.cur = -1
		case a.answers >= maxAnswers:
			return reason.Because(reason.AuthFailed, "the device calls every nonce stale, its own newest one too")
		}
	}
	if a.cur < 0 {
		a.answers = 0
		for i := range a.logins {
			if !a.logins[i].refused {
				a.cur = i
				break
			}
		}
	}
	if a.cur < 0 {
		return &reason.Error{Code: reason.AuthFailed, Err: a.exhausted()}
	}
	a.digest, a.have = d, true
	a.fresh = true
	a.answers++
	return nil
}

// ErrNoLogin is wrapped by the auth_failed that means: the device asked for a
// login and none was left to answer with.
var ErrNoLogin = errors.New("the device asks for a login and none is left to try")

func (a *auth) exhausted() error {
	if len(a.logins) == 0 {
		return fmt.Errorf("%w: none was given", ErrNoLogin)
	}
	names := make([]string, len(a.logins))
	for i, l := range a.logins {
		names[i] = l.Name
	}
	return fmt.Errorf("%w: it refused %s", ErrNoLogin, strings.Join(names, ", "))
}
