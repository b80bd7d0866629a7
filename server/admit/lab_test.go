package admit

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/seal"
	"github.com/provisiond/provisiond/store/storetest"
)

// desk is an Admitter on a store of its own, with a certificate that suits
// whoever announces ours.
type desk struct {
	*Admitter
	policy Policy
}

var ours = []amt.TrustHash{{Algorithm: amt.SHA256, Sum: make([]byte, 32)}}

func strangers(n int) []amt.TrustHash {
	out := make([]amt.TrustHash, n)
	for i := range out {
		out[i] = amt.TrustHash{Algorithm: amt.SHA256, Sum: append([]byte{byte(n), byte(i), 0xA5}, make([]byte, 29)...)}
	}
	return out
}

func newDesk(tb testing.TB, engine string, durable bool, p Policy) *desk {
	tb.Helper()
	keys, err := seal.New([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		tb.Fatal(err)
	}
	var o store.Options
	if durable && engine == store.Postgres {
		o.URL = storetest.DurableURL(tb)
	} else {
		o = storetest.Options(tb, engine)
	}
	o.Keys = keys
	db, err := store.Open(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = db.Close() })
	storetest.HoldRoads(tb, db)
	d := &desk{policy: p}
	d.Admitter = New(Config{
		DB: db, Policy: func() Policy { return d.policy }, Rand: rand.Reader, Log: zap.NewNop(),
		Match: func(announced []amt.TrustHash, _ certs.Hints) ([]certs.Candidate, error) {
			for _, h := range announced {
				if h.String() == ours[0].String() {
					return make([]certs.Candidate, 1), nil
				}
			}
			return nil, reason.Because(reason.RootNotTrusted, "no certificate here ends in one of the %d roots", len(announced))
		},
		Enqueue: func(context.Context, *store.Tx, int64, time.Time, int) error { return nil },
	})
	return d
}

func openPolicy() Policy {
	return Policy{
		Mode: Open, Reprovision: ReprovisionApprove, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		HelloPause: 3 * time.Second, MostHastened: 6, StopPause: time.Hour, Window: 24 * time.Hour, TwinWithin: 10 * time.Minute,
	}
}

func uuidOf(n int) amt.UUID {
	u := amt.UUID{0x4c, 0x4c, 0x45, 0x44}
	binary.BigEndian.PutUint64(u[4:], uint64(n)*0x9E3779B97F4A7C15) // spread like real ones
	binary.BigEndian.PutUint32(u[12:], uint32(n))
	return u
}

func plain(n int, list []amt.TrustHash) hello.Hello {
	return hello.Hello{
		Message: hello.Message{AdminCredentialsSet: true, Version: hello.VersionPKI, UUID: uuidOf(n), Hashes: list},
		From:    netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 16994),
		Local:   netip.MustParseAddrPort("10.255.0.1:9971"), At: time.Now(), Via: hello.ViaPlain,
	}
}

func labKeys(t testing.TB) *seal.Keyring {
	t.Helper()
	keys, err := seal.New([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}
