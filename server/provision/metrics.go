package provision

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/provisiond/provisiond/amt/reason"
)

// Metrics counts runs and steps. Every label value exists from the start, so
// that nothing happening shows as 0 and not as absence.
type Metrics struct {
	startedBy  *prometheus.CounterVec
	active     prometheus.Gauge
	finishedBy *prometheus.CounterVec
	steps      *prometheus.CounterVec
	stepTime   *prometheus.HistogramVec
	toManaged  prometheus.Histogram
	probes     *prometheus.CounterVec
	jobs       *prometheus.CounterVec
}

// NewMetrics registers the metrics of runs.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		startedBy: f.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_sessions_started_total",
			Help: "Attempts begun, by what caused the run."}, []string{"trigger"}),
		active: f.NewGauge(prometheus.GaugeOpts{Name: "provisiond_sessions_active", Help: "Attempts under way on this node."}),
		finishedBy: f.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_sessions_finished_total",
			Help: "Attempts ended, by outcome, whose fault it was and the reason."}, []string{"outcome", "blame", "reason"}),
		steps: f.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_steps_total", Help: "Steps of the plan, by how they ended."},
			[]string{"step", "result"}),
		stepTime: f.NewHistogramVec(prometheus.HistogramOpts{Name: "provisiond_step_duration_seconds", Help: "Time a step took.",
			Buckets: []float64{.1, .5, 2.5, 15, 60, 180}, NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100},
			[]string{"step"}),
		toManaged: f.NewHistogram(prometheus.HistogramOpts{Name: "provisiond_time_to_provision_seconds",
			Help: "From a device's hello to its verified login.", Buckets: []float64{.1, .25, .5, 1, 2, 5, 10, 30, 60, 120, 300, 900, 3600},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100}),
		probes: f.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_credential_probes_total",
			Help: "Logins tried with stored passwords."}, []string{"candidate", "result"}),
		jobs: f.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_jobs_finished_total",
			Help: "Work on managed devices that came to its end, by kind of run and how it went."}, []string{"kind", "result"}),
	}
	for _, t := range []string{"hello", "timer", "api"} {
		m.startedBy.WithLabelValues(t)
	}
	for _, e := range reason.All() {
		m.finishedBy.WithLabelValues("failed", string(e.Blame), string(e.Code))
		if e.Retry == reason.Repeat { // nothing else is tried again by itself
			m.finishedBy.WithLabelValues("deferred", string(e.Blame), string(e.Code))
		}
	}
	m.finishedBy.WithLabelValues("success", string(reason.NoBlame), "")
	for _, s := range StepNames() {
		for _, r := range []string{"ok", "failed", "skipped"} {
			m.steps.WithLabelValues(s, r)
		}
		m.stepTime.WithLabelValues(s)
	}
	for _, c := range []string{"confirmed", "staged", "superseded"} {
		m.probes.WithLabelValues(c, "ok")
		m.probes.WithLabelValues(c, "refused")
	}
	for _, k := range []string{KindMaintain, KindRotate, KindUnprovision, KindProbe} {
		m.jobs.WithLabelValues(k, "ok")
		m.jobs.WithLabelValues(k, "failed")
	}
	return m
}

func (m *Metrics) started(trigger string) {
	m.startedBy.WithLabelValues(trigger).Inc()
	m.active.Inc()
}

func (m *Metrics) ended() { m.active.Dec() }

// probe counts a login with a stored password on a device found committed.
func (m *Metrics) probe(state, result string) {
	word := map[string]string{"active": "confirmed", "candidate": "staged", "retired": "superseded"}[state]
	m.probes.WithLabelValues(word, result).Inc()
}

func (m *Metrics) step(name, state string, took time.Duration, trace string) {
	result := state
	if state == "done" {
		result = "ok"
	}
	m.steps.WithLabelValues(name, result).Inc()
	if state != "skipped" {
		observe(m.stepTime.WithLabelValues(name), took, trace)
	}
}

func (m *Metrics) finished(v Verdict, j Job, trace string) {
	if v.Kind != "" && v.Kind != KindProvision {
		switch {
		case v.OK:
			m.jobs.WithLabelValues(v.Kind, "ok").Inc()
		case v.Again == 0:
			m.jobs.WithLabelValues(v.Kind, "failed").Inc()
		}
	}
	switch {
	case v.OK:
		m.finishedBy.WithLabelValues("success", string(reason.NoBlame), "").Inc()
		if since := j.Run.CreatedAt; !since.IsZero() && (v.Kind == "" || v.Kind == KindProvision) {
			observe(m.toManaged, time.Since(since), trace)
		}
	case v.Again > 0:
		m.finishedBy.WithLabelValues("deferred", string(v.Blame), string(v.Reason)).Inc()
	default:
		m.finishedBy.WithLabelValues("failed", string(v.Blame), string(v.Reason)).Inc()
	}
}

// observe leaves the trace of the attempt beside the figure, where there is one:
// an exemplar, which is no label and so makes no series.
func observe(o prometheus.Observer, took time.Duration, trace string) {
	if e, ok := o.(prometheus.ExemplarObserver); ok && trace != "" {
		e.ObserveWithExemplar(took.Seconds(), prometheus.Labels{"trace_id": trace})
		return
	}
	o.Observe(took.Seconds())
}
