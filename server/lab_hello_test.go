package server

import (
	"net/netip"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/sim"
)

// helloOf is what the listener makes of a device's hello, at any time.
func helloOf(d *sim.Device, roots []amt.TrustHash, at time.Time) hello.Hello {
	return helloFrom(d.UUID(), d.Addr().Addr(), roots, at)
}

func helloFrom(u amt.UUID, from netip.Addr, roots []amt.TrustHash, at time.Time) hello.Hello {
	return hello.Hello{
		Message: hello.Message{AdminCredentialsSet: true, Version: hello.VersionPKI, UUID: u, Hashes: roots},
		From:    netip.AddrPortFrom(from, 40000), At: at, Via: hello.ViaPlain,
	}
}

func waitFor(t *testing.T, ok func() bool) bool {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if ok() {
			return true
		}
	}
	return false
}
