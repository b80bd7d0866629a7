package receive

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/provisiond/provisiond/amt/hello"
)

// Metrics are what the listener counts. Labels come from closed sets: a UUID or
// an address never is one.
type Metrics struct {
	received    map[hello.Result]prometheus.Counter // read only after NewMetrics
	persist     prometheus.Histogram
	connections prometheus.Gauge
	last        prometheus.Gauge
}

// NewMetrics makes them and, unless reg is nil, registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	received := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "provisiond_hello_received_total",
		Help: "Hellos received, by what became of them.",
	}, []string{"result"})
	m := &Metrics{
		received: make(map[hello.Result]prometheus.Counter),
		persist: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                        "provisiond_hello_persist_duration_seconds",
			Help:                        "Time from a complete hello to its being durable or refused.",
			Buckets:                     []float64{.0005, .001, .005, .01, .025, .05, .1, .25, 1, 2.5, 10},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
		}),
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "provisiond_hello_connections",
			Help: "Connections open on the hello port.",
		}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "provisiond_hello_last_timestamp_seconds",
			Help: "Unix time of the last hello that was accepted or repeated a known one; 0 before the first.",
		}),
	}
	for _, r := range []hello.Result{hello.Accepted, hello.Duplicate, hello.Updated, hello.Malformed, hello.DeniedNetwork,
		hello.DeniedDevice, hello.RateLimited, hello.Overload, hello.StoreError} {
		m.received[r] = received.WithLabelValues(string(r))
	}
	if reg != nil {
		reg.MustRegister(received, m.persist, m.connections, m.last)
	}
	return m
}
