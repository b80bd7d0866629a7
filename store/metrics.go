package store

import (
	"encoding/binary"
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
	broken     prometheus.Counter
	verified   prometheus.Gauge
	keys       *prometheus.CounterVec
	refused    prometheus.Gauge
	signedSeq  prometheus.Gauge
	signedHash prometheus.Gauge
}

// NewMetrics registers the store's metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		up: prometheus.NewGauge(prometheus.GaugeOpts{Name: "provisiond_store_up", Help: "1 when the last look at the database succeeded."}),
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_store_operations_total",
			Help: "Transactions by kind and result."}, []string{"operation", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "provisiond_store_operation_duration_seconds",
			Help: "Time from asking to the durable answer.", Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100}, []string{"operation"}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "provisiond_store_batch_writes",
			Help: "Writes that shared one commit (SQLite).", Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100}),
		claims: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_lease_claims_total",
			Help: "Attempts to take a device's lease."}, []string{"result"}),
		fenced: prometheus.NewCounter(prometheus.CounterOpts{Name: "provisiond_fence_rejections_total",
			Help: "Writes refused because the lease was over or taken."}),
		audit: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_audit_records_total",
			Help: "Audit records written."}, []string{"result"}),
	}
	m.broken = prometheus.NewCounter(prometheus.CounterOpts{Name: "provisiond_audit_verify_failures_total",
		Help: "Times the audit chain was walked and found broken."})
	m.verified = prometheus.NewGauge(prometheus.GaugeOpts{Name: "provisiond_audit_last_verified_timestamp_seconds",
		Help: "Unix time when the whole audit chain was last found intact; 0 before the first time."})
	m.refused = prometheus.NewGauge(prometheus.GaugeOpts{Name: "provisiond_rows_refused",
		Help: "Rows that grant something and that this server did not sign, at the last look; they count for nothing."})
	m.signedSeq = prometheus.NewGauge(prometheus.GaugeOpts{Name: "provisiond_audit_checkpoint_record",
		Help: "The last audit record under a signed checkpoint; it never falls."})
	m.signedHash = prometheus.NewGauge(prometheus.GaugeOpts{Name: "provisiond_audit_checkpoint_hash",
		Help: "The first 48 bits of that record's hash, as a number."})
	m.keys = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_key_operations_total",
		Help: "Envelopes sealed and opened, data keys wrapped and unwrapped."}, []string{"backend", "operation", "result"})
	for _, op := range []string{keySeal, keyOpen, keyWrap, keyUnwrap} {
		m.keys.WithLabelValues(keyBackend, op, "ok")
		m.keys.WithLabelValues(keyBackend, op, "error")
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
		reg.MustRegister(m.up, m.operations, m.duration, m.batch, m.claims, m.fenced, m.audit, m.broken, m.verified, m.keys, m.refused,
			m.signedSeq, m.signedHash)
	}
	return m
}

// What a key does, and where it is: in this process, whatever the source of the
// master key.
const (
	keyBackend = "memory"
	keySeal    = "seal"
	keyOpen    = "open"
	keyWrap    = "wrap"
	keyUnwrap  = "unwrap"
)

// checkpoint shows a checkpoint to whoever stores metrics. A float holds 53
// bits of a hash exactly.
func (m *Metrics) checkpoint(c AuditCheckpoint) {
	if len(c.Hash) < 6 {
		return
	}
	m.signedSeq.Set(float64(c.Seq))
	m.signedHash.Set(float64(binary.BigEndian.Uint64(append([]byte{0, 0}, c.Hash[:6]...))))
}

func (m *Metrics) key(op string, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.keys.WithLabelValues(keyBackend, op, result).Inc()
}

func (m *Metrics) done(op string, start time.Time, err error) {
	m.duration.WithLabelValues(op).Observe(time.Since(start).Seconds())
	m.operations.WithLabelValues(op, resultWord(err)).Inc()
}
