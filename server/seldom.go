package server

import (
	"context"
	"sync"
	"time"
)

const (
	seldomShare = 20 // a timer's job takes no larger share of the time
	seldomMost  = 10 * time.Minute
)

// seldom makes periodic work that looks through the whole fleet rest for twenty
// times as long as it took. Work that failed, or took almost no time, comes
// with each tick.
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
