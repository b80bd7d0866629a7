package rest

import (
	"context"
	"sync"
	"time"

	"github.com/provisiond/provisiond/store"
)

// To count the devices of a large fleet takes a noticeable time, and every page
// shows the numbers. Where there are more than countFew they are counted again only
// after countRest times as long as it took; in between they are shown with their age.
const (
	countFew  = 10_000
	countRest = 20
)

// fleetCounts are how many devices there are of each kind.
type fleetCounts struct {
	lifecycles map[store.Lifecycle]int
	reasons    map[string]int
	at         time.Time // zero: just now
}

func (f fleetCounts) total() (n int) {
	for _, of := range f.lifecycles {
		n += of
	}
	return n
}

// counter remembers the last counting.
type counter struct {
	mu   sync.Mutex // held while one counts: the others want its answer
	last fleetCounts
	done time.Time
	took time.Duration
}

// count gives the numbers as they are, or as they were not long ago. read is
// only asked in the first case.
func (c *counter) count(read func() (fleetCounts, error)) (fleetCounts, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.total() > countFew && time.Since(c.done) < countRest*c.took {
		old := c.last
		old.at = c.done
		return old, nil
	}
	began := time.Now()
	got, err := read()
	if err == nil {
		c.last, c.done = got, time.Now()
		c.took = c.done.Sub(began)
	}
	return got, err
}

func (s *Server) countFleet(ctx context.Context) (fleetCounts, error) {
	return s.counts.count(func() (got fleetCounts, err error) {
		// Whoever asked may go: the next one wants to know as well.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = s.db.Read(ctx, func(tx *store.Tx) (err error) {
			if got.lifecycles, err = tx.CountDevices(ctx); err != nil {
				return err
			}
			got.reasons, err = tx.CountBy(ctx, store.ColumnReason)
			return err
		})
		return got, err
	})
}
