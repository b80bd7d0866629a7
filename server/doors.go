package server

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/provisiond/provisiond/amt/door"
	"github.com/provisiond/provisiond/server/rest"
)

// Connections of the API and the console share the process's descriptors with
// the hello port. Until a connection has brought a request of somebody we know,
// it keeps its place for a short time only.
const (
	untilRequest  = 10 * time.Second // from the accept, or from an answer, to the end of the next request
	untilAnswered = time.Minute      // for a stranger's request, from its first byte to the last of its answer
)

// apiDoor is the API's listener.
type apiDoor struct {
	net.Listener
	door    *door.Door
	metrics doorMetrics
}

type doorMetrics struct {
	open    prometheus.Gauge
	refused prometheus.Counter
}

func newDoorMetrics(reg prometheus.Registerer) doorMetrics {
	f := promauto.With(reg)
	return doorMetrics{
		open: f.NewGauge(prometheus.GaugeOpts{Name: "provisiond_api_connections", Help: "Connections open to the API and the console."}),
		refused: f.NewCounter(prometheus.CounterOpts{Name: "provisiond_api_connections_refused_total",
			Help: "Connections to the API that were closed because there were too many, of one source or in all."}),
	}
}

func (l *apiDoor) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &apiConn{Conn: nc, l: l}
		c.guest = l.door.Enter(addressOf(nc), func() bool {
			l.metrics.refused.Inc()
			_ = nc.Close() // the server of c closes it
			return true
		})
		if c.guest == nil {
			l.metrics.refused.Inc()
			_ = nc.Close()
			continue
		}
		l.metrics.open.Inc()
		c.mu.Lock()
		c.timer = time.AfterFunc(untilRequest, func() { _ = nc.Close() })
		c.mu.Unlock()
		return c, nil
	}
}

// apiConn is a connection of an apiDoor.
type apiConn struct {
	net.Conn
	l     *apiDoor
	guest *door.Guest
	once  sync.Once

	mu    sync.Mutex
	timer *time.Timer
	known bool // it brought a request of somebody we know
}

func (c *apiConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.mu.Lock()
		c.timer.Stop()
		c.mu.Unlock()
		c.guest.Leave()
		c.l.metrics.open.Dec()
	})
	return err
}

// turned follows what net/http does with the connection. A stranger waits even
// while net/http serves it: an answer may be as slow as its reader.
func (c *apiConn) turned(state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case state == http.StateActive && c.known:
		c.guest.Busy()
	case state == http.StateActive:
		c.timer.Reset(untilAnswered)
		c.guest.Wait()
	case state == http.StateIdle:
		c.guest.Wait()
		if !c.known {
			c.timer.Reset(untilRequest)
		}
	}
}

// vouch lets the peer keep the connection for as long as it likes.
func (c *apiConn) vouch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known {
		c.known = true
		c.timer.Stop()
		c.guest.Known()
	}
	c.guest.Busy()
}

// apiConnOf finds the apiConn under TLS.
func apiConnOf(c net.Conn) *apiConn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	a, _ := c.(*apiConn)
	return a
}

// behind makes an http.Server tell the door about its connections, and the API
// for whom to vouch.
func (l *apiDoor) behind(h *http.Server) {
	h.ConnState = func(c net.Conn, state http.ConnState) {
		if a := apiConnOf(c); a != nil {
			a.turned(state)
		}
	}
	h.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if a := apiConnOf(c); a != nil {
			ctx = rest.WithVouch(ctx, a.vouch)
		}
		return ctx
	}
}
