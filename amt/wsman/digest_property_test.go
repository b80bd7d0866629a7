package wsman

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/provisiond/provisiond/amt"
)

// An offer is one challenge of a 401, as the far end means it.
type offer struct {
	scheme, realm, nonce, algorithm, qop, stale, opaque string
}

// usable is the far end's own idea of what a client that speaks MD5 can answer.
func (o offer) usable() bool {
	offersQop := false
	for q := range strings.SplitSeq(strings.ToLower(o.qop), ",") {
		offersQop = offersQop || strings.TrimSpace(q) == "auth" || strings.TrimSpace(q) == "auth-int"
	}
	return o.scheme == "Digest" && o.nonce != "" && (o.algorithm == "" || strings.EqualFold(o.algorithm, "MD5")) && offersQop
}

func (o offer) String() string {
	quote := func(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }
	if o.scheme != "Digest" {
		return o.scheme
	}
	s := "Digest realm=" + quote(o.realm)
	if o.nonce != "" {
		s += ", nonce=" + quote(o.nonce)
	}
	for name, v := range map[string]string{"algorithm": o.algorithm, "stale": o.stale} {
		if v != "" {
			s += ", " + name + "=" + v
		}
	}
	if o.qop != "" {
		s += ", qop=" + quote(o.qop)
	}
	if o.opaque != "" {
		s += ", opaque=" + quote(o.opaque)
	}
	return s
}

// A turn is what the far end does with one request.
type turn struct {
	judge   bool // let in whoever logs in with the right password under the newest nonce
	open    bool // let in
	same    bool // the nonce of the challenge before
	offers  []offer
	oneLine bool
	pause   bool // Retry-After
	close   bool
}

const ourRealm = "Digest:A4070000000000000000000000000000"

func drawTurn(t *rapid.T) turn {
	pick := func(name string, from ...string) string { return rapid.SampledFrom(from).Draw(t, name) }
	one := func(name string, in int) bool { return rapid.IntRange(1, in).Draw(t, name) == 1 }
	u := turn{judge: rapid.Bool().Draw(t, "judge"), open: one("open", 8), same: one("same nonce", 3),
		oneLine: rapid.Bool().Draw(t, "one line"), pause: one("pause", 25), close: one("close", 5)}
	for range rapid.SampledFrom([]int{1, 1, 1, 1, 2, 3, 0}).Draw(t, "challenges") {
		o := offer{scheme: pick("scheme", "Digest", "Digest", "Digest", "Digest", "Digest", "Digest", "Negotiate", "Basic"),
			realm: ourRealm, nonce: "new",
			algorithm: pick("algorithm", "", "", "", "MD5", "MD5", "md5", "SHA-256", "MD5-sess"),
			qop:       pick("qop", "auth", "auth", "auth,auth-int", "auth-int", "auth-int, auth", "", "", "auth-conf"),
			stale:     pick("stale", "", "false", "true", "TRUE"), opaque: pick("opaque", "", "op", `o"p\q`)}
		if one("other realm", 40) {
			o.realm = "Digest:OTHER"
		}
		if one("no nonce", 40) {
			o.nonce = ""
		}
		u.offers = append(u.offers, o)
	}
	return u
}

// bout is a far end that follows a script and holds the client to the rules.
type bout struct {
	mu       sync.Mutex
	script   []turn
	logins   []Login // that the client was given and not yet told to forget
	problems []string

	nonces   int
	last     *offer // what the client may answer; nil: nobody was asked
	inCall   bool   // the last offer was made to this very call
	call     string
	rounds   int
	realm    string
	paused   bool
	counts   map[string]uint64 // by nonce
	cnonces  map[string]bool
	refused  map[string]bool // user and password
	answered int
	sameUsed int
	turned   int // passwords refused
}

func (b *bout) bad(format string, args ...any) {
	b.problems = append(b.problems, fmt.Sprintf(format, args...))
}

func h(parts ...string) string {
	sum := md5.Sum([]byte(strings.Join(parts, ":")))
	return hex.EncodeToString(sum[:])
}

