package doctor

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics of the doctor.
type Metrics struct {
	check   *prometheus.GaugeVec
	lastRun prometheus.Gauge
	zones   *prometheus.GaugeVec
	dhcp    *prometheus.GaugeVec
	offset  prometheus.Gauge
}

// NewMetrics registers the doctor's metrics. The probes of zones and interfaces
// have no series before the first run: 0 would be an alarm and 1 a lie.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		check: f.NewGaugeVec(prometheus.GaugeOpts{Name: "provisiond_doctor_check",
			Help: "What a kind of check came to: 0 pass, 1 warn, 2 fail."}, []string{"check"}),
		lastRun: f.NewGauge(prometheus.GaugeOpts{Name: "provisiond_doctor_last_run_timestamp_seconds",
			Help: "When the checks ran last; 0 never."}),
		zones: f.NewGaugeVec(prometheus.GaugeOpts{Name: "provisiond_dns_probe_ok",
			Help: "1 when provisionserver in this zone leads to us."}, []string{"zone"}),
		dhcp: f.NewGaugeVec(prometheus.GaugeOpts{Name: "provisiond_dhcp_probe_ok",
			Help: "1 when DHCP option 15 on this interface is one that our certificates serve."}, []string{"scope"}),
		offset: f.NewGauge(prometheus.GaugeOpts{Name: "provisiond_ntp_offset_seconds",
			Help: "What has to be added to this clock to agree with doctor.ntp; 0 when not known."}),
	}
	for _, k := range Kinds() {
		m.check.WithLabelValues(k)
	}
	return m
}

// Saw shows a run in the metrics: of each kind the worst.
func (m *Metrics) Saw(r Report, found Measures, at time.Time) {
	worst := map[string]Status{}
	for _, c := range r.Checks {
		if have, ok := worst[c.Kind()]; !ok || c.Status.Level() > have.Level() {
			worst[c.Kind()] = c.Status
		}
	}
	for _, k := range Kinds() {
		level := 0
		if s, ok := worst[k]; ok {
			level = s.Level()
		}
		m.check.WithLabelValues(k).Set(float64(level))
	}
	flag := func(ok bool) float64 {
		if ok {
			return 1
		}
		return 0
	}
	for z, ok := range found.Zones {
		m.zones.WithLabelValues(z).Set(flag(ok))
	}
	for i, ok := range found.DHCP {
		m.dhcp.WithLabelValues(i).Set(flag(ok))
	}
	m.offset.Set(found.Offset.Seconds())
	m.lastRun.Set(float64(at.UnixMilli()) / 1000)
}

const scrapedLately = 5 * time.Minute

// metrics: does anybody look at them?
func (v *visit) metrics(context.Context) []Check {
	const name = "metrics"
	const hint = "let Prometheus scrape /metrics of api.listen: deploy/prometheus has the configuration and the alerts"
	d := v.daemon()
	switch {
	case !d.Up:
		return one(name, Skip, "", "not known: %s", orElse(d.Unknown, "no daemon is running"))
	case d.Unknown != "":
		return one(name, Warn, "run the doctor as the daemon's user, who may read admin.token in data_dir", "not known: %s", d.Unknown)
	case d.Scraped.IsZero() && v.now.Sub(d.Since) < scrapedLately:
		return one(name, Skip, "", "the daemon has just started; nobody has asked for metrics yet")
	case d.Scraped.IsZero():
		return one(name, Warn, hint, "nobody has asked for metrics since the daemon started")
	}
	if age := v.now.Sub(d.Scraped); age > scrapedLately {
		return one(name, Warn, hint, "nobody has asked for metrics for %s", ageWords(age))
	}
	return one(name, Pass, "", "somebody asked for metrics %d s ago", int(v.now.Sub(d.Scraped).Seconds()))
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
