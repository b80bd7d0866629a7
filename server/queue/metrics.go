package queue

import "github.com/prometheus/client_golang/prometheus"

// Metrics of the queue. Every series exists from the start.
type Metrics struct {
	oldest  prometheus.Gauge
	working prometheus.Gauge
	jobs    *prometheus.CounterVec
	rescued prometheus.Counter
}

// NewMetrics registers the queue's metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		oldest: prometheus.NewGauge(prometheus.GaugeOpts{Name: "provisiond_queue_oldest_ready_age_seconds",
			Help: "How long the run that waits longest could have been worked on."}),
		working: prometheus.NewGauge(prometheus.GaugeOpts{Name: "provisiond_queue_attempts_active",
			Help: "Attempts under way on this node."}),
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_queue_attempts_total",
			Help: "Attempts by what the queue has to do next."}, []string{"result"}),
		rescued: prometheus.NewCounter(prometheus.CounterOpts{Name: "provisiond_queue_rescued_total",
			Help: "Jobs taken back from a node that died."}),
	}
	for _, r := range []string{"done", "again", "error", "panic"} {
		m.jobs.WithLabelValues(r)
	}
	if reg != nil {
		reg.MustRegister(m.oldest, m.working, m.jobs, m.rescued)
	}
	return m
}
