package rest

import (
	"bytes"
	"context"
	"io"
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
)

// Client asks this server from inside its own process, in the name of p, on the
// same road as everybody else: roles, limits, audit and metrics hold.
func (s *Server) Client(p operate.Principal) *api.Client {
	return &api.Client{Base: "http://in-process", HTTP: &http.Client{Transport: inProcess{s, p}}}
}

// ServeAs answers r in the name of p, who has been made out already.
func (s *Server) ServeAs(p operate.Principal, w http.ResponseWriter, r *http.Request) {
	// A request inside of another one starts its way through the routes anew.
	ctx := context.WithValue(WithPrincipal(r.Context(), p), chi.RouteCtxKey, (*chi.Context)(nil))
	s.ServeHTTP(w, r.WithContext(ctx))
}

type inProcess struct {
	s *Server
	p operate.Principal
}

// RoundTrip answers without a network.
func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	w := &memoryResponse{header: http.Header{}}
	sr := r.Clone(r.Context())
	sr.RequestURI = r.URL.RequestURI()
	if sr.Body == nil {
		sr.Body = http.NoBody
	}
	t.s.ServeAs(t.p, w, sr)
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: w.header,
		Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

type memoryResponse struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *memoryResponse) Header() http.Header { return w.header }

func (w *memoryResponse) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *memoryResponse) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}
