package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

const (
	// closing is how long before its end a setup window gets an event.
	closing = time.Hour
	// silence is how long after its window a device counts as asleep: clocks
	// differ, and firmware may stop between two hellos.
	silence = 10 * time.Minute
)

func newWindowsClosing(reg prometheus.Registerer) prometheus.Gauge {
	return promauto.With(reg).NewGauge(prometheus.GaugeOpts{Name: "provisiond_setup_windows_closing",
		Help: "Devices not set up yet whose setup window ends within an hour."})
}

// windows writes an event for setup windows that are about to close, and makes
// devices dormant whose window is over: they no longer listen, and their next
// sign is a hello.
func (s *Server) windows(ctx context.Context) error {
	var ending, over []store.Device
	if err := s.DB.Read(ctx, func(tx *store.Tx) error {
		n, err := tx.CountClosing(ctx, closing)
		if err != nil {
			return err
		}
		s.metrics.closing.Set(float64(n))
		if ending, err = tx.ClosingWindows(ctx, closing, 500); err != nil {
			return err
		}
		over, err = tx.ExpiredWindows(ctx, silence, 500)
		return err
	}); err != nil {
		return fmt.Errorf("look at setup windows: %w", err)
	}
	for _, d := range ending {
		if err := s.DB.Write(ctx, func(tx *store.Tx) error { return windowClosing(ctx, tx, d) }); err != nil {
			return fmt.Errorf("device %s: %w", d.UUID, err)
		}
		s.log.Info("setup_window.closing", zap.Stringer("device", d.UUID), zap.Time("until", d.WindowUntil),
			zap.String("lifecycle", string(d.Lifecycle)), zap.String("reason", string(d.Reason)))
	}
	for _, d := range over {
		var did bool
		if err := s.DB.Write(ctx, func(tx *store.Tx) (err error) {
			did, err = windowExpired(ctx, tx, d)
			return err
		}); err != nil {
			return fmt.Errorf("device %s: %w", d.UUID, err)
		}
		if did {
			s.log.Info("setup_window.expired", zap.Stringer("device", d.UUID), zap.Time("until", d.WindowUntil),
				zap.String("lifecycle", string(d.Lifecycle)), zap.String("reason", string(d.Reason)))
		}
	}
	return nil
}

func windowClosing(ctx context.Context, tx *store.Tx, d store.Device) error {
	_, err := tx.AddEvent(ctx, store.Event{UUID: d.UUID, Name: "setup_window_closing", Reason: reason.SetupWindowClosing, Actor: "system",
		Detail: "the device stops listening at " + d.WindowUntil.UTC().Format(time.RFC3339) + " and " + waitsFor(d),
		Data: map[string]any{"window_until": d.WindowUntil.UTC().Format(time.RFC3339), "lifecycle": string(d.Lifecycle),
			"reason": string(d.Reason)}})
	return err
}

// windowExpired makes a device dormant, unless something has happened to it
// since it was listed.
func windowExpired(ctx context.Context, tx *store.Tx, d store.Device) (bool, error) {
	now, err := tx.Device(ctx, d.UUID)
	if err != nil {
		return false, err
	}
	if now.Lifecycle != d.Lifecycle || now.Fence != d.Fence || !now.WindowUntil.Equal(d.WindowUntil) || now.Owner != "" {
		return false, nil
	}
	t := store.Transition{UUID: d.UUID, To: store.Dormant, Reason: reason.SetupWindowExpired, Event: "window_expired", Actor: "system",
		Detail: "its setup window ended at " + d.WindowUntil.UTC().Format(time.RFC3339) + " while it " + waitedFor(d),
		Data:   map[string]any{"from": string(d.Lifecycle), "was": string(d.Reason), "last_seen": d.LastSeen.UTC().Format(time.RFC3339)}}
	run, err := tx.LiveRun(ctx, d.UUID)
	switch {
	case err == nil:
		t.RunID = run.ID
		if err := tx.FinishRun(ctx, run.ID, store.RunCancelled, reason.SetupWindowExpired, "the device stopped listening",
			string(reason.TheDevice)); err != nil {
			return false, err
		}
	case !errors.Is(err, store.ErrNotFound):
		return false, err
	}
	return true, tx.Transition(ctx, t)
}

func waitsFor(d store.Device) string {
	if d.Reason == "" {
		return "is " + string(d.Lifecycle)
	}
	return "is " + string(d.Lifecycle) + ": " + reason.Of(d.Reason).Title
}

func waitedFor(d store.Device) string {
	if d.Reason == "" {
		return "was " + string(d.Lifecycle)
	}
	return "was " + string(d.Lifecycle) + ": " + reason.Of(d.Reason).Title
}

// strangers bounds the rows that anybody who reaches the hello port can make.
func (s *Server) strangers(ctx context.Context) error {
	n, err := s.DB.PruneStrangers(ctx, s.o.Strangers)
	if n > 0 {
		s.log.Warn("strangers.removed", zap.Int("devices", n), zap.Int("kept", s.o.Strangers))
	}
	return err
}

// reconsider lets devices in that waited for something that has come meanwhile.
func (s *Server) reconsider(ctx context.Context) error {
	n, err := s.Admit.Reconsider(ctx)
	if n > 0 {
		s.log.Info("reconsidered", zap.Int("runs", n))
	}
	return err
}
