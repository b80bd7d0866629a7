package endtoend

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// spans is an OTLP/HTTP receiver.
type spans struct {
	mu   sync.Mutex
	all  []*tracepb.Span
	errs []error
}

func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err == nil && r.Header.Get("Content-Encoding") == "gzip" {
		var z *gzip.Reader
		if z, err = gzip.NewReader(bytes.NewReader(b)); err == nil {
			b, err = io.ReadAll(z)
		}
	}
	var req collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(b, &req)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || r.URL.Path != "/v1/traces" {
		s.errs = append(s.errs, err)
		return
	}
	for _, rs := range req.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			s.all = append(s.all, ss.Spans...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// TestBoxTraceOfARun follows one device through the spans of its run.
func TestBoxTraceOfARun(t *testing.T) {
	t.Parallel()
	got := &spans{}
	collector := httptest.NewServer(got)
	defer collector.Close()
	s := newSite(t, "")
	s.configure("tracing: {otlp_endpoint: \"" + collector.URL + "\"}\n")
	d := s.serve(nil, "--log-level", "info")
	h := s.herd()
	dev := h.add("11", nil)
	h.live(time.Second, one(d.hello), dev)
	d.managed(1, time.Minute)
	secrets := [][]byte{[]byte(d.reveal(dev.UUID(), "admin")), []byte(d.reveal(dev.UUID(), "mebx"))}
	open, plain := scraped(t, d, "application/openmetrics-text;version=1.0.0"), scraped(t, d, "text/plain")
	d.stop() // sends what is left

	got.mu.Lock()
	defer got.mu.Unlock()
	if len(got.errs) > 0 {
		t.Fatal(got.errs)
	}
	var root, hello *tracepb.Span
	for _, sp := range got.all {
		switch {
		case sp.Name == "provision" && len(sp.ParentSpanId) == 0:
			root = sp
		case sp.Name == "hello" && len(sp.ParentSpanId) == 0:
			hello = sp
		}
		b, _ := proto.Marshal(sp)
		for _, secret := range secrets {
			if bytes.Contains(b, secret) {
				t.Errorf("span %s holds a password", sp.Name)
			}
		}
	}
	if root == nil || hello == nil {
		t.Fatalf("no root or no hello among %d spans", len(got.all))
	}
	if bytes.Equal(root.TraceId, hello.TraceId) || len(root.Links) != 1 || !bytes.Equal(root.Links[0].SpanId, hello.SpanId) ||
		!bytes.Equal(root.Links[0].TraceId, hello.TraceId) {
		t.Errorf("the attempt does not link to the hello: %v", root.Links)
	}
	exemplarsName(t, open, dev.UUID().String(), hex.EncodeToString(root.TraceId))
	if strings.Contains(plain, "trace_id") || !strings.Contains(plain, "provisiond_step_duration_seconds_bucket{") {
		t.Error("the classic text form has exemplars, which it cannot have, or no buckets")
	}
	steps := map[string]bool{}
	stepOf := map[string]string{} // by span id
	for _, sp := range got.all {
		if bytes.Equal(sp.ParentSpanId, root.SpanId) {
			stepOf[string(sp.SpanId)] = sp.Name
		}
	}
	shook, under := 0, map[string]string{}
	for _, sp := range got.all {
		if step := stepOf[string(sp.ParentSpanId)]; step != "" {
			under[sp.Name] = step
		}
		if sp.Name == "tls_handshake" {
			shook++
			said := map[string]string{}
			for _, a := range sp.Attributes {
				said[a.Key] = a.Value.GetStringValue()
			}
			if said["version"] == "" || said["cipher"] == "" || !bytes.Equal(sp.TraceId, root.TraceId) ||
				sp.EndTimeUnixNano <= sp.StartTimeUnixNano {
				t.Errorf("a handshake says %v", said)
			}
		}
	}
	if shook < 2 || under["SetHighAccuracyTimeSynch"] != "set_clock" || under["SetAdminAclEntryEx"] != "set_admin_password" {
		t.Errorf("%d handshakes; questions by step: %v", shook, under)
	}
	for _, sp := range got.all {
		if !bytes.Equal(sp.ParentSpanId, root.SpanId) {
			continue
		}
		steps[sp.Name] = true
		if !bytes.Equal(sp.TraceId, root.TraceId) || sp.StartTimeUnixNano < root.StartTimeUnixNano ||
			sp.EndTimeUnixNano > root.EndTimeUnixNano || sp.EndTimeUnixNano < sp.StartTimeUnixNano {
			t.Errorf("step %s lies outside its run", sp.Name)
		}
	}
	for _, want := range []string{"set_clock", "set_admin_password", "verify_login"} {
		if !steps[want] {
			t.Errorf("no span for %s among %v", want, steps)
		}
	}
	if root.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR {
		t.Errorf("the run went well and its span says %s", root.Status.GetMessage())
	}
}

// scraped is /metrics in the form asked for.
func scraped(t *testing.T, d *daemon, accept string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+d.api+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || !strings.HasPrefix(res.Header.Get("Content-Type"), accept[:strings.IndexAny(accept+";", ";")]) {
		t.Fatalf("%s: %v", res.Header.Get("Content-Type"), err)
	}
	return string(b)
}

// exemplarsName holds that the durations of the run lead to its trace, and that
// nothing else stands in an exemplar.
func exemplarsName(t *testing.T, metrics, device, trace string) {
	t.Helper()
	only := regexp.MustCompile(`^(\w+)_bucket\{.* # \{trace_id="([0-9a-f]{32})"\} `)
	found := map[string]bool{}
	for line := range strings.Lines(metrics) {
		if !strings.Contains(line, " # {") {
			continue
		}
		m := only.FindStringSubmatch(line)
		if m == nil || m[2] != trace || strings.Contains(line, device) {
			t.Errorf("an exemplar that is not the run's trace %s alone: %s", trace, line)
			continue
		}
		found[m[1]] = true
	}
	for _, name := range []string{"provisiond_step_duration_seconds", "provisiond_time_to_provision_seconds",
		"provisiond_wsman_request_duration_seconds"} {
		if !found[name] {
			t.Errorf("%s has no exemplar", name)
		}
	}
}
