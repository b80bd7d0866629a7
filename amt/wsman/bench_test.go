package wsman

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// pullAnswer is as long as what a device says of its software: 11 instances.
func pullAnswer() string {
	var b strings.Builder
	b.WriteString(`<g:PullResponse xmlns:g="http://schemas.xmlsoap.org/ws/2004/09/enumeration"><g:Items>`)
	for i := range 11 {
		fmt.Fprintf(&b, `<h:CIM_SoftwareIdentity xmlns:h="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_SoftwareIdentity"><h:InstanceID>Instance %d</h:InstanceID>`+
			`<h:IsEntity>true</h:IsEntity><h:VersionString>11.8.50</h:VersionString></h:CIM_SoftwareIdentity>`, i)
	}
	b.WriteString(`</g:Items><g:EndOfSequence></g:EndOfSequence></g:PullResponse>`)
	return soap("1", b.String())
}

func BenchmarkParse(b *testing.B) {
	body := []byte(pullAnswer())
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(body); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCall is one method call with digest over net.Pipe, the far end's work
// included.
func BenchmarkCall(b *testing.B) {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		br := bufio.NewReader(there)
		for n := 1; ; n++ {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			answer := refusal("n", `, qop="auth"`)
			if r.Header.Get("Authorization") != "" {
				answer = httpAnswer(200, soap("", committed))
			}
			if _, err := io.WriteString(there, answer); err != nil {
				return
			}
		}
	}()
	c := NewClient(here, Config{Host: "10.0.0.1:16993", Logins: []Login{login("active", "P@ssw0rd")}})
	defer c.Close()
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := commit(c, ctx); err != nil {
			b.Fatal(err)
		}
	}
}
