package receive

import (
	"net/netip"
	"sync"
	"time"

	"github.com/provisiond/provisiond/amt/hello"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	sampleEvery   = time.Minute // one line per source
	samplesMinute = 600         // most lines a minute for all sources
	maxSampled    = 4096        // sources that each of two generations remembers
)

// sampler keeps a flood of refusals from becoming a flood of log lines: each
// source gets one line a minute, which says how many it replaces.
type sampler struct {
	mu       sync.Mutex
	all      *buckets
	cur, old map[netip.Addr]sampled
	left     uint64 // lines left out for forgotten sources, or because of the common limit
}

type sampled struct {
	next time.Duration
	left uint64
}

func newSampler() *sampler {
	return &sampler{all: newBuckets(samplesMinute, time.Minute, 1), cur: map[netip.Addr]sampled{}, old: map[netip.Addr]sampled{}}
}

// take reports whether to write a line about source now. left is the number of
// this source's lines left out before it, leftAll that of sources forgotten
// since. A whole IPv6 /64 counts as one source.
func (s *sampler) take(source netip.Addr, now time.Duration) (ok bool, left, leftAll uint64) {
	if source.Is6() {
		source = networkOf(source)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, known := s.cur[source]
	if !known {
		if len(s.cur) >= maxSampled {
			for _, gone := range s.old {
				s.left += gone.left
			}
			s.cur, s.old = s.old, s.cur
			clear(s.cur)
		}
		e = s.old[source]
		delete(s.old, source)
	}
	if now < e.next || !s.all.take(netip.Addr{}, now) {
		e.left++
		s.cur[source] = e
		return false, 0, 0
	}
	left, leftAll = e.left, s.left
	s.left = 0
	s.cur[source] = sampled{next: now + sampleEvery}
	return true, left, leftAll
}

// refuse counts a refusal and, sampled, says why. Fields must not hold received
// bytes as text, only as hexadecimal digits and numbers, so that nobody can
// write into our log by connecting.
func (s *Server) refuse(r hello.Result, from netip.AddrPort, why string, fields ...zap.Field) {
	s.metrics.received[r].Inc()
	s.sampled(zap.WarnLevel, from, "hello refused: "+why, append(fields, zap.String("result", string(r)))...)
}

func (s *Server) sampled(level zapcore.Level, from netip.AddrPort, text string, fields ...zap.Field) {
	ok, left, leftAll := s.samples.take(from.Addr(), s.now())
	if !ok {
		return
	}
	fields = append(fields, zap.Stringer("from", from))
	if left > 0 {
		fields = append(fields, zap.Uint64("left_out", left))
	}
	if leftAll > 0 {
		fields = append(fields, zap.Uint64("left_out_others", leftAll))
	}
	s.log.Log(level, text, fields...)
}
