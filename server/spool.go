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
)

// maxSpool bounds the hellos kept while the store is away: about 100 MiB, a
// night of a large fleet.
const maxSpool = 100_000

// spool keeps hellos in a local file while the store is away, and gives them to
// the store when it is back. A hello is answered for only when it is on the
// disk here or in the store; what fits in neither is counted as store_error,
// and the device will say it again.
//
// Agents' requests are not kept: they carry a one-time password, and an agent
// gets an answer and can repeat itself.
type spool struct {
	next  hello.Handler
	path  string
	log   *zap.Logger
	gauge prometheus.Gauge

	mu      sync.Mutex
	f       *os.File
	entries int
}

// sited is the way of a hello into the store with a kill point at either end:
// nothing of it is durable yet, and the device may go away believing that it is.
type sited struct {
	hello.Handler
	pass func(site string)
}

func (s sited) HandleHello(ctx context.Context, h hello.Hello) (hello.Result, error) {
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
}

func newSpool(dir string, next hello.Handler, log *zap.Logger, reg prometheus.Registerer) (*spool, error) {
	s := &spool{next: next, path: filepath.Join(dir, "hello.spool"), log: log,
		gauge: promauto.With(reg).NewGauge(prometheus.GaugeOpts{Name: "provisiond_hello_spool_entries", Help: "Hellos on this node's disk that wait for the store."})}
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the hello spool: %w", err)
	}
	s.f = f
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 128<<10)
	for lines.Scan() {
		s.entries++
	}
	s.gauge.Set(float64(s.entries))
	return s, nil
}

// HandleHello gives the hello to the store, else to the disk.
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
	line, err := json.Marshal(spooled{Raw: h.Raw, From: h.From, Local: h.Local, At: h.At, Via: h.Via, Peer: h.Peer, FQDN: h.FQDN, Addr: h.Address})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries >= maxSpool {
		return fmt.Errorf("the hello spool is full (%d)", maxSpool)
	}
	if _, err := s.f.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write the hello spool: %w", err)
	}
	if err := s.f.Sync(); err != nil {
		return fmt.Errorf("write the hello spool: %w", err)
	}
	s.entries++
	s.gauge.Set(float64(s.entries))
	return nil
}

// replay gives what is spooled to the store, oldest first, and stops at the
// first that the store does not take. A hello replayed twice does no harm.
func (s *spool) replay(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries == 0 {
		return nil
	}
	if _, err := s.f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read the hello spool: %w", err)
	}
	in := bufio.NewReaderSize(s.f, 64<<10)
	done := 0
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break // a last line cut by a crash was never answered for
		}
		if err != nil {
			return fmt.Errorf("read the hello spool: %w", err)
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
		h := hello.Hello{Message: m, From: e.From, Local: e.Local, At: e.At, Via: e.Via, Peer: e.Peer, FQDN: e.FQDN, Address: e.Addr}
		if _, err := s.next.HandleHello(ctx, h); err != nil {
			return nil // still away; the file stays as it is
		}
		done++
	}
	if err := s.f.Truncate(0); err != nil {
		return fmt.Errorf("empty the hello spool: %w", err)
	}
	s.entries = 0
	s.gauge.Set(0)
	s.log.Info("hello.unspooled", zap.Int("hellos", done))
	return nil
}

func (s *spool) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.f.Close()
}
