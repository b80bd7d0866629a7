package store

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of the store. Every series exists from the start, so that a rate
// over it begins at 0.
type Metrics struct {
	up         prometheus.Gauge
	operations *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	batch      prometheus.Histogram
	claims     *prometheus.CounterVec
	fenced     prometheus.Counter
	audit      *prometheus.CounterVec
}

// NewMetrics registers the store's metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		up: prometheus.NewGauge(prometheus.GaugeOpts{Name: "provisiond_store_up", Help: "1 when the last look at the database succeeded."}),
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_store_operations_total",
			Help: "Transactions by kind and result."}, []string{"operation", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "provisiond_store_operation_duration_seconds",
			Help: "Time from asking to the durable answer.", Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5}}, []string{"operation"}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "provisiond_store_batch_writes",
			Help: "Writes that shared one commit (SQLite).", Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128}}),
		claims: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_lease_claims_total",
			Help: "Attempts to take a device's lease."}, []string{"result"}),
		fenced: prometheus.NewCounter(prometheus.CounterOpts{Name: "provisiond_fence_rejections_total",
			Help: "Writes refused because the lease was over or taken."}),
		audit: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_audit_records_total",
			Help: "Audit records written."}, []string{"result"}),
	}
	for _, op := range []string{"read", "write", "commit"} {
		m.duration.WithLabelValues(op)
		for _, r := range []string{"ok", "error", "unknown"} {
			m.operations.WithLabelValues(op, r)
		}
	}
	for _, r := range []string{"won", "empty", "error"} {
		m.claims.WithLabelValues(r)
	}
	for _, r := range []string{"ok", "error"} {
		m.audit.WithLabelValues(r)
	}
	if reg != nil {
		reg.MustRegister(m.up, m.operations, m.duration, m.batch, m.claims, m.fenced, m.audit)
	}
	return m
}

func (m *Metrics) done(op string, start time.Time, err error) {
	m.duration.WithLabelValues(op).Observe(time.Since(start).Seconds())
	m.operations.WithLabelValues(op, resultWord(err)).Inc()
}
