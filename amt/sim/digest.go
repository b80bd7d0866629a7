package sim

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// digestState is the device's half of RFC 2617; Device.mu guards it.
type digestState struct {
	rng    *rand.Rand
	nonces map[string]*nonce
	fails  int // in a row
}

type nonce struct {
	uses   int
	lastNC uint64
	stale  bool
}

// forget drops every session: after an ACL change or a network restart the
// next request is asked again.
func (s *digestState) forget() { clear(s.nonces) }

func (d *Device) challenge(stale bool) string {
	s := &d.digest
	n := fmt.Sprintf("%016x%016x", s.rng.Uint64(), s.rng.Uint64())
	if s.nonces == nil || len(s.nonces) > 32 {
		s.nonces = map[string]*nonce{}
	}
	s.nonces[n] = &nonce{}
	qop := "auth"
	if d.p.AuthInt {
		qop = "auth,auth-int"
	}
	return fmt.Sprintf(`Digest realm="%s", nonce="%s",stale="%t",qop="%s"`, d.realm, n, stale, qop)
}

type verdict int

const (
	admitted verdict = iota
	unasked          // no credentials were sent
	expired          // right or wrong, the nonce is no longer good
	wrong
)

// authenticate holds an Authorization header against the accounts. mu is held.
func (d *Device) authenticate(req *httpRequest) (user string, v verdict) {
	rest, ok := strings.CutPrefix(req.authorization, "Digest ")
	if !ok {
		return "", unasked
	}
	f := digestFields(rest)
	user = f["username"]
	n := d.digest.nonces[f["nonce"]]
	if n == nil {
		return user, unasked // a session this device has forgotten
	}
	if n.stale {
		return user, expired
	}
	if f["realm"] != d.realm || f["uri"] != req.path {
		return user, wrong
	}
	secret, ok := d.accountHA1(user)
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
	return user, admitted
}

func (d *Device) accountHA1(user string) (string, bool) {
	if u, h := d.admin(); u == user {
		return h, true
	}
	for _, u := range d.now.users {
		if u.name == user && user != "" {
			return hex.EncodeToString(u.ha1), true
		}
	}
	return "", false
}

func md5hex(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

// digestFields splits name=value pairs; values may be quoted or not, nc and qop
// too.
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
