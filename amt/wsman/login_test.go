package wsman

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt/reason"
)

// guard answers 401 until password comes, under nonces of its own.
func guard(t *testing.T, password, more string, headers ...string) func(request) reply {
	return func(r request) reply {
		if r.auth != "" {
			if f, valid := checkDigest(t, r, password); valid && f["uri"] == "/wsman" {
				return ok(r, committed)
			}
		}
		return reply{raw: refusal(fmt.Sprintf("nonce-%d-%d", r.conn, r.n), more, headers...)}
	}
}

func TestLoginsAreTriedInOrderAndNeverTwice(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		more   string
		logins []Login
		used   string
		sends  int // requests until the call is answered
		qop    string
	}{
		{"auth", `, qop="auth"`, []Login{login("active", "right")}, "active", 2, "auth"},
		{"qop not quoted", `, qop=auth, algorithm=MD5, stale=false`, []Login{login("active", "right")}, "active", 2, "auth"},
		{"both qops", `, qop="auth,auth-int"`, []Login{login("active", "right")}, "active", 2, "auth-int"},
		{"auth-int alone", `, qop="auth-int"`, []Login{login("active", "right")}, "active", 2, "auth-int"},
		{"opaque comes back", `, qop="auth", opaque="op=que"`, []Login{login("active", "right")}, "active", 2, "auth"},
		{"third of three", `, qop="auth"`, []Login{login("active", "a"), login("candidate", "b"), login("factory", "right")}, "factory", 4, "auth"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, guard(t, "right", tc.more))
			c := p.client(Config{Logins: tc.logins})
			if err := commit(c, t.Context()); err != nil {
				t.Fatal(err)
			}
			seen := p.seen()
			if len(seen) != tc.sends || c.LoginUsed() != tc.used {
				t.Fatalf("%d requests with login %q, want %d with %q", len(seen), c.LoginUsed(), tc.sends, tc.used)
			}
			if seen[0].auth != "" {
				t.Errorf("the first request carries %q; nobody asked for a login yet", seen[0].auth)
			}
			f, _ := checkDigest(t, seen[len(seen)-1], "right")
			if strings.Contains(tc.more, "opaque") && f["opaque"] != "op=que" {
				t.Errorf("opaque %q came back", f["opaque"])
			}
			if f["qop"] != tc.qop {
				t.Errorf("qop %q, want %q", f["qop"], tc.qop)
			}
			// From now on every request carries it, and counts.
			for n := 2; n < 5; n++ {
				if err := commit(c, t.Context()); err != nil {
					t.Fatal(err)
				}
				seen = p.seen()
				f, valid := checkDigest(t, seen[len(seen)-1], "right")
				if want := fmt.Sprintf("%08x", n); !valid || tc.qop != "" && f["nc"] != want {
					t.Errorf("request %d: valid %v, nc %q, want %q", n, valid, f["nc"], want)
				}
			}
			if len(p.seen()) != tc.sends+3 {
				t.Errorf("%d requests for 4 calls, want %d", len(p.seen()), tc.sends+3)
			}
		})
	}
}

