package server

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
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
	m, err := hello.Parse(hello.Message{Version: hello.VersionPKI, UUID: amt.UUID{n}, Hashes: []amt.TrustHash{{Algorithm: amt.SHA1, Sum: make([]byte, 20)}}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	return hello.Hello{Message: m, From: netip.MustParseAddrPort("127.0.0.9:4000"), At: time.Now().UTC().Truncate(time.Millisecond), Via: hello.ViaPlain}
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
	store.away = false
	s, err = newSpool(dir, store, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.replay(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(store.got) != 5 {
		t.Fatalf("%d of 5 hellos reached the store", len(store.got))
	}
	for n, h := range store.got {
		want := aHello(t, byte(n))
		if h.UUID != want.UUID || h.From != want.From || len(h.Hashes) != 1 {
			t.Errorf("hello %d came back as %+v", n, h)
		}
	}
	if err := s.replay(t.Context()); err != nil || len(store.got) != 5 {
		t.Errorf("an empty spool was replayed again: %v", err)
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
