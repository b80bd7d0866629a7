package wsman

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// operations is the closed set of the operation label: the generic operations,
// and each method of the call sheet this program uses.
var operations = []string{
	"Get", "Put", "Create", "Delete", "Enumerate", "Pull",
	"GetUuid", "ExtendProvisioningPeriod", "GetLowAccuracyTimeSynch", "SetHighAccuracyTimeSynch",
	"SetMEBxPassword", "SetAdminAclEntryEx", "GenerateKeyPair", "AddKey", "AddCertificate",
	"AddTrustedRootCertificate", "CommitChanges", "Unprovision", "PartialUnprovision", "other",
}

var results = []string{"ok", "fault", "401", "4xx", "5xx", "timeout", "reset", "parse_error", "too_large"}

// Metrics count what devices answer, per request on the wire, and how long a
// call takes with its logins.
type Metrics struct {
	requests map[[2]string]prometheus.Counter
	duration map[string]prometheus.Observer
}

// NewMetrics registers the two metrics with every label value present.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "provisiond_wsman_requests_total",
		Help: "WS-Management requests to devices by operation and result.",
	}, []string{"operation", "result"})
	duration := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:                        "provisiond_wsman_request_duration_seconds",
		Help:                        "Time from sending a WS-Management request to having understood its answer.",
		Buckets:                     []float64{.025, .1, 1, 10, 60},
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
	}, []string{"operation"})
	if reg != nil {
		reg.MustRegister(requests, duration)
	}
	m := &Metrics{requests: map[[2]string]prometheus.Counter{}, duration: map[string]prometheus.Observer{}}
	for _, op := range operations {
		m.duration[op] = duration.WithLabelValues(op)
		for _, r := range results {
			m.requests[[2]string{op, r}] = requests.WithLabelValues(op, r)
		}
	}
	return m
}

func (m *Metrics) count(op, result string) {
	if m == nil {
		return
	}
	if c, ok := m.requests[[2]string{op, result}]; ok {
		c.Inc()
		return
	}
	m.requests[[2]string{"other", result}].Inc()
}

func (m *Metrics) observe(op string, d time.Duration, trace string) {
	if m == nil {
		return
	}
	o, ok := m.duration[op]
	if !ok {
		o = m.duration["other"]
	}
	if e, ok := o.(prometheus.ExemplarObserver); ok && trace != "" {
		e.ObserveWithExemplar(d.Seconds(), prometheus.Labels{"trace_id": trace})
		return
	}
	o.Observe(d.Seconds())
}
