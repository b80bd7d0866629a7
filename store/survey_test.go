package store_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/store"
)

// TestSurveyOfSubnets: from which subnets devices were heard, how many of them
// wait, and when the last one spoke.
func TestSurveyOfSubnets(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			o := place(t, engine)
			db := open(t, o)
			for _, n := range []int{1, 2, 300} {
				hello(t, db, n)
			}
			six := helloOf(4)
			six.From = netip.MustParseAddrPort("[fd00::7]:16994")
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				_, _, err := tx.SeeHello(ctx, six)
				return err
			})
			if err := db.Exec(t.Context(), "UPDATE devices SET lifecycle = 'provisioned' WHERE address = '10.0.0.2'"); err != nil {
				t.Fatal(err)
			}
			s := store.Look(t.Context(), o)
			if s.Problem != nil {
				t.Fatal(s.Problem)
			}
			type line struct {
				Subnet           string
				Devices, Waiting int
			}
			var got []line
			for _, c := range s.Subnets {
				got = append(got, line{c.Subnet.String(), c.Devices, c.Waiting})
				if time.Since(c.LastHello).Abs() > time.Hour {
					t.Errorf("%s: last hello %v", c.Subnet, c.LastHello)
				}
			}
			if d := cmp.Diff([]line{{"10.0.0.0/24", 2, 1}, {"10.0.1.0/24", 1, 1}, {"fd00::/64", 1, 1}}, got); d != "" {
				t.Error(d)
			}
		})
	}
}