// fieldsOf reads an Authorization header with its quotes and escapes.
func fieldsOf(s string) (map[string]string, bool) {
	s, ok := strings.CutPrefix(s, "Digest ")
	f := map[string]string{}
	for ok && s != "" {
		var name, v string
		if name, s, ok = strings.Cut(s, "="); !ok {
			return f, false
		}
		if strings.HasPrefix(s, `"`) {
			i := 1
			for ; i < len(s) && s[i] != '"'; i++ {
				if s[i] == '\\' {
					i++
				}
				if i < len(s) {
					v += s[i : i+1]
				}
			}
			s = s[min(i+1, len(s)):]
		} else {
			n := strings.IndexByte(s+",", ',')
			v, s = s[:n], s[n:]
		}
		s = strings.TrimPrefix(s, ", ")
		if _, twice := f[name]; twice {
			return f, false
		}
		f[name] = v
	}
	return f, ok
}

// answer is the far end for one request.
func (b *bout) answer(r request) reply {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.id != b.call {
		b.call, b.rounds, b.inCall = r.id, 0, false
	}
	if b.rounds++; b.rounds > 2*len(b.logins)+6 {
		b.bad("request %d of one call, with %d logins", b.rounds, len(b.logins))
	}
	by := b.check(r)
	u := turn{judge: true, offers: []offer{{scheme: "Digest", realm: ourRealm, nonce: "new", qop: "auth"}}}
	if len(b.script) > 0 {
		u, b.script = b.script[0], b.script[1:]
	}
	if u.open || u.judge && by != nil && by.Password.Reveal() == "right" {
		return ok(r, committed)
	}

	var headers []string
	var made []offer
	var chosen *offer
	for _, o := range u.offers {
		if o.nonce != "" && o.scheme == "Digest" {
			if u.same && b.last != nil {
				o.nonce = b.last.nonce
			} else {
				b.nonces++
				o.nonce = fmt.Sprintf("n%d=", b.nonces)
			}
		}
		made = append(made, o)
		if chosen == nil && o.usable() {
			chosen = &made[len(made)-1]
		}
	}
	if u.oneLine && len(made) > 0 {
		var all []string
		for _, o := range made {
			all = append(all, o.String())
		}
		headers = append(headers, "WWW-Authenticate: "+strings.Join(all, ", "))
	} else {
		for _, o := range made {
			headers = append(headers, "WWW-Authenticate: "+o.String())
		}
	}
	if u.pause {
		headers = append(headers, "Retry-After: 30")
	}
	if u.close {
		headers = append(headers, "Connection: close")
	}
	// Under a nonce that this call was given, and unless the device calls that one
	// stale, a 401 means the password.
	switch {
	case by == nil || !b.inCall:
	case u.pause:
		b.paused = true
	case chosen == nil || !strings.EqualFold(chosen.stale, "true"):
		b.refused[by.User+"\x00"+by.Password.Reveal()] = true
		b.turned++
	}
	if chosen != nil {
		if b.realm == "" {
			b.realm = chosen.realm
		}
		if chosen.realm == b.realm && !b.paused {
			if b.last != nil && b.last.nonce == chosen.nonce {
				b.sameUsed++
			}
			b.last, b.inCall = chosen, true
		}
	}
	return reply{raw: httpAnswer(401, "<html>no</html>", headers...), cut: u.close}
}

