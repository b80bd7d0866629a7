package rest

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/provisiond/provisiond/server/api"
)

// Metrics of the API.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	failures *prometheus.CounterVec
	secrets  *prometheus.CounterVec
	streams  prometheus.Gauge
}

// Results of an attempt to read a password.
const (
	secretOK       = "ok"
	secretNotFound = "not_found"
	secretLimited  = "limited"
	secretDenied   = "denied"
	secretError    = "error"
)

// NewMetrics registers the API's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_http_requests_total",
			Help: "Requests to the API and the console, by route, method and status."}, []string{"route", "method", "code"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{Name: "provisiond_http_request_duration_seconds",
			Help: "Time to answer a request; streams are left out.",
			// Few, since there are many routes: a quarter of a second is the objective.
			Buckets: []float64{.025, .25}, NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100}, []string{"route"}),
		failures: f.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_api_auth_failures_total",
			Help: "Requests refused for their token."}, []string{"reason"}),
		secrets: f.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_secret_reads_total",
			Help: "Attempts to read a password, by the caller's role and what became of it."}, []string{"actor", "result"}),
		streams: f.NewGauge(prometheus.GaugeOpts{Name: "provisiond_event_streams", Help: "Open streams of events."}),
	}
	for _, r := range []string{"missing", "unknown", "revoked", "expired", "limited", "role"} {
		m.failures.WithLabelValues(r)
	}
	for _, role := range api.Roles() {
		for _, r := range []string{secretOK, secretNotFound, secretLimited, secretDenied, secretError} {
			m.secrets.WithLabelValues(string(role), r)
		}
	}
	return m
}

// route makes the series of one route exist before its first request: the codes
// that alerts ask for. That a token was refused is in api_auth_failures by its
// reason, so that a 401 of each of eighty routes says nothing more.
func (m *Metrics) route(pattern, method string, codes ...int) {
	m.duration.WithLabelValues(pattern)
	for _, c := range codes {
		m.requests.WithLabelValues(pattern, method, strconv.Itoa(c))
	}
}

func (m *Metrics) answered(pattern, method string, code int, took time.Duration, stream bool) {
	switch method {
	case "GET", "POST", "PUT", "DELETE":
	case "HEAD":
		method = "GET"
	default:
		method = "other"
	}
	m.requests.WithLabelValues(pattern, method, strconv.Itoa(code)).Inc()
	if !stream {
		m.duration.WithLabelValues(pattern).Observe(took.Seconds())
	}
}

func (m *Metrics) authFailed(reason string) { m.failures.WithLabelValues(reason).Inc() }

func (m *Metrics) secretRead(role api.Role, result string) {
	m.secrets.WithLabelValues(string(role), result).Inc()
}
