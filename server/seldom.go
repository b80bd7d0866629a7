package server

import (
	"context"
	"sync"
	"time"
)

const (
	seldomShare = 20 // of the time: a job on a timer takes no more of it
	seldomMost  = 10 * time.Minute
)

// seldom makes of periodic work that looks through the whole fleet one that is
// left out until twenty times as long has passed as it took. Work that failed,
// or that took no time to speak of, comes as often as its timer says.
func seldom(work func(context.Context) error) func(context.Context) error {
	var mu sync.Mutex
	var next time.Time
	return func(ctx context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		began := time.Now()
		if began.Before(next) {
			return nil
		}
		err := work(ctx)
		next = time.Time{}
		if err == nil {
			ended := time.Now()
			next = ended.Add(min(seldomShare*ended.Sub(began), seldomMost))
		}
		return err
	}
}
