package receive_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/hello/receive"
)

// TestProbePage: a stock HTTP client on a device's network sees that its road
// ends here and which address it comes from; nothing of it is counted.
func TestProbePage(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		in := listen(t, receive.Config{}, address, nil)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+in.addr.String()+receive.ProbePath, nil)
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{}}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !resp.Close {
			t.Errorf("%s, close %v, %v", resp.Status, resp.Close, err)
		}
		if want := "you come from " + in.addr.Addr().String() + ":"; !strings.Contains(string(body), want) {
			t.Errorf("%q does not say %q", body, want)
		}
		in.stop()
		if n := in.received(hello.Malformed); n != 0 {
			t.Errorf("%v counted as malformed", n)
		}
	}
}

// TestOnlyTheProbeIsAnswered: nothing else in HTTP gets a byte, and each is
// counted as the noise it is.
func TestOnlyTheProbeIsAnswered(t *testing.T) {
	t.Parallel()
	for _, said := range []string{
		"GET / HTTP/1.1\r\n\r\n", "GET /probes HTTP/1.1\r\n\r\n", "GET /probe\r\n\r\n", "POST /probe HTTP/1.1\r\n\r\n", "G",
		"GET /probe HTTP/1.1\r\nHost: broken off", "GET /probe HTTP/1.1\r\nX: " + strings.Repeat("x", 4096) + "\r\n\r\n",
	} {
		in := listen(t, receive.Config{}, "127.0.0.1:0", nil)
		if got := in.hear(said); got != "" {
			t.Errorf("%.40q was answered %q", said, got)
		}
		in.stop()
		if n := in.received(hello.Malformed); n != 1 {
			t.Errorf("%.40q: %v counted as malformed", said, n)
		}
	}
	in := listen(t, receive.Config{}, "127.0.0.1:0", nil)
	if got := in.hear("GET /probe HTTP/1.0\r\n", "\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") {
		t.Errorf("in pieces it was answered %q", got)
	}
}

// hear says the pieces, one segment each, and gives all that is answered.
func (in *intake) hear(pieces ...string) string {
	in.Helper()
	c := in.dial()
	for _, p := range pieces {
		_, _ = io.WriteString(c, p)
	}
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
	got, _ := io.ReadAll(c) // a reset is as good as an end
	return string(got)
}
