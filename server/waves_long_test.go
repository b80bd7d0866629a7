//go:build long

package server

import (
	"testing"

	"github.com/provisiond/provisiond/store"
)

// TestLongBadProfile is TestABadProfileAsksOneDevice on a fleet of three hundred.
func TestLongBadProfile(t *testing.T) {
	t.Parallel()
	for _, b := range badProfiles {
		for _, engine := range []string{store.SQLite, store.Postgres} {
			t.Run(b.name+"/"+engine, func(t *testing.T) {
				t.Parallel()
				badProfile(t, 300, engine, b, func(o *Options) { o.MaintainPerMinute, o.Workers = 10_000, 16 })
			})
		}
	}
}
