package rest

import (
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestRequestsAreCountedByTheirMethod: those of our routes under their own, and
// whatever a stranger makes up under one.
func TestRequestsAreCountedByTheirMethod(t *testing.T) {
	t.Parallel()
	m := NewMetrics(prometheus.NewRegistry())
	for said, counted := range map[string]string{
		http.MethodGet: "GET", http.MethodPost: "POST", http.MethodPut: "PUT", http.MethodDelete: "DELETE", "BREW": "other",
		http.MethodTrace: "other",
	} {
		before := testutil.ToFloat64(m.requests.WithLabelValues("/x", counted, "200"))
		m.answered("/x", said, http.StatusOK, time.Millisecond, false)
		if got := testutil.ToFloat64(m.requests.WithLabelValues("/x", counted, "200")); got != before+1 {
			t.Errorf("%s: %v under %s, want one more than %v", said, got, counted, before)
		}
	}
}
