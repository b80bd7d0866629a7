package sim

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
)

// digestState is the device's half of RFC 2617; Device.mu guards it.
type digestState struct {
	rng    *rand.Rand
	nonces map[string]*nonce
	turn   int // how often the device dropped all sessions
	fails  int // in a row
}

type nonce struct {
	uses   int
	lastNC uint64
	stale  bool
}

// forget drops every session: after a change of the ACL or a network restart
// the device challenges the next request.
func (s *digestState) forget() {
	clear(s.nonces)
	s.turn++
}

func (d *Device) challenge(stale bool) string {
	s := &d.digest
	n := fmt.Sprintf("%016x%016x", s.rng.Uint64(), s.rng.Uint64())
	if s.nonces == nil || len(s.nonces) > 32 {
		s.nonces = map[string]*nonce{}
	}
	s.nonces[n] = &nonce{}
	qop := `,qop="auth"`
	switch {
	case d.p.NoQop:
		qop = ""
	case d.p.AuthInt:
		qop = `,qop="auth,auth-int"`
	}
	return fmt.Sprintf(`Digest realm="%s", nonce="%s",stale="%t"%s`, d.realm, n, stale, qop)
}

type verdict int

const (
	admitted verdict = iota
	unasked          // no credentials were sent
	expired          // right or wrong, the nonce is no longer good
	wrong
)

// authenticate compares an Authorization header with the accounts. From AMT 6
// on a login is good for the whole connection, until the accounts change: later
// requests need no header (amt/protocol.md 5.2). mu is held.
func (c *conn) authenticate(req *httpRequest) (user string, v verdict) {
	d := c.dev
	if req.authorization == "" && c.user != "" && c.turn == d.digest.turn && d.p.has(6, 0) {
		return c.user, admitted
	}
	user, v = d.answered(req, c.peer)
	if v == admitted {
		c.user, c.turn = user, d.digest.turn
	}
	return user, v
}

// answered judges one answer to a challenge. The nonce must be this device's
// own and its count must rise; with qop=auth the answer does not cover the body
// (RFC 7616, 5.8).
func (d *Device) answered(req *httpRequest, from netip.Addr) (user string, v verdict) {
	rest, ok := strings.CutPrefix(req.authorization, "Digest ")
	if !ok {
		return "", unasked
	}
	f := digestFields(rest)
	user = f["username"]
	n := d.digest.nonces[f["nonce"]]
	if n == nil {
		return user, unasked // the device has forgotten this session
	}
	if n.stale {
		return user, expired
	}
	if f["realm"] != d.realm || f["uri"] != req.path {
		return user, wrong
	}
	secret, by, ok := d.account(user)
	if !ok {
		return user, wrong
	}
	ha2in := req.method + ":" + f["uri"]
	var kd string
	switch f["qop"] {
	case "":
		kd = f["nonce"]
	case "auth-int":
		if !d.p.AuthInt {
			return user, wrong
		}
		ha2in += ":" + md5hex(string(req.body))
		fallthrough
	case "auth":
		if d.p.NoQop {
			return user, wrong
		}
		nc, err := strconv.ParseUint(f["nc"], 16, 32)
		if err != nil || nc == 0 {
			return user, wrong
		}
		if nc <= n.lastNC { // a replay
			return user, expired
		}
		n.lastNC = nc
		kd = f["nonce"] + ":" + f["nc"] + ":" + f["cnonce"] + ":" + f["qop"]
	default:
		return user, wrong
	}
	if md5hex(secret+":"+kd+":"+md5hex(ha2in)) != f["response"] {
		return user, wrong
	}
	if n.uses++; d.p.NonceUses > 0 && n.uses >= d.p.NonceUses {
		n.stale = true
	}
	d.opened(Opening{User: user, HA1: secret, SetBy: by, From: from})
	return user, admitted
}

// account returns a user's secret and who set it.
func (d *Device) account(user string) (ha1 string, by netip.Addr, ok bool) {
	if s := d.adminOf(); s.adminUser == user {
		return s.adminHA1, s.adminBy, true
	}
	for _, u := range d.now.users {
		if u.name == user && user != "" && u.enabled && u.permission != localOnly {
			return hex.EncodeToString(u.ha1), u.by, true
		}
	}
	return "", by, false
}

func md5hex(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

// digestFields splits name=value pairs; any value, even nc and qop, may be
// quoted or not.
func digestFields(s string) map[string]string {
	f := make(map[string]string, 10)
	for s != "" {
		name, rest, ok := strings.Cut(s, "=")
		if !ok {
			break
		}
		name = strings.ToLower(strings.Trim(name, " ,\t"))
		var value string
		if strings.HasPrefix(rest, `"`) {
			value, rest, _ = strings.Cut(rest[1:], `"`)
		} else {
			value, rest, _ = strings.Cut(rest, ",")
			value = strings.TrimSpace(value)
		}
		f[name] = value
		s = strings.TrimLeft(rest, " ,\t")
	}
	return f
}
