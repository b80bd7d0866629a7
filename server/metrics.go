package server

import (
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/provisiond/provisiond/store"
)

// metrics are the daemon's own: what it is, and what the store answers.
type metrics struct {
	store   *store.Metrics
	handler http.Handler
	shown   prometheus.Gatherer // what a scrape shows
	reg     *prometheus.Registry
	closing prometheus.Gauge
	limitMetrics
	doorMetrics
	tested prometheus.Gauge
}

func newMetrics(o Options) *metrics {
	f := promauto.With(o.Registry)
	o.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	f.NewGaugeVec(prometheus.GaugeOpts{Name: "provisiond_build_info", Help: "1, labelled with what this program is."},
		[]string{"version", "revision", "goversion"}).WithLabelValues(o.Version, o.Revision, runtime.Version()).Set(1)
	m := &metrics{
		store: store.NewMetrics(o.Registry), reg: o.Registry, closing: newWindowsClosing(o.Registry),
		limitMetrics: newLimitMetrics(o.Registry),
		doorMetrics:  newDoorMetrics(o.Registry), shown: o.Registry,
		tested: f.NewGauge(prometheus.GaugeOpts{Name: "provisiond_selftest_last_success_timestamp_seconds",
			Help: "Unix time when this node last answered itself on its hello port and its API; 0 before the first time."}),
	}
	if !o.NativeHistograms {
		m.shown = classic{o.Registry}
	}
	m.handler = promhttp.HandlerFor(m.shown, promhttp.HandlerOpts{})
	return m
}

// classic leaves the native form out of histograms. The daemon observes both; a
// Prometheus before 2.50 that gets both keeps the native one alone, and every
// panel that asks for _bucket goes blank.
type classic struct{ prometheus.Gatherer }

func (c classic) Gather() ([]*dto.MetricFamily, error) {
	families, err := c.Gatherer.Gather()
	for _, f := range families {
		if f.GetType() != dto.MetricType_HISTOGRAM {
			continue
		}
		for _, m := range f.Metric {
			h := m.Histogram
			h.Schema, h.ZeroThreshold, h.ZeroCount, h.ZeroCountFloat = nil, nil, nil, nil
			h.PositiveSpan, h.PositiveDelta, h.PositiveCount = nil, nil, nil
			h.NegativeSpan, h.NegativeDelta, h.NegativeCount = nil, nil, nil
			h.Exemplars = nil
		}
	}
	return families, err
}
