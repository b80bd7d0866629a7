package server

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/provisiond/provisiond/server/api"
)

// TestReadyzBeforeTheDatabase: whoever reads /readyz needs one form of it, also
// while the database is not there.
func TestReadyzBeforeTheDatabase(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	(&Server{}).notYet(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
	var h api.Health
	if err := json.Unmarshal(w.Body.Bytes(), &h); err != nil || w.Code != http.StatusServiceUnavailable || h.Status != "starting" ||
		len(h.Parts) != 1 || h.Parts[0].Status != "failing" || h.Parts[0].Detail == "" {
		t.Errorf("%d %s: %v", w.Code, w.Body, err)
	}
}
