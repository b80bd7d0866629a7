package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/store"
)

// StreamQuery says where a stream begins: behind Last-Event-ID, else behind
// after, else with what happens from now on.
type StreamQuery struct {
	After  int64  `query:"after" minimum:"-1" default:"-1" doc:"begin behind this id; 0 is the very beginning"`
	UUID   string `query:"uuid" maxLength:"255" doc:"of one device: its UUID, name, address or MAC"`
	LastID string `header:"Last-Event-ID" maxLength:"32"`
}

func (s *Server) eventRoutes(to huma.API) {
	add(s, to, huma.Operation{OperationID: "list-events", Method: http.MethodGet, Path: "/api/v1/events", Summary: "List events",
		Tags: []string{"events"}}, s.listEvents)
	op := huma.Operation{
		OperationID: "stream-events", Method: http.MethodGet, Path: "/api/v1/events/stream", Summary: "Follow events",
		Description: "Server-sent events: id is the event's id, data the event as JSON. Reconnect with Last-Event-ID and nothing is " +
			"missed. A comment comes each 15 seconds.",
		Tags: []string{"events"},
		Responses: map[string]*huma.Response{"200": {Description: "Events as they happen", Content: map[string]*huma.MediaType{
			"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}},
		}}},
	}
	s.document(to, &op)
	huma.Register(to, op, s.streamEvents)
	s.metrics.route(op.Path, op.Method, 200)
}

func (s *Server) events(ctx context.Context, q *api.EventQuery) (store.EventFilter, error) {
	f := store.EventFilter{After: q.After, Before: q.Before, RunID: q.RunID, Name: q.Name, Newest: q.Newest, Limit: q.Limit}
	if q.UUID != "" {
		u, err := s.which(ctx, q.UUID)
		if err != nil {
			return f, err
		}
		f.UUID = u
	}
	if f.Limit == 0 {
		f.Limit = 100
	}
	return f, nil
}

func (s *Server) listEvents(ctx context.Context, in *api.EventQuery) (api.EventPage, error) {
	f, err := s.events(ctx, in)
	if err != nil {
		return api.EventPage{}, err
	}
	page := api.EventPage{Events: []api.Event{}}
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		found, err := tx.Events(ctx, f)
		if err != nil {
			return err
		}
		page.Events, err = eventsOf(ctx, tx, found)
		return err
	})
	if n := len(page.Events); err == nil && n == f.Limit {
		page.Next = page.Events[n-1].ID
	}
	return page, err
}

// eventsOf shows events with the names of their devices.
func eventsOf(ctx context.Context, tx *store.Tx, found []store.Event) ([]api.Event, error) {
	out := make([]api.Event, 0, len(found))
	var uuids []string
	for _, e := range found {
		uuids = append(uuids, e.UUID.String())
	}
	fqdn, err := operate.Names(ctx, tx, uuids)
	for _, e := range found {
		out = append(out, toEvent(e, fqdn[e.UUID.String()]))
	}
	return out, err
}

const (
	heartbeat  = 15 * time.Second
	streamPoll = 500 * time.Millisecond
	streamPage = 200
)

func (s *Server) streamEvents(ctx context.Context, in *StreamQuery) (*huma.StreamResponse, error) {
	var device amt.UUID
	if in.UUID != "" {
		u, err := s.which(ctx, in.UUID)
		if err != nil {
			return nil, err
		}
		device = u
	}
	last, err := s.streamStart(ctx, in)
	if err != nil {
		return nil, s.explain(ctx, "stream-events", err)
	}
	select {
	case s.streams <- struct{}{}:
	default:
		p := api.NewProblem(http.StatusServiceUnavailable, api.CodeLimited,
			"%d streams are open already; close one or ask /api/v1/events instead", maxStreams)
		return nil, huma.ErrorWithHeaders(p, http.Header{"Retry-After": {"30"}})
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer func() { <-s.streams }()
		s.metrics.streams.Inc()
		defer s.metrics.streams.Dec()
		_, w := humachi.Unwrap(hc)
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("X-Accel-Buffering", "no") // proxies hold answers back otherwise
		s.follow(hc.Context(), w, device, last)
	}}, nil
}

func (s *Server) streamStart(ctx context.Context, in *StreamQuery) (int64, error) {
	if in.LastID != "" {
		id, err := strconv.ParseInt(in.LastID, 10, 64)
		if err != nil || id < 0 {
			return 0, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "Last-Event-ID is not the id of an event")
		}
		return id, nil
	}
	if in.After >= 0 {
		return in.After, nil
	}
	return s.latest.id(ctx, s)
}

// follow writes events until the caller leaves or the server stops.
func (s *Server) follow(ctx context.Context, w http.ResponseWriter, device amt.UUID, last int64) {
	rc := http.NewResponseController(w)
	send := func(format string, args ...any) bool {
		// A reader that does not read must not hold a slot for ever.
		_ = rc.SetWriteDeadline(time.Now().Add(2 * heartbeat))
		if _, err := fmt.Fprintf(w, format, args...); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	if !send("retry: 2000\n: the stream begins behind event %d\n\n", last) {
		return
	}
	poll, beat := time.NewTicker(streamPoll), time.NewTicker(heartbeat)
	defer poll.Stop()
	defer beat.Stop()
	for {
		for {
			events, next, err := s.eventsAfter(ctx, device, last)
			if err != nil {
				break // the database is away: the stream waits with it
			}
			for _, e := range events {
				text, err := json.Marshal(e)
				if err != nil || !send("id: %d\ndata: %s\n\n", e.ID, text) {
					return
				}
			}
			last = next
			if len(events) < streamPage {
				break
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.closing:
			return
		case <-beat.C:
			if !send(": still here\n\n") {
				return
			}
		case <-poll.C:
		}
	}
}

// eventsAfter asks the database only when there is something newer, which all
// streams find out together.
func (s *Server) eventsAfter(ctx context.Context, device amt.UUID, last int64) (events []api.Event, next int64, err error) {
	newest, err := s.latest.id(ctx, s)
	if err != nil || newest <= last {
		return nil, last, err
	}
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		found, err := tx.Events(ctx, store.EventFilter{After: last, UUID: device, Follow: true, Limit: streamPage})
		if err != nil {
			return err
		}
		events, err = eventsOf(ctx, tx, found)
		return err
	})
	if err != nil {
		return nil, last, err
	}
	if n := len(events); n > 0 {
		last = max(last, events[n-1].ID)
	}
	if len(events) < streamPage {
		last = max(last, newest) // events of other devices need not be passed over again
	}
	return events, last, nil
}

// latestEvent is the id of the newest event that everybody may see, at most a
// quarter of a second old.
type latestEvent struct {
	mu    sync.Mutex
	value int64
	at    time.Time
}

func (l *latestEvent) id(ctx context.Context, s *Server) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.at) < streamPoll/2 {
		return l.value, nil
	}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		newest, err := tx.Events(ctx, store.EventFilter{Newest: true, Follow: true, Limit: 1})
		if err == nil && len(newest) > 0 {
			l.value = newest[0].ID
		}
		return err
	})
	if err == nil {
		l.at = time.Now()
	}
	return l.value, err
}
