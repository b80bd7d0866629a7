package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/server/provision"
	"github.com/provisiond/provisiond/store"
)

// tracer makes one trace of each attempt at a run: the root span is the
// attempt, its children are the steps, and theirs the handshakes and questions
// on the wire. The request that made the run is a trace of its own to which the
// attempt links, since another node may have taken it hours ago; a second
// attempt links to the first. A link needs the other's ids, which may be on
// another node as well, so the run's number gives the ids of roots, and nobody
// has to remember anything.
//
// The tracer makes spans when an attempt has ended, from the times in its
// journal. If the collector is away, the spans are lost and nothing else.
type tracer struct {
	spans trace.Tracer

	mu    sync.Mutex
	steps map[int64][]store.StepRecord // by run, until it ends
	calls map[int64][]session.Call
}

// Bounds on memory: steps of one attempt, and runs with an attempt under way.
const (
	traceSteps = 200
	traceCalls = 1000
	traceRuns  = 10_000
)

// startTracing returns nil without a configured endpoint.
func (s *Server) startTracing(ctx context.Context) (provision.Tracer, error) {
	if s.o.OTLPEndpoint == "" {
		return nil, nil
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		s.log.Warn("tracing", zap.Error(err))
	}))
	out, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(s.o.OTLPEndpoint+"/v1/traces"))
	if err != nil {
		return nil, fmt.Errorf("tracing.otlp_endpoint: %w", err)
	}
	p := sdktrace.NewTracerProvider(sdktrace.WithBatcher(out, sdktrace.WithBatchTimeout(2*time.Second)),
		sdktrace.WithIDGenerator(givenIDs{}),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "provisiond"),
			attribute.String("service.version", s.o.Version), attribute.String("service.instance.id", s.node))))
	s.onStop("tracing", func(ctx context.Context) error {
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := p.Shutdown(short); err != nil {
			s.log.Warn("tracing", zap.Error(err)) // the last spans are lost; no reason to fail
		}
		return nil
	})
	return &tracer{spans: p.Tracer("provisiond"), steps: map[int64][]store.StepRecord{}, calls: map[int64][]session.Call{}}, nil
}

// TraceID is the trace of an attempt.
func (t *tracer) TraceID(r store.Run) string {
	return rootSpan("attempt", r, r.Attempt).TraceID().String()
}

// Step notes a step that has ended.
func (t *tracer) Step(runID int64, s store.StepRecord) {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.steps[runID]
	if len(list) > 0 && list[0].Attempt != s.Attempt {
		list = nil // another worker ended that attempt
	}
	if len(t.steps) > traceRuns {
		clear(t.steps)
	}
	if len(list) < traceSteps {
		t.steps[runID] = append(list, s)
	}
}

// Call notes an exchange with the device.
func (t *tracer) Call(runID int64, c session.Call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.calls) > traceRuns {
		clear(t.calls)
	}
	if list := t.calls[runID]; len(list) < traceCalls {
		t.calls[runID] = append(list, c)
	}
}

// Done makes the spans of an attempt.
func (t *tracer) Done(j provision.Job, began time.Time, v provision.Verdict) {
	t.mu.Lock()
	steps, calls := t.steps[j.Run.ID], t.calls[j.Run.ID]
	delete(t.steps, j.Run.ID)
	delete(t.calls, j.Run.ID)
	t.mu.Unlock()

	cause := rootSpan("cause", j.Run, 0)
	links := []trace.Link{{SpanContext: cause, Attributes: []attribute.KeyValue{attribute.String("link", j.Run.Trigger)}}}
	if j.Run.Attempt > 1 {
		links = append(links, trace.Link{SpanContext: rootSpan("attempt", j.Run, j.Run.Attempt-1),
			Attributes: []attribute.KeyValue{attribute.String("link", "attempt before")}})
	} else {
		_, span := t.spans.Start(withIDs(cause), j.Run.Trigger, trace.WithTimestamp(j.Run.CreatedAt),
			trace.WithSpanKind(trace.SpanKindServer),
			trace.WithAttributes(attribute.Int64("run_id", j.Run.ID), attribute.String("device", j.Run.UUID.String())))
		span.End(trace.WithTimestamp(j.Run.CreatedAt.Add(time.Millisecond)))
	}
	ended := time.Now()
	ctx, root := t.spans.Start(withIDs(rootSpan("attempt", j.Run, j.Run.Attempt)), j.Run.Kind, trace.WithTimestamp(began),
		trace.WithLinks(links...),
		trace.WithAttributes(attribute.Int64("run_id", j.Run.ID), attribute.String("device", j.Run.UUID.String()),
			attribute.Int("attempt", j.Run.Attempt),
			attribute.Int64("fence", j.Fence), attribute.String("amt_version", j.Device.Version.String())))
	for _, s := range steps {
		inside, span := t.spans.Start(ctx, s.Name, trace.WithTimestamp(s.StartedAt),
			trace.WithAttributes(attribute.Int("seq", s.Seq), attribute.String("state", s.State)))
		if s.State == "failed" {
			span.SetStatus(codes.Error, string(s.Reason))
		}
		end := s.FinishedAt
		if end.IsZero() {
			end = ended
		}
		calls = slices.DeleteFunc(calls, func(c session.Call) bool {
			if c.Began.Before(s.StartedAt) || c.Began.After(end) {
				return false
			}
			t.call(inside, c)
			return true
		})
		span.End(trace.WithTimestamp(end))
	}
	for _, c := range calls {
		t.call(ctx, c) // the way to the device, before the first step
	}
	root.SetAttributes(attribute.String("lifecycle", string(v.Ended)))
	if !v.OK {
		root.SetStatus(codes.Error, string(v.Reason))
		root.SetAttributes(attribute.String("reason", string(v.Reason)), attribute.String("blame", string(v.Blame)))
	}
	root.End(trace.WithTimestamp(ended))
}

// call makes the span of one exchange. An error's text may quote a device, so
// the span shows only its reason.
func (t *tracer) call(ctx context.Context, c session.Call) {
	_, span := t.spans.Start(ctx, c.Name, trace.WithTimestamp(c.Began), trace.WithSpanKind(trace.SpanKindClient))
	for k, v := range c.Labels {
		span.SetAttributes(attribute.String(k, v))
	}
	if c.Err != nil {
		said := "failed"
		if r := (*reason.Error)(nil); errors.As(c.Err, &r) {
			said = string(r.Code)
		}
		span.SetStatus(codes.Error, said)
	}
	span.End(trace.WithTimestamp(c.Began.Add(c.Took)))
}

// rootSpan is the identity of a root span, the same on every node.
func rootSpan(what string, r store.Run, attempt int) trace.SpanContext {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %s %d %d", what, r.ID, r.UUID, r.CreatedAt.UnixMilli(), attempt))
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID(sum[:16]), SpanID: trace.SpanID(sum[16:24]),
		TraceFlags: trace.FlagsSampled})
}

type idsKey struct{}

func withIDs(c trace.SpanContext) context.Context {
	return context.WithValue(context.Background(), idsKey{}, c)
}

// givenIDs gives a root the ids in its context, and children random ones.
type givenIDs struct{}

func (givenIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if c, ok := ctx.Value(idsKey{}).(trace.SpanContext); ok {
		return c.TraceID(), c.SpanID()
	}
	id := randomSpan()
	return trace.TraceID(append(id[:], id[:]...)), id
}

func (givenIDs) NewSpanID(context.Context, trace.TraceID) trace.SpanID { return randomSpan() }

func randomSpan() (id trace.SpanID) {
	_, _ = rand.Read(id[:]) // never fails since Go 1.24
	return id
}