func TestARefusedPasswordIsNeverSentAgain(t *testing.T) {
	t.Parallel()
	p := startPeer(t, guard(t, "right", `, qop="auth"`))
	c := p.client(Config{Logins: []Login{login("active", "a"), login("factory", "b")}})
	for range 3 {
		err := read(c, t.Context())
		wantReason(t, err, reason.AuthFailed, false)
		if !errors.Is(err, ErrNoLogin) {
			t.Errorf("%v does not say that no login is left", err)
		}
	}
	tries := map[string]int{}
	for _, r := range p.seen() {
		for _, password := range []string{"a", "b"} {
			if r.auth != "" {
				if _, valid := checkDigest(t, r, password); valid {
					tries[password]++
				}
			}
		}
	}
	if diff := cmp.Diff(map[string]int{"a": 1, "b": 1}, tries); diff != "" {
		t.Errorf("each password goes out once:\n%s", diff)
	}

	c.SetLogins([]Login{login("another name", "a"), login("candidate", "right")})
	if err := commit(c, t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range p.seen()[5:] {
		if r.auth != "" {
			if _, valid := checkDigest(t, r, "a"); valid {
				t.Error("a new list makes it send the refused one again")
			}
		}
	}
}

func TestANonceMayChangeAtAnyTime(t *testing.T) {
	t.Parallel()
	valid := "n0"
	p := startPeer(t, func(r request) reply {
		if r.auth != "" {
			if f, right := checkDigest(t, r, "right"); right && f["nonce"] == valid {
				return ok(r, committed)
			}
		}
		return reply{raw: refusal(valid, `, qop="auth"`)}
	})
	c := p.client(Config{Logins: []Login{login("active", "right")}})
	for i := range 5 {
		valid = "n" + itoa(i) // the one before is forgotten, without a stale=true
		if err := commit(c, t.Context()); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	if got := len(p.seen()); got != 10 {
		t.Errorf("%d requests for 5 calls with 5 nonces, want 10", got)
	}
}

func TestStaleNoncesEnd(t *testing.T) {
	t.Parallel()
	t.Run("once is fine", func(t *testing.T) {
		t.Parallel()
		p := startPeer(t, func(r request) reply {
			switch {
			case r.n == 0:
				return reply{raw: refusal("first", `, qop="auth"`)}
			case r.n == 1:
				return reply{raw: refusal("second", `, qop="auth", stale=TRUE`)}
			}
			return ok(r, committed)
		})
		c := p.client(Config{Logins: []Login{login("active", "right")}})
		if err := commit(c, t.Context()); err != nil || c.LoginUsed() != "active" {
			t.Fatalf("%v, login %q", err, c.LoginUsed())
		}
	})
	t.Run("for ever is not", func(t *testing.T) {
		t.Parallel()
		p := startPeer(t, func(r request) reply {
			return reply{raw: refusal("n"+itoa(r.n), `, qop="auth", stale=true`)}
		})
		c := p.client(Config{Logins: []Login{login("active", "right"), login("factory", "admin")}})
		wantReason(t, commit(c, t.Context()), reason.AuthFailed, false)
		if got := len(p.seen()); got != 3 {
			t.Errorf("%d requests, want 3: one without a login and two answers", got)
		}
	})
}

func TestRealmChangeInsideASessionIsRefused(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(r request) reply {
		if r.n == 0 {
			return reply{raw: refusal("a", `, qop="auth"`)}
		}
		return reply{raw: httpAnswer(401, "", `WWW-Authenticate: Digest realm="Digest:OTHER", nonce="b", qop="auth"`)}
	})
	c := p.client(Config{Logins: []Login{login("active", "a"), login("factory", "admin")}})
	wantReason(t, read(c, t.Context()), reason.RealmChanged, false)
	if got := len(p.seen()); got != 2 {
		t.Errorf("%d requests, want 2: nothing is hashed with another machine's realm", got)
	}
}

func TestAdoptedLoginGoesFirst(t *testing.T) {
	t.Parallel()
	password := "admin"
	p := startPeer(t, func(r request) reply { return guard(t, password, `, qop="auth"`)(r) })
	c := p.client(Config{Logins: []Login{login("candidate", "fresh"), login("factory", "admin")}})
	if err := commit(c, t.Context()); err != nil || c.LoginUsed() != "factory" {
		t.Fatalf("%v, login %q", err, c.LoginUsed())
	}
	password = "fresh"
	c.Adopt(login("candidate", "fresh")) // refused before, right now
	if err := commit(c, t.Context()); err != nil || c.LoginUsed() != "candidate" {
		t.Fatalf("%v, login %q", err, c.LoginUsed())
	}
}

// TestTheLoginInUseMayBeRenamed: a device that lets a connection in once does not
// ask again on it, and the login it took is known by its new name all the same.
func TestTheLoginInUseMayBeRenamed(t *testing.T) {
	t.Parallel()
	in := false
	p := startPeer(t, func(r request) reply {
		if r.auth != "" {
			_, in = checkDigest(t, r, "right")
		}
		if in {
			return ok(r, committed)
		}
		return reply{raw: refusal("once", `, qop="auth"`)}
	})
	c := p.client(Config{Logins: []Login{login("derived-1", "right")}})
	if err := commit(c, t.Context()); err != nil {
		t.Fatal(err)
	}
	c.SetLogins([]Login{login("candidate-3", "right")})
	if err := commit(c, t.Context()); err != nil || c.LoginUsed() != "candidate-3" {
		t.Errorf("login %q, %v", c.LoginUsed(), err)
	}
}

func TestPauseIsRespected(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(r request) reply {
		if r.auth == "" {
			return reply{raw: refusal("n", `, qop="auth"`)}
		}
		return reply{raw: refusal("m", `, qop="auth"`, "Retry-After: 30")}
	})
	c := p.client(Config{Logins: []Login{login("active", "a"), login("factory", "b")}})
	wantReason(t, read(c, t.Context()), reason.AccountLocked, false)
	if got := len(p.seen()); got != 2 {
		t.Errorf("%d requests, want 2", got)
	}
}

