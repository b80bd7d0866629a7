package server

import (
	"context"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/provisiond/provisiond/store"
)

// metrics are the daemon's own: what it is, and what the store says when asked.
type metrics struct {
	store   *store.Metrics
	handler http.Handler
	reg     *prometheus.Registry
	closing prometheus.Gauge
}

func newMetrics(o Options) *metrics {
	f := promauto.With(o.Registry)
	o.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	f.NewGaugeVec(prometheus.GaugeOpts{Name: "provisiond_build_info", Help: "1, labelled with what this program is."},
		[]string{"version", "revision", "goversion"}).WithLabelValues(o.Version, o.Revision, runtime.Version()).Set(1)
	return &metrics{
		store: store.NewMetrics(o.Registry), reg: o.Registry, closing: newWindowsClosing(o.Registry),
		handler: promhttp.HandlerFor(o.Registry, promhttp.HandlerOpts{}),
	}
}

// watch lets a scrape ask the store for what only it knows.
func (m *metrics) watch(db *store.DB) { m.reg.MustRegister(&fleet{db: db}) }

// fleet counts devices when it is scraped, so that the figure is the store's on
// every node and never drifts.
type fleet struct{ db *store.DB }

var devicesDesc = prometheus.NewDesc("provisiond_devices", "Devices by lifecycle.", []string{"state"}, nil)

func (*fleet) Describe(ch chan<- *prometheus.Desc) { ch <- devicesDesc }

func (f *fleet) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var counts map[store.Lifecycle]int
	err := f.db.Read(ctx, func(tx *store.Tx) (err error) {
		counts, err = tx.CountDevices(ctx)
		return err
	})
	if err != nil {
		return // provisiond_store_up says so
	}
	for _, l := range store.Lifecycles() {
		ch <- prometheus.MustNewConstMetric(devicesDesc, prometheus.GaugeValue, float64(counts[l]), string(l))
	}
}
