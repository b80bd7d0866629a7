package server

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// TestTheDoctorInTheDaemon: a failure is an event once, and so is its end; the
// figures are there for Prometheus and the report for the API.
func TestTheDoctorInTheDaemon(t *testing.T) {
	t.Parallel()
	// A file in the data folder tells that the trouble is over.
	well := func(o Options) string { return filepath.Join(o.DataDir, "well") }
	forEachEngine(t, func(p *Options) {
		o := *p
		p.Doctor.DataDir = o.DataDir
		p.Doctor.Look = func(ctx context.Context) (store.Survey, error) {
			s := store.Look(ctx, store.Options{URL: o.DatabaseURL, Dir: o.DataDir})
			if _, err := os.Stat(well(o)); err != nil {
				s.Schema = s.Needs + 1
			}
			return s, nil
		}
	}, func(t *testing.T, l *lab) {
		empty, err := l.api.Doctor(t.Context())
		if err != nil || empty.At != nil || len(empty.Checks) != 0 {
			t.Fatalf("before the first round: %+v %v", empty, err)
		}
		for range 2 { // the second round has nothing new to tell
			r, err := l.api.RunDoctor(t.Context())
			if err != nil || r.Worst != "fail" || statusOf(r, "schema") != "fail" || statusOf(r, "queue") != "pass" {
				t.Fatalf("%+v %v", r, err)
			}
		}
		metrics := scrape(t, l)
		for _, line := range []string{`provisiond_doctor_check{check="schema"} 2`, `provisiond_doctor_check{check="queue"} 0`,
			`provisiond_ntp_offset_seconds 0`} {
			if !strings.Contains(metrics, line) {
				t.Errorf("/metrics lacks %s", line)
			}
		}
		if strings.Contains(metrics, "provisiond_doctor_last_run_timestamp_seconds 0\n") {
			t.Error("the time of the last run is not shown")
		}
		if err := os.WriteFile(well(l.o), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := l.api.RunDoctor(t.Context())
		if err != nil || statusOf(r, "schema") != "pass" || r.Scraped == nil || time.Since(*r.Scraped) > time.Minute {
			t.Fatalf("%+v %v", r, err)
		}
		var told []string
		if err := l.s.DB.Read(t.Context(), func(tx *store.Tx) error {
			events, err := tx.Events(t.Context(), store.EventFilter{Limit: 100})
			for _, e := range events {
				if strings.HasPrefix(e.Name, "doctor.") && e.Data["check"] == "schema" {
					told = append(told, e.Name+" "+e.Actor)
				}
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]string{"doctor.failed doctor", "doctor.recovered doctor"}, told); d != "" {
			t.Error(d)
		}
	})
}

// TestTheDoctorRunsByItself: soon after the start, without being asked.
func TestTheDoctorRunsByItself(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite, func(o *Options) { o.DoctorInterval = 50 * time.Millisecond })
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		r, err := l.api.Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.At != nil && r.Node == "n1" && r.Started != nil && len(r.Checks) > 10 {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("no round was made: %+v", r)
		case <-tick.C:
		}
	}
}

func statusOf(r api.DoctorReport, name string) string {
	for _, c := range r.Checks {
		if c.Name == name {
			return c.Status
		}
	}
	return "none"
}

func scrape(t *testing.T, l *lab) string {
	t.Helper()
	resp, err := http.Get("http://" + l.s.APIAddr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
