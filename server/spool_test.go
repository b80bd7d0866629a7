package server

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
)

// flaky is a store that is there or not.
type flaky struct {
	away bool
	got  []hello.Hello
}

func (f *flaky) HandleHello(_ context.Context, h hello.Hello) (hello.Result, error) {
	if f.away {
		return "", errors.New("the database is away")
	}
	f.got = append(f.got, h)
	return hello.Accepted, nil
}

func aHello(t *testing.T, n byte) hello.Hello {
	t.Helper()
	m, err := hello.Parse(hello.Message{Version: hello.VersionPKI, UUID: amt.UUID{n},
		Hashes: []amt.TrustHash{{Algorithm: amt.SHA1, Sum: make([]byte, 20)}}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	return hello.Hello{Message: m, From: netip.MustParseAddrPort("127.0.0.9:4000"), At: time.Now().UTC().Truncate(time.Millisecond),
		Via: hello.ViaPlain}
}

func TestNoHelloIsLostWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := &flaky{away: true}
	s, err := newSpool(dir, store, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	for n := range byte(5) {
		if r, err := s.HandleHello(t.Context(), aHello(t, n)); err != nil || r != hello.Accepted {
			t.Fatalf("hello %d: %q, %v", n, r, err)
		}
	}
	if err := s.replay(t.Context()); err != nil || len(store.got) != 0 {
		t.Fatalf("replayed into a store that is away: %v", err)
	}
	// The process dies in the middle of a line; another one finds the file.
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "hello.spool")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, []byte(`{"raw":"AAAA`)...), 0o600); err != nil {
		t.Fatal(err)
	}
	// The store is still away: what is kept now is not spoilt by that line.
	if s, err = newSpool(dir, store, zap.NewNop(), prometheus.NewRegistry()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.HandleHello(t.Context(), aHello(t, 5)); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	store.away = false
	s, err = newSpool(dir, store, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.replay(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(store.got) != 6 {
		t.Fatalf("%d of 6 hellos reached the store", len(store.got))
	}
	for n, h := range store.got {
		want := aHello(t, byte(n))
		if h.UUID != want.UUID || h.From != want.From || len(h.Hashes) != 1 {
			t.Errorf("hello %d came back as %+v", n, h)
		}
	}
	if err := s.replay(t.Context()); err != nil || len(store.got) != 6 {
		t.Errorf("an empty spool was replayed again: %v", err)
	}
}

// stuck is a store that is away at first, then takes one hello and says nothing, as
// behind a line that swallows everything. It goes on when it is told to.
type stuck struct {
	asked, goOn chan struct{}

	mu    sync.Mutex
	calls int
	got   []hello.Hello
}

func (s *stuck) HandleHello(ctx context.Context, h hello.Hello) (hello.Result, error) {
	s.mu.Lock()
	s.calls++
	call := s.calls
	s.mu.Unlock()
	if call == 2 {
		close(s.asked)
		select {
		case <-s.goOn:
		case <-ctx.Done():
		}
	}
	select {
	case <-s.goOn:
	default:
		return "", errors.New("the database is away")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, h)
	return hello.Accepted, nil
}

// TestAReplayHoldsUpNoHello: while one spooled hello hangs on its way into the
// store, others are kept on the disk, and all reach the store in the end.
func TestAReplayHoldsUpNoHello(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := &stuck{asked: make(chan struct{}), goOn: make(chan struct{})}
	goOn := sync.OnceFunc(func() { close(store.goOn) })
	s, err := newSpool(dir, store, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	defer goOn()
	keep := func(n byte) {
		t.Helper()
		kept := make(chan error, 1)
		go func() {
			_, err := s.HandleHello(t.Context(), aHello(t, n))
			kept <- err
		}()
		select {
		case err := <-kept:
			if err != nil {
				t.Fatalf("hello %d: %v", n, err)
			}
		case <-time.After(patience):
			t.Fatalf("hello %d waits for the replay", n)
		}
	}
	keep(0)
	replayed := make(chan error, 1)
	go func() { replayed <- s.replay(t.Context()) }()
	<-store.asked // the replay hangs
	for n := range byte(3) {
		keep(1 + n)
	}
	goOn()
	if err := <-replayed; err != nil {
		t.Fatal(err)
	}
	if err := s.replay(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := map[amt.UUID]int{}
	for _, h := range store.got {
		seen[h.UUID]++
	}
	if len(store.got) != 4 || len(seen) != 4 {
		t.Errorf("the store got %d hellos of %d devices, want one of each of 4", len(store.got), len(seen))
	}
	if text, err := os.ReadFile(filepath.Join(dir, "hello.spool")); err != nil || len(text) != 0 || s.entries != 0 {
		t.Errorf("%d entries and %d bytes are left: %v", s.entries, len(text), err)
	}
}

func TestAnAgentsOneTimePasswordStaysOffTheDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := newSpool(dir, &flaky{away: true}, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	h := aHello(t, 1)
	h.OTP = amt.NewSecret("0123456789abcdef")
	if _, err := s.HandleHello(t.Context(), h); err == nil {
		t.Fatal("a request with a one-time password was answered for while the store is away")
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "hello.spool")); len(text) != 0 {
		t.Fatalf("the spool holds %q", text)
	}
}

// TestNoNetworkFillsTheSpool: while the store is away a loud network does not keep
// the hellos of another out, nor does one that was loud before a restart.
func TestNoNetworkFillsTheSpool(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := newSpool(dir, &flaky{away: true}, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	loud := aHello(t, 1)
	if _, err := s.HandleHello(t.Context(), loud); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if s, err = newSpool(dir, &flaky{away: true}, zap.NewNop(), prometheus.NewRegistry()); err != nil {
		t.Fatal(err)
	}
	defer s.close()
	network := netip.MustParsePrefix("127.0.0.0/24")
	if n := s.networks[network]; n != 1 {
		t.Fatalf("after a restart %d hellos are counted", n)
	}
	// As if it had gone on for hours.
	s.networks[network] = maxSpool * 2 / 3
	s.entries = maxSpool * 2 / 3
	if r, err := s.HandleHello(t.Context(), loud); err == nil {
		if r, err = s.HandleHello(t.Context(), loud); err == nil {
			t.Errorf("the loud network is kept: %s", r)
		}
	}
	for n := range byte(3) {
		other := aHello(t, n)
		other.From = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1 + n, 9}), 4000)
		if r, err := s.HandleHello(t.Context(), other); err != nil || r != hello.Accepted {
			t.Errorf("a hello of another network: %q, %v", r, err)
		}
	}
	relayed := aHello(t, 9)
	relayed.Via = hello.ViaRelay
	if r, err := s.HandleHello(t.Context(), relayed); err != nil || r != hello.Accepted {
		t.Errorf("a relay's hello from the loud network: %q, %v", r, err)
	}
}
