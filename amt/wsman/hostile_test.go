package wsman

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/provisiond/provisiond/amt/reason"
)

// Answers no firmware gives. Each ends the call, in bounded time and memory,
// with a reason; sent is for a change.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	body := func(s string) func(request) reply {
		return func(r request) reply { return reply{raw: httpAnswer(200, s)} }
	}
	raw := func(s string) func(request) reply {
		return func(r request) reply { return reply{raw: s, cut: true} }
	}
	for _, tc := range []struct {
		name   string
		answer func(request) reply
		code   reason.Code
		sent   bool
		result string // metric
	}{
		{"garbage", raw("\x00\x01\x02garbage\r\n\r\n"), reason.WSMANInvalid, true, "parse_error"},
		{"an SSH server", raw("SSH-2.0-OpenSSH_9.2\r\n"), reason.WSMANInvalid, true, "parse_error"},
		{"HTTP/2", raw("HTTP/2 200\r\n\r\n"), reason.WSMANInvalid, true, "parse_error"},
		{"a status of four digits", raw("HTTP/1.1 2000 OK\r\n\r\n"), reason.WSMANInvalid, true, "parse_error"},
		{"switching protocols", raw("HTTP/1.1 101 Switching\r\n\r\n"), reason.WSMANInvalid, true, "parse_error"},
		{"continue without end", raw(strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100)), reason.WSMANInvalid, true, "parse_error"},
		{"a gigabyte announced", raw("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\nxxxx"), reason.WSMANInvalid, true, "too_large"},
		{"two lengths", raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxx"), reason.WSMANInvalid, true, "parse_error"},
		{"a negative length", raw("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nxxxxx"), reason.WSMANInvalid, true, "parse_error"},
		{"a huge chunk", raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\nxx"), reason.WSMANInvalid, true, "too_large"},
		{"a negative chunk", raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nxx"), reason.WSMANInvalid, true, "parse_error"},
		{"a transfer coding", raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), reason.WSMANInvalid, true, "parse_error"},
		{"huge header", raw("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 64<<10) + "\r\n\r\n"), reason.WSMANInvalid, true, "too_large"},
		{"many headers", raw("HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 5000) + "\r\n"), reason.WSMANInvalid, true, "too_large"},
		{"a header without a colon", raw("HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"), reason.WSMANInvalid, true, "parse_error"},
		{"gzip", func(r request) reply {
			return reply{raw: httpAnswer(200, "\x1f\x8b\x08", "Content-Encoding: gzip")}
		}, reason.WSMANInvalid, true, "parse_error"},
		{"redirect", func(r request) reply {
			return reply{raw: httpAnswer(307, "", "Location: http://127.0.0.1:1/wsman")}
		}, reason.WSMANInvalid, true, "parse_error"},
		{"a web page", body("<html><body>hello</body></html>"), reason.WSMANInvalid, true, "parse_error"},
		{"nothing", body(""), reason.WSMANInvalid, true, "parse_error"},
		{"cut XML", body(`<Envelope><Body>`), reason.WSMANInvalid, true, "parse_error"},
		{"DOCTYPE", body(`<!DOCTYPE x [<!ENTITY a "b">]><Envelope><Body/></Envelope>`), reason.WSMANInvalid, true, "parse_error"},
		{"entity", body(`<Envelope><Body>&lol;</Body></Envelope>`), reason.WSMANInvalid, true, "parse_error"},
		{"nested", body(strings.Repeat("<a>", 100_000)), reason.WSMANInvalid, true, "parse_error"},
		{"siblings", body("<Envelope><Body>" + strings.Repeat("<a/>", 200_000) + "</Body></Envelope>"), reason.WSMANInvalid, true, "parse_error"},
		{"attributes", body("<Envelope " + strings.Repeat(`a=""`, 100_000) + ">"), reason.WSMANInvalid, true, "parse_error"},
		{"text", body("<Envelope><Body>" + strings.Repeat("x", 200_000) + "</Body></Envelope>"), reason.WSMANInvalid, true, "parse_error"},
		{"two Bodies", body("<Envelope><Body/><Body/></Envelope>"), reason.WSMANInvalid, true, "parse_error"},
		{"two Headers", body("<Envelope><Header/><Header/><Body/></Envelope>"), reason.WSMANInvalid, true, "parse_error"},
		{"UTF-16", body("\xff\xfe<\x00E\x00"), reason.WSMANInvalid, true, "parse_error"},
		{"latin 1", body("<?xml version='1.0' encoding='ISO-8859-1'?><Envelope><Body/></Envelope>"), reason.WSMANInvalid, true, "parse_error"},
		{"bad UTF-8", body("<Envelope><Body>\xff</Body></Envelope>"), reason.WSMANInvalid, true, "parse_error"},
		{"no ReturnValue", func(r request) reply { return ok(r, `<g:CommitChanges_OUTPUT/>`) }, reason.WSMANInvalid, true, "parse_error"},
		{"another method's output", func(r request) reply {
			return ok(r, `<g:Other_OUTPUT><g:ReturnValue>0</g:ReturnValue></g:Other_OUTPUT>`)
		}, reason.WSMANInvalid, true, "parse_error"},
		{"a ReturnValue that is no number", func(r request) reply {
			return ok(r, `<g:CommitChanges_OUTPUT><g:ReturnValue>yes</g:ReturnValue></g:CommitChanges_OUTPUT>`)
		}, reason.WSMANInvalid, true, "fault"},
		{"a status", func(r request) reply {
			return ok(r, `<g:CommitChanges_OUTPUT><g:ReturnValue>2057</g:ReturnValue></g:CommitChanges_OUTPUT>`)
		}, reason.WSMANFault, false, "fault"},
		{"a server error", func(r request) reply { return reply{raw: httpAnswer(500, "<html/>")} }, reason.WSMANFault, true, "5xx"},
		{"busy", func(r request) reply { return reply{raw: httpAnswer(503, "")} }, reason.WSMANFault, false, "5xx"},
		{"not found", func(r request) reply { return reply{raw: httpAnswer(404, "<html/>")} }, reason.WSMANFault, false, "4xx"},
		{"locked", func(r request) reply { return reply{raw: httpAnswer(403, "", "Retry-After: 9")} }, reason.AccountLocked, false, "4xx"},
		{"a fault", func(r request) reply {
			return reply{raw: httpAnswer(400, soap(r.id, `<a:Fault><a:Code><a:Value>a:Sender</a:Value></a:Code></a:Fault>`))}
		}, reason.WSMANFault, false, "fault"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := NewMetrics(nil)
			p := startPeer(t, tc.answer)
			c := p.client(Config{Metrics: m})
			wantReason(t, commit(c, t.Context()), tc.code, tc.sent)
			reg := prometheus.NewRegistry()
			if err := reg.Register(m.requests[[2]string{"CommitChanges", tc.result}]); err != nil {
				t.Fatal(err)
			}
			if got := scrape(t, reg); !strings.Contains(got, fmt.Sprintf(`operation="CommitChanges",result=%q} 1`, tc.result)) {
				t.Errorf("result %s was not counted:\n%s", tc.result, got)
			}
		})
	}
}

func scrape(t *testing.T, g prometheus.Gatherer) string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(g, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	return w.Body.String()
}

// A body that never ends is given up at the limit, not collected.
func TestEndlessBodyIsBounded(t *testing.T) {
	for name, start := range map[string]string{
		"chunks":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"until end": "HTTP/1.1 200 OK\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			piece := strings.Repeat("x", 4096)
			if name == "chunks" {
				piece = "1000\r\n" + piece + "\r\n"
			}
			flood := start + strings.Repeat(piece, 4096) // 16 MiB
			p := startPeer(t, func(request) reply { return reply{raw: flood} })
			c := p.client(Config{})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			wantReason(t, read(c, t.Context()), reason.WSMANInvalid, false)
			runtime.ReadMemStats(&after)
			if grew := after.TotalAlloc - before.TotalAlloc; grew > 32<<20 { // the far end's 16 MiB included
				t.Errorf("reading it allocated %d MiB", grew>>20)
			}
		})
	}
}

// Parsing any body within the limits stays within memory and time: the worst
// ones known against a naive reader.
func TestParseIsBounded(t *testing.T) {
	fill := func(start, piece, end string) string {
		return start + strings.Repeat(piece, (maxBody-len(start)-len(end))/len(piece)) + end
	}
	deepBinds := strings.Repeat("<a "+func() string {
		var b strings.Builder
		for i := range 60 {
			fmt.Fprintf(&b, `xmlns:p%d="u" `, i)
		}
		return b.String()
	}()+">", 60)
	for name, body := range map[string]string{
		"text in pieces": fill("<a>", "x<!---->", "</a>"),
		"siblings":       fill("<a>", "<b/>", "</a>"),
		"prefixes":       fill("<a>"+deepBinds, `<q:b q:c="" q:d=""/>`, ""),
		"attributes":     fill("<a>", `<b a="" c="" d="" e="" f="" g="" h="" i="" j="" k="" l="" m=""/>`, "</a>"),
		"entities":       fill("<a>", "&#65;", "</a>"),
		"comments":       fill("<a>", "<!---->", "</a>"),
		"unclosed":       fill("", "<a>", ""),
		"lt":             fill("<a>", "<", ""),
		"quotes":         fill(`<a b="`, `'`, ""),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			started := time.Now()
			_, _ = Parse([]byte(body))
			took := time.Since(started)
			runtime.ReadMemStats(&after)
			if grew := after.TotalAlloc - before.TotalAlloc; grew > 16<<20 {
				t.Errorf("%d MiB allocated", grew>>20)
			}
			if took > patience {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, body string
		want       Fault
		noClass    bool
	}{
		{"SOAP 1.2", `<s:Fault xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>b:InvalidResourceURI</s:Value></s:Subcode></s:Code>` +
			`<s:Reason><s:Text xml:lang="en-US">Message has invalid resource URI</s:Text></s:Reason><s:Detail><x>more</x><x>words</x></s:Detail></s:Fault>`,
			Fault{"Sender", "InvalidResourceURI", "Message has invalid resource URI", "more words", 400}, true},
		{"subcode of a subcode", `<Fault><Code><Value>s:Receiver</Value><Subcode><Value>w:InternalError</Value><Subcode><Value>w:Deep</Value></Subcode></Subcode></Code></Fault>`,
			Fault{"Receiver", "Deep", "", "", 400}, false},
		{"SOAP 1.1", `<Fault><faultcode>SOAP-ENV:Client</faultcode><faultstring>no such class</faultstring><detail><code>7</code></detail></Fault>`,
			Fault{"Client", "", "no such class", "7", 400}, true},
		{"SOAP 1.1 with a code of its own", `<Fault><faultcode>w:AccessDenied</faultcode></Fault>`,
			Fault{"AccessDenied", "AccessDenied", "", "", 400}, false},
		{"empty", `<Fault/>`, Fault{HTTPStatus: 400}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n, err := Parse([]byte(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			got := readFault(n, 400)
			if diff := cmp.Diff(tc.want, *got); diff != "" {
				t.Error(diff)
			}
			if got.NoSuchClass() != tc.noClass {
				t.Errorf("NoSuchClass is %v", got.NoSuchClass())
			}
		})
	}
}

// A device may repeat what it was told. Its words must not carry a password into
// a log.
func TestNoErrorRepeatsASecret(t *testing.T) {
	t.Parallel()
	const secret = "Mebx!secret-1234"
	for name, answer := range map[string]func(r request) reply{
		"fault": func(r request) reply {
			return ok(r, `<a:Fault><a:Code><a:Value>a:Sender</a:Value></a:Code><a:Reason><a:Text>bad password `+secret+
				`</a:Text></a:Reason></a:Fault>`)
		},
		"RelatesTo":   func(r request) reply { return reply{raw: httpAnswer(200, soap(secret, committed))} },
		"status line": func(r request) reply { return reply{raw: secret + "\r\n\r\n", cut: true} },
		"header":      func(r request) reply { return reply{raw: "HTTP/1.1 200 OK\r\n" + secret + "\r\n\r\n", cut: true} },
		"entity":      func(r request) reply { return reply{raw: httpAnswer(200, "<"+secret+">")} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startPeer(t, answer).client(Config{})
			for range 2 {
				_, err := c.Invoke(t.Context(), "AMT_SetupAndConfigurationService", "SetMEBxPassword",
					Arg{Name: "Password", Value: secret, Secret: true})
				if err == nil || strings.Contains(err.Error(), secret) {
					t.Errorf("the error is %v", err)
				}
			}
		})
	}
}
