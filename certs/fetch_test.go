package certs

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestFetchGivesUp: whoever accepts and says nothing, and whoever says a byte
// now and then, is left after ten seconds.
func TestFetchGivesUp(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(net.Conn) error{
		"nothing is said": func(net.Conn) error { return nil },
		"a byte a second": func(c net.Conn) error {
			if _, err := c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")); err != nil {
				return err
			}
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for {
				<-tick.C
				if _, err := c.Write([]byte{0x30}); err != nil {
					return err
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				here, there := net.Pipe()
				var vendor sync.WaitGroup
				defer vendor.Wait()
				defer there.Close()
				over := &http.Transport{DisableKeepAlives: true,
					DialContext: func(context.Context, string, string) (net.Conn, error) { return here, nil }}
				vendor.Go(func() {
					if _, err := http.ReadRequest(bufio.NewReader(there)); err == nil {
						_ = answer(there)
					}
				})
				start := time.Now()
				data, err := FetchOver(over)(t.Context(), "http://ca.example.com/ca.crt")
				if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != 10*time.Second || data != nil {
					t.Errorf("%d bytes and %v after %s", len(data), err, took)
				}
			})
		})
	}
}
