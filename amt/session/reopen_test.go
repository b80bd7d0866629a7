package session

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
)

// A device that ends each connection after one answer, in the ways there are,
// is spoken to over new ones, as long as it shows the same certificate.
func TestReopenedLines(t *testing.T) {
	t.Parallel()
	first, second := deviceCertificate(certtest.Options{Name: "first"}), deviceCertificate(certtest.Options{Name: "second"})
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS12, tls.VersionTLS13} {
		for _, way := range []string{"announced", "close_notify", "FIN alone", "another device"} {
			t.Run(tls.VersionName(version)+"/"+way, func(t *testing.T) {
				t.Parallel()
				closed := make(chan struct{}, 8)
				addr := serveOnce(t, func(n int, c net.Conn) {
					conf := &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: version, Certificates: []tls.Certificate{first}}
					if way == "another device" && n > 0 {
						conf.Certificates[0] = second
					}
					tc := tls.Server(c, conf)
					answerOne(tc, way == "announced")
					if way != "FIN alone" {
						_ = tc.Close()
					}
					_ = c.Close()
					closed <- struct{}{}
				})
				d, _ := testDialer(t, Config{})
				s, err := d.Dial(t.Context(), Target{Addr: addr, MinTLS: tls.VersionTLS10, MaxTLS: version})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				for i := range 3 {
					_, err := s.State(t.Context())
					if way == "another device" && i > 0 {
						wantReason(t, err, reason.TLSPinnedKeyChanged)
						return
					}
					if err != nil {
						t.Fatalf("question %d: %v", i, err)
					}
					<-closed
				}
				if v := s.Peer().Verified; v != "none" {
					t.Errorf("verified %q: that a redial meets the same device proves nothing about it", v)
				}
			})
		}
	}
}

// serveOnce runs handle for each connection and waits for all at the end.
func serveOnce(t *testing.T, handle func(n int, c net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	open.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer c.Close()
				handle(n, c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		open.Wait()
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

func answerOne(c net.Conn, announce bool) {
	var got []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(got, []byte("</Envelope>")) {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		got = append(got, buf[:n]...)
	}
	header := ""
	if announce {
		header = "Connection: close\r\n"
	}
	_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s", header, len(stateAnswer), stateAnswer)
}
