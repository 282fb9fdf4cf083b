package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"sync/atomic"
	"time"
)

// Event is one of a stream.
type Event struct {
	// Name is connections (Batch), notifications ([]Notification), traffic (TrafficPoint), changed (none), and shutdown or restart
	// (none), which is the last one.
	Name string
	Data any
}

// WatchRequest says what a stream is about.
type WatchRequest struct {
	Filter
	// Only has the names of the events that are wanted; empty is all. The last event comes in any case.
	Only []string `query:"only"`
}

// streamRoute streams events. The backend sends them, one at a time; a reader who is too slow is cut off.
func streamRoute(b Backend) *route {
	rt := &route{
		method: http.MethodGet, path: "/api/v1/events", role: ReadOnly, kind: "text/event-stream",
		summary: "Stream what happens as server-sent events: connections, notifications, traffic; the last one is shutdown or restart.",
		in:      reflect.TypeFor[WatchRequest](), out: reflect.TypeFor[none](),
	}
	var open atomic.Int64
	rt.serve = func(w http.ResponseWriter, r *http.Request) {
		var in WatchRequest
		if status, err := rt.read(r, &in); err != nil {
			answer(w, status, Problem{Error: "bad request: " + err.Error()})
			return
		}
		defer open.Add(-1)
		if open.Add(1) > maxStreams {
			answer(w, http.StatusServiceUnavailable, Problem{Error: "too many streams are open"})
			return
		}
		s := stream{w: w, ctl: http.NewResponseController(w)}
		if err := s.begin(); err != nil {
			return // the peer is gone
		}
		s.run(r.Context(), b, in)
	}
	return rt
}

// stream writes events to one reader.
type stream struct {
	w   http.ResponseWriter
	ctl *http.ResponseController
}

// begin sends the header. The deadline for reading a request does not hold for what follows it.
func (s *stream) begin() error {
	s.w.Header().Set("Content-Type", "text/event-stream")
	s.w.WriteHeader(http.StatusOK)
	if err := s.ctl.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("begin stream: %w", err)
	}
	return s.write([]byte(": refd\n\n"))
}

// run sends events until the reader goes away or the server stops.
func (s *stream) run(ctx context.Context, b Backend, in WatchRequest) {
	err := b.Watch(ctx, in, func(e Event) error {
		if e.Name == "" {
			return s.write([]byte(":\n\n"))
		}
		data, err := json.Marshal(e.Data)
		if err != nil {
			return fmt.Errorf("write event %s: %w", e.Name, err)
		}
		return s.write(fmt.Appendf(nil, "event: %s\ndata: %s\n\n", e.Name, data))
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		return // it was cut, or is gone
	}
}

func (s *stream) write(b []byte) error {
	if err := s.ctl.SetWriteDeadline(time.Now().Add(writeLimit / 2)); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	if _, err := s.w.Write(b); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	if err := s.ctl.Flush(); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	return nil
}
