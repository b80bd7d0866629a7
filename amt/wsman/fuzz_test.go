package wsman

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

// What Parse accepts, encoding/xml accepts too and reads as the same elements;
// and what it accepted can be written into a request and read again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		soap("1", committed), `<a b="1"><!-- c --><d/><![CDATA[x]]>&amp;</a>`, "\ufeff<a/>",
		`<?xml version="1.0"?><a xmlns:b="c"><b:d b:e=""/></a>`,
		`<a>&#x20;</a>`, `<a><a><a/></a></a>`, `<!DOCTYPE a><a/>`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		n, err := Parse(in)
		if err != nil {
			return
		}
		var ours strings.Builder
		walk(n, &ours)
		theirs, err := xmlTokens(strings.TrimPrefix(string(in), "\ufeff"))
		if err == nil && theirs != ours.String() {
			t.Fatalf("read as %s, encoding/xml reads %s", ours.String(), theirs)
		}
		var b buffer
		b.instance(InstanceOf("AMT_X", n))
		again, err := Parse(b)
		if err != nil {
			if len(b) > maxBody || strings.Contains(err.Error(), "deeper") || strings.Contains(err.Error(), "more than") {
				return
			}
			t.Fatalf("what we write of it cannot be read again: %v\n%s", err, b)
		}
		var before, after strings.Builder
		for c := range n.Children() {
			walk(c, &before)
		}
		for c := range again.Children() {
			walk(c, &after)
		}
		if before.String() != after.String() {
			t.Fatalf("%s became %s", before.String(), after.String())
		}
	})
}

func walk(n Node, b *strings.Builder) {
	b.WriteString("<" + n.Name() + ">")
	for c := range n.Children() {
		walk(c, b)
	}
	b.WriteString("</" + n.Name() + ">")
}

// Any challenge either gives a digest whose Authorization is one clean header
// line, or nothing.
func FuzzChallenge(f *testing.F) {
	for _, s := range []string{
		`Digest realm="Digest:A4", nonce="n", qop="auth,auth-int", opaque="x", stale=true`, `Negotiate, Digest realm=r,nonce=n`,
		`Digest nonce="a\"b", algorithm=MD5`, `Basic realm="x", Digest realm="\\", nonce=","`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		d, err := readDigest([]string{line})
		if err != nil {
			return
		}
		var b buffer
		d.authorize(&b, Login{User: `a"\b`}, "POST", "/wsman", nil)
		head, ok := bytes.CutSuffix(b, []byte("\r\n"))
		if !ok || bytes.ContainsAny(head, "\r\n\x00") {
			t.Fatalf("the header line is %q", b)
		}
		r, err := readDigest([]string{strings.TrimPrefix(string(head), "Authorization: ")})
		if err != nil || r.nonce != d.nonce || r.realm != d.realm || r.opaque != d.opaque {
			t.Fatalf("%+v became %+v, %v", d, r, err)
		}
	})
}

// Any bytes give an answer or an error, within the limits, and where net/http
// reads them too, the same answer.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		httpAnswer(200, "hello"), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"HTTP/1.0 200 OK\n\nhello",
		"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 401 No\r\nWWW-Authenticate: Digest\r\n realm=x\r\nContent-Length: 0\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		br := bufio.NewReaderSize(bytes.NewReader(in), 512)
		r, err := readHead(br)
		if err != nil {
			return
		}
		body, err := readBody(br, r, nil, 4096)
		if len(body) > 4097 {
			t.Fatalf("%d bytes of body", len(body))
		}
		if err != nil {
			return
		}
		hr, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), &http.Request{Method: http.MethodPost})
		if err != nil || hr.StatusCode < 200 {
			return
		}
		theirs, err := io.ReadAll(hr.Body)
		if err == nil && (hr.StatusCode != r.status || !bytes.Equal(theirs, body)) {
			t.Fatalf("status %d body %q; net/http reads %d %q", r.status, body, hr.StatusCode, theirs)
		}
	})
}