func TestNoDigestOffered(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]string{
		"nothing":      "X-Nothing: 1",
		"negotiate":    "WWW-Authenticate: Negotiate",
		"basic":        `WWW-Authenticate: Basic realm="x"`,
		"no qop":       `WWW-Authenticate: Digest realm="x", nonce="n"`,
		"sha-256 only": `WWW-Authenticate: Digest realm="x", nonce="n", algorithm=SHA-256, qop="auth"`,
		"strange qop":  `WWW-Authenticate: Digest realm="x", nonce="n", qop="auth-conf"`,
		"no nonce":     `WWW-Authenticate: Digest realm="x", qop="auth"`,
		"huge nonce":   `WWW-Authenticate: Digest realm="x", qop="auth", nonce="` + strings.Repeat("n", 2000) + `"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, func(r request) reply { return reply{raw: httpAnswer(401, "no", header)} })
			c := p.client(Config{Logins: []Login{login("active", "a")}})
			wantReason(t, commit(c, t.Context()), reason.AuthFailed, false)
			if got := len(p.seen()); got != 1 {
				t.Errorf("%d requests, want 1", got)
			}
		})
	}
}

func TestChallenges(t *testing.T) {
	t.Parallel()
	digest := func(pairs ...string) challenge {
		c := challenge{scheme: "digest"}
		for i := 0; i < len(pairs); i += 2 {
			c.params = append(c.params, param{pairs[i], pairs[i+1]})
		}
		return c
	}
	for _, tc := range []struct {
		name  string
		lines []string
		want  []challenge
	}{
		{"quoted", []string{`Digest realm="a b", nonce="n,=", qop="auth,auth-int"`}, []challenge{digest("realm", "a b", "nonce", "n,=", "qop", "auth,auth-int")}},
		{"bare", []string{`digest REALM=x,nonce=abc==, stale=true`}, []challenge{digest("realm", "x", "nonce", "abc==", "stale", "true")}},
		{"two lines", []string{`Negotiate`, `Digest realm="r", nonce="n"`}, []challenge{{scheme: "negotiate"}, digest("realm", "r", "nonce", "n")}},
		{"one line", []string{`Negotiate, Digest realm="r", nonce="n"`}, []challenge{{scheme: "negotiate"}, digest("realm", "r", "nonce", "n")}},
		{"token68 first", []string{`Negotiate YII/+==, Digest realm="r"`}, []challenge{{scheme: "negotiate"}, digest("realm", "r")}},
		{"digest first", []string{`Digest realm="r", nonce="n", Negotiate, Basic realm="b"`}, []challenge{
			digest("realm", "r", "nonce", "n"), {scheme: "negotiate"}, {scheme: "basic", params: []param{{"realm", "b"}}}}},
		{"escapes", []string{`Digest realm="a\"b\\c"`}, []challenge{digest("realm", `a"b\c`)}},
		{"spaces around =", []string{`Digest realm = "r" , nonce = n`}, []challenge{digest("realm", "r", "nonce", "n")}},
		{"cut off", []string{`Digest realm="r", nonce="unfinished`}, []challenge{digest("realm", "r", "nonce", "unfinished")}},
		{"nothing", []string{``, ` , ,`}, nil},
		{"noise", []string{"\x01\x02 Digest realm=r"}, []challenge{digest("realm", "r")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := parseChallenges(tc.lines)
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(challenge{}, param{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The examples of RFC 2617 3.5 and RFC 7616 3.9.1.
func TestDigestVector(t *testing.T) {
	t.Parallel()
	ha1 := md5hex("Mufasa", "testrealm@host.com", "Circle Of Life")
	ha2 := md5hex("GET", "/dir/index.html")
	if got := md5hex(ha1, "dcd98b7102dd2f0e8b11d0f600bfb0c093", "00000001", "0a4f113b", "auth",
		ha2); got != "6629fae49393a05397450978507c4ef1" {
		t.Errorf("RFC 2617: %s", got)
	}
	ha1 = md5hex("Mufasa", "http-auth@example.org", "Circle of Life")
	if got := md5hex(ha1, "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "00000001", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
		"auth", ha2); got != "8ca523f5e9506fed4657c9700eebdbec" {
		t.Errorf("RFC 7616: %s", got)
	}
}
