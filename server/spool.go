package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/hello/receive"
	"github.com/provisiond/provisiond/store"
)

// maxSpool bounds the hellos in the spool: about 100 MiB, a night of a large
// fleet.
const maxSpool = 100_000

// spool keeps hellos in a local file while the store is away, and gives them to
// the store when it is back. The listener accepts a hello only when it is on
// this disk or in the store; otherwise it counts store_error, and the device
// will say hello again.
//
// Strangers may say hello too. So a network never has more than twice the room
// that it leaves to all others, as with the workers; relays have no such limit.
//
// The spool does not keep agents' requests: they carry a one-time password, and
// an agent gets an answer and can repeat itself.
type spool struct {
	next  hello.Handler
	path  string
	log   *zap.Logger
	gauge prometheus.Gauge

	mu       sync.Mutex
	f        *os.File
	entries  int
	networks map[netip.Prefix]int // entries by network, of senders that nobody vouched for
	size     int64                // of the file: whole lines
}

// failpointHandler marks crash-test sites before and after the store sees a
// hello.
type failpointHandler struct {
	hello.Handler
	pass func(site string)
}

func (s failpointHandler) HandleHello(ctx context.Context, h hello.Hello) (hello.Result, error) {
	s.pass("hello/before")
	defer s.pass("hello/after")
	return s.Handler.HandleHello(ctx, h)
}

// spooled is one line of the file.
type spooled struct {
	Raw   []byte         `json:"raw"`
	From  netip.AddrPort `json:"from"`
	Local netip.AddrPort `json:"local"`
	At    time.Time      `json:"at"`
	Via   hello.Via      `json:"via"`
	Peer  string         `json:"peer,omitempty"`
	FQDN  string         `json:"fqdn,omitempty"`
	Addr  netip.Addr     `json:"address"`
	Names []string       `json:"names,omitempty"`
}

func newSpool(dir string, next hello.Handler, log *zap.Logger, reg prometheus.Registerer) (*spool, error) {
	s := &spool{networks: map[netip.Prefix]int{}, next: next, path: filepath.Join(dir, "hello.spool"), log: log,
		gauge: promauto.With(reg).NewGauge(prometheus.GaugeOpts{Name: "provisiond_hello_spool_entries",
			Help: "Hellos on this node's disk that wait for the store."})}
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the hello spool: %w", err)
	}
	s.f = f
	in := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("read the hello spool: %w", err)
		}
		var e struct {
			From netip.AddrPort `json:"from"`
			Via  hello.Via      `json:"via"`
		}
		if json.Unmarshal(line, &e) == nil { // replay reports a bad line
			s.count(e.Via, e.From)
		}
		s.entries, s.size = s.entries+1, s.size+int64(len(line))
	}
	// A crash may have cut the last line, for which nobody got an answer. Drop it,
	// or the next line would be written behind it and both would be invalid.
	if err := f.Truncate(s.size); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("repair the hello spool: %w", err)
	}
	s.gauge.Set(float64(s.entries))
	return s, nil
}

// HandleHello gives the hello to the store, or else writes it to the disk.
func (s *spool) HandleHello(ctx context.Context, h hello.Hello) (hello.Result, error) {
	result, err := s.next.HandleHello(ctx, h)
	if err == nil || len(h.Raw) == 0 || !h.OTP.IsZero() {
		return result, err
	}
	if kept := s.keep(h); kept != nil {
		return "", errors.Join(err, kept)
	}
	s.log.Warn("hello.spooled", zap.Stringer("device", h.UUID), zap.Stringer("from", h.From), zap.Error(err))
	return hello.Accepted, nil
}

func (s *spool) keep(h hello.Hello) error {
	line, err := json.Marshal(spooled{Raw: h.Raw, From: h.From, Local: h.Local, At: h.At, Via: h.Via, Peer: h.Peer, FQDN: h.FQDN,
		Addr: h.Address, Names: h.PeerNames})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries >= maxSpool {
		return fmt.Errorf("the hello spool is full (%d)", maxSpool)
	}
	if n := store.NetworkOf(h.From.Addr()); h.Via == hello.ViaPlain && s.networks[n] >= 2*(maxSpool-s.entries) {
		return fmt.Errorf("the hello spool holds %d hellos of %s, and leaves the rest to other networks", s.networks[n], n)
	}
	line = append(line, '\n')
	_, err = s.f.Write(line)
	if err == nil {
		err = s.f.Sync()
	}
	if err != nil {
		_ = s.f.Truncate(s.size) // half a line would spoil the next one
		return fmt.Errorf("write the hello spool: %w", err)
	}
	s.count(h.Via, h.From)
	s.entries, s.size = s.entries+1, s.size+int64(len(line))
	s.gauge.Set(float64(s.entries))
	return nil
}

// count counts a hello for its network; mu is held.
func (s *spool) count(via hello.Via, from netip.AddrPort) {
	if via == hello.ViaPlain {
		s.networks[store.NetworkOf(from.Addr())]++
	}
}

// replay gives the spooled hellos to the store, oldest first, and stops at the
// first that the store does not take. A hello replayed twice does no harm. The
// spool keeps new hellos meanwhile: the store may go away again, and take long
// to say so.
func (s *spool) replay(ctx context.Context) error {
	given, done := int64(0), 0
	for {
		s.mu.Lock()
		size := s.size
		if given == size {
			defer s.mu.Unlock()
			return s.empty(done)
		}
		s.mu.Unlock()
		n, err := s.give(ctx, io.NewSectionReader(s.f, given, size-given))
		if err != nil || n < 0 {
			return err // n < 0: still away; the file stays as it is
		}
		given, done = size, done+n
	}
}

// empty removes what the store has taken; mu is held.
func (s *spool) empty(done int) error {
	if s.size == 0 {
		return nil
	}
	if err := s.f.Truncate(0); err != nil {
		return fmt.Errorf("empty the hello spool: %w", err)
	}
	s.entries, s.size = 0, 0
	clear(s.networks)
	s.gauge.Set(0)
	s.log.Info("hello.unspooled", zap.Int("hellos", done))
	return nil
}

// give counts the hellos that the store took; -1 if it refused one.
func (s *spool) give(ctx context.Context, lines io.Reader) (int, error) {
	in := bufio.NewReaderSize(lines, 64<<10)
	for done := 0; ; {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return done, nil
		}
		if err != nil {
			return 0, fmt.Errorf("read the hello spool: %w", err)
		}
		var e spooled
		if err := json.Unmarshal(line, &e); err != nil {
			s.log.Warn("hello.spool_damaged", zap.Error(err))
			continue
		}
		m, err := hello.Parse(e.Raw)
		if err != nil {
			continue
		}
		h := hello.Hello{Message: m, From: e.From, Local: e.Local, At: e.At, Via: e.Via, Peer: e.Peer, FQDN: e.FQDN, Address: e.Addr,
			PeerNames: e.Names}
		if s.once(ctx, h) != nil {
			return -1, nil
		}
		done++
	}
}

// once gives a hello to the store, with as much time as one from the network
// has.
func (s *spool) once(ctx context.Context, h hello.Hello) error {
	ctx, cancel := context.WithTimeout(ctx, receive.HandlerTimeout)
	defer cancel()
	_, err := s.next.HandleHello(ctx, h)
	return err
}

func (s *spool) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.f.Close()
}
