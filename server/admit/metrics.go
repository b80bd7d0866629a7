package admit

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Alarm is something about a device that a person should hear of at once.
type Alarm string

const (
	AlarmRetired     Alarm = "retired_hello"    // hardware that was given up is on the network
	AlarmDuplicate   Alarm = "duplicate_uuid"   // two machines say hello with one UUID
	AlarmPlaceholder Alarm = "placeholder_uuid" // a UUID that many machines carry
	AlarmReappeared  Alarm = "reappeared"       // a managed device lost its setup
	AlarmStray       Alarm = "stray_hello"      // somebody says hello in the name of a device that is where it was
)

// Alarms lists all of them.
func Alarms() []Alarm {
	return []Alarm{AlarmRetired, AlarmDuplicate, AlarmPlaceholder, AlarmReappeared, AlarmStray}
}

// Metrics of admission.
type Metrics struct {
	alarms  *prometheus.CounterVec
	lookups *prometheus.CounterVec
	strays  *prometheus.CounterVec
}

// NewMetrics registers the series; nil keeps them to itself.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		alarms: f.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_device_alarms_total",
			Help: "Hellos that a person should hear of, by kind."}, []string{"alarm"}),
		lookups: f.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_name_lookups_total",
			Help: "Names asked of a source outside, by source and result."}, []string{"source", "result"}),
		strays: f.NewCounterVec(prometheus.CounterOpts{Name: "provisiond_stray_hellos_total",
			Help: "Hellos that were not taken for the device's own word, and what became of those that claimed a device, by outcome."},
			[]string{"outcome"}),
	}
	for _, s := range Strays() {
		m.strays.WithLabelValues(string(s))
	}
	for _, a := range Alarms() {
		m.alarms.WithLabelValues(string(a))
	}
	for _, s := range []string{"reverse_dns", "webhook"} {
		for _, r := range []string{"found", "none", "error"} {
			m.lookups.WithLabelValues(s, r)
		}
	}
	return m
}
