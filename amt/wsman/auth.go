package wsman

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/provisiond/provisiond/amt"
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
	logins  []Login
	refused []Login // also logins that have left the list
	paused  bool    // the device asked for a pause: send no more logins

	cur    int // index of the login in use; -1: none yet
	have   bool
	digest digest
	realm  string // the first one in a challenge
	used   string // name of the last login accepted

	// Of the request at hand.
	fresh   bool // the nonce came in answer to this very request
	answers int  // how often the current login has answered a fresh nonce
}

// maxAnswers is how often one login answers the challenges of one request.
const maxAnswers = 2

// set replaces the logins. A login that the device refused stays refused, even
// if it left the list in between. The login in use stays in use if it comes
// first, whatever its name is now: from AMT 6 on a login is good for the
// connection, so the device would not ask for it again (amt/protocol.md 5.2).
func (a *auth) set(logins []Login) {
	stays := a.used != "" && a.current() != nil && len(logins) > 0 && sameLogin(logins[0], *a.current())
	a.logins = slices.Clone(logins)
	a.used = ""
	if a.cur = 0; !stays {
		a.cur, a.have = -1, false
	}
}

func (a *auth) adopt(l Login) {
	same := func(old Login) bool { return sameLogin(old, l) }
	if i := slices.IndexFunc(a.logins, same); i >= 0 {
		l.Name = a.logins[i].Name
	}
	a.refused = slices.DeleteFunc(a.refused, same)
	a.set(append([]Login{l}, slices.DeleteFunc(slices.Clone(a.logins), same)...))
}

func sameLogin(a, b Login) bool { return a.User == b.User && a.Password.Equal(b.Password) }

func (a *auth) begin() { a.fresh, a.answers = false, 0 }

// current is the login to send, nil for none.
func (a *auth) current() *Login {
	if a.cur < 0 || !a.have || a.paused {
		return nil
	}
	return &a.logins[a.cur]
}

func (a *auth) accepted() {
	if l := a.current(); l != nil {
		a.used = l.Name
	}
}

// challenged reads a 401 and chooses the answer.
func (a *auth) challenged(r *response) *reason.Error {
	d, err := readDigest(r.authLines)
	answered := a.current() != nil && a.fresh
	switch {
	case answered && r.retry:
		a.paused = true
	case answered && (err != nil || !d.stale):
		// Whatever else the answer says, it refuses this password.
		a.refused = append(a.refused, a.logins[a.cur])
		a.cur = -1
	}
	switch {
	case a.paused:
		return reason.Because(reason.AccountLocked, "the device asks for a pause between logins")
	case err != nil:
		return &reason.Error{Code: reason.AuthFailed, Err: err}
	case a.realm == "":
		a.realm = d.realm
	case a.realm != d.realm:
		return reason.Because(reason.RealmChanged, "the device's digest realm changed from %q to %q within one conversation",
			amt.Clip(a.realm),
			amt.Clip(d.realm))
	}
	if d.nonce == a.digest.nonce {
		d.nc = a.digest.nc // a repeated count is a replay to the device
	}
	a.digest, a.have = d, true
	if answered && d.stale && a.answers >= maxAnswers {
		return reason.Because(reason.AuthFailed, "the device calls every nonce stale, its own newest one too")
	}
	if a.cur < 0 {
		a.answers = 0
		a.cur = slices.IndexFunc(a.logins, func(l Login) bool {
			return !slices.ContainsFunc(a.refused, func(no Login) bool { return sameLogin(no, l) })
		})
	}
	if a.cur < 0 {
		return &reason.Error{Code: reason.AuthFailed, Err: a.exhausted()}
	}
	a.fresh = true
	a.answers++
	return nil
}

// ErrNoLogin is inside the auth_failed which means that the device asked for a
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