// check holds one request to the rules and finds whose login it carries.
func (b *bout) check(r request) *Login {
	if r.auth == "" {
		return nil
	}
	b.answered++
	f, readable := fieldsOf(r.auth)
	if !readable {
		b.bad("cannot read %q", r.auth)
		return nil
	}
	if b.paused {
		b.bad("a login after the device asked for a pause")
	}
	if b.last == nil {
		b.bad("a login nobody asked for: %q", r.auth)
		return nil
	}
	if f["nonce"] != b.last.nonce || f["realm"] != b.realm || f["opaque"] != b.last.opaque || f["uri"] != "/wsman" {
		b.bad("%q does not answer %s", r.auth, b.last)
	}
	if a := f["algorithm"]; a != "" && !strings.EqualFold(a, "MD5") || f["qop"] != "" && !strings.Contains(b.last.qop, f["qop"]) ||
		f["qop"] == "" && b.last.qop != "" {
		b.bad("%q is of another kind than %s", r.auth, b.last)
	}
	ha2 := h("POST", f["uri"])
	tail := []string{f["nonce"]}
	if f["qop"] == "auth-int" {
		ha2 = h("POST", f["uri"], h(r.body))
	}
	if f["qop"] != "" {
		tail = append(tail, f["nc"], f["cnonce"], f["qop"])
		if len(f["nc"]) != 8 || len(f["cnonce"]) < 16 || b.cnonces[f["cnonce"]] {
			b.bad("nc %q, cnonce %q", f["nc"], f["cnonce"])
		}
		b.cnonces[f["cnonce"]] = true
		var n uint64
		_, _ = fmt.Sscanf(f["nc"], "%x", &n)
		if n <= b.counts[f["nonce"]] {
			b.bad("nc %q under nonce %q, which was at %d", f["nc"], f["nonce"], b.counts[f["nonce"]])
		}
		b.counts[f["nonce"]] = n
	}
	tail = append(tail, ha2)
	for i, l := range b.logins {
		if l.User == f["username"] && f["response"] == h(append([]string{h(l.User, f["realm"], l.Password.Reveal())}, tail...)...) {
			if b.refused[l.User+"\x00"+l.Password.Reveal()] {
				b.bad("%s %q goes out again after it was refused", l.User, l.Password.Reveal())
			}
			return &b.logins[i]
		}
	}
	b.bad("%q is no response of any login", r.auth)
	return nil
}

// TestDigestHoldsWhateverIsAsked: whatever challenges a device thinks of, in
// whatever order, each answer is one to the newest of them and verifies, the count
// under one nonce only grows, no client nonce comes twice, a refused password is
// not sent again in this conversation, a pause that the device asks for is kept,
// and the asking ends.
func TestDigestHoldsWhateverIsAsked(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var now *bout
	p := startPeer(t, func(r request) reply {
		mu.Lock()
		b := now
		mu.Unlock()
		return b.answer(r)
	})
	answered, same, turned := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		b := &bout{counts: map[string]uint64{}, cnonces: map[string]bool{}, refused: map[string]bool{}}
		b.script = rapid.SliceOfN(rapid.Custom(drawTurn), 4, 30).Draw(rt, "script")
		mu.Lock()
		now = b
		mu.Unlock()
		drawLogin := rapid.Custom(func(t *rapid.T) Login {
			return Login{Name: "l", User: rapid.SampledFrom([]string{"admin", `o"dd\`}).Draw(t, "user"),
				Password: amt.NewSecret(rapid.SampledFrom([]string{"a", "b", "right"}).Draw(t, "password"))}
		})
		give := func(l []Login) []Login {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.logins, b.inCall = l, false
			return l
		}
		drawLogins := rapid.SliceOfNDistinct(drawLogin, 1, 4, func(l Login) string { return l.User + "\x00" + l.Password.Reveal() })
		conn, err := p.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c := NewClient(conn, Config{Host: "device", Redial: p.dial, CallTimeout: patience, Logins: give(drawLogins.Draw(rt, "logins"))})
		defer c.Close()
		for range rapid.IntRange(4, 12).Draw(rt, "calls") {
			switch rapid.SampledFrom([]string{"read", "read", "read", "read", "logins", "adopt"}).Draw(rt, "do") {
			case "read":
				_ = read(c, t.Context())
			case "logins":
				c.SetLogins(give(drawLogins.Draw(rt, "logins")))
			case "adopt":
				l := drawLogin.Draw(rt, "login")
				b.mu.Lock()
				delete(b.refused, l.User+"\x00"+l.Password.Reveal())
				b.mu.Unlock()
				give(append([]Login{l}, b.logins...))
				c.Adopt(l)
			}
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, problem := range b.problems {
			rt.Errorf("%s", problem)
		}
		answered, same, turned = answered+b.answered, same+b.sameUsed, turned+b.turned
	})
	if answered < 50 || same == 0 || turned == 0 {
		t.Errorf("%d challenges answered, %d with the nonce of before, %d passwords refused: too little was asked", answered, same, turned)
	}
	t.Logf("%d challenges answered, %d with the nonce of before, %d passwords refused", answered, same, turned)
}
