package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"
)

// ProblemTrailer is the HTTP trailer that holds a Problem when a stream of lines ends before its time.
const ProblemTrailer = "Gardu-Problem"

// aliveEvery is how often who gets server-sent events hears of us, so that nothing on the way takes the connection for a dead one.
const aliveEvery = 15 * time.Second

// stream answers with values as they come: as JSON, one a line, or to who asks for text/event-stream as server-sent events. Of these
// the last is an "end" or a "problem", so that a browser knows that asking again is of no use.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	events  bool
	mu      sync.Mutex // for who says that we are alive
	line    bytes.Buffer
	encoder *json.Encoder
	begun   bool
	patient int // lines until a client that stalls is looked at again

	allowed func() error // says that who asks may no more; nil: nobody takes that back
	looked  time.Time    // at that
}

// lookEvery is how often it is seen whether who gets a stream still may.
const lookEvery = time.Second

// streams answers with what serve sends.
func streams[T any](h *handler, serve func(*http.Request, *stream) error, params ...param) endpoint {
	return endpoint{params: params, answers: reflect.TypeFor[T](), lines: true, serve: func(w http.ResponseWriter, r *http.Request) error {
		s := &stream{w: w, control: http.NewResponseController(w), events: strings.Contains(r.Header.Get("Accept"), "text/event-stream")}
		s.encoder = json.NewEncoder(&s.line)
		s.encoder.SetEscapeHTML(false)
		s.allowed = h.stillAllowed(callerOf(r.Context()))
		if s.events {
			defer s.stayAlive()()
		}
		err := serve(r, s)
		if r.Context().Err() != nil {
			return nil
		}
		return s.end(err)
	}}
}

// stillAllowed tells whether the token that a stream began with is one still.
func (h *handler) stillAllowed(who caller) func() error {
	if who.token == "" {
		return nil
	}
	return func() error {
		if _, ok := h.engine.FindToken(who.secret); !ok {
			return NewProblem(CodeNoToken, "the token %s is none any more", who.token)
		}
		return nil
	}
}

// begin answers that there is nothing yet, so that the client knows that it is heard.
func (s *stream) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.head()
	s.w.WriteHeader(http.StatusOK)
	return s.control.Flush()
}

// head is what an answer begins with.
func (s *stream) head() {
	if s.begun {
		return
	}
	s.begun = true
	kind := "application/x-ndjson"
	if s.events {
		kind = "text/event-stream"
		s.w.Header().Set("Cache-Control", "no-store")
	} else {
		s.w.Header().Set("Trailer", ProblemTrailer)
	}
	s.w.Header().Set("Content-Type", kind)
}

// send writes a value. more says that another one follows at once.
func (s *stream) send(value any, more bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.write("", value, more); err != nil || more {
		return err
	}
	return s.control.Flush()
}

func (s *stream) write(event string, value any, more bool) error {
	if s.patient--; s.patient < 0 || !more {
		if err := s.control.SetWriteDeadline(time.Now().Add(stallTimeout)); err != nil {
			return err
		}
		s.patient = 1024
	}
	if s.allowed != nil && time.Since(s.looked) > lookEvery {
		s.looked = time.Now()
		if err := s.allowed(); err != nil {
			return err
		}
	}
	s.head()
	s.line.Reset()
	if s.events {
		if event != "" {
			s.line.WriteString("event: " + event + "\n")
		}
		if e, ok := value.(*Event); ok && e.ID != "" {
			s.line.WriteString("id: " + e.ID + "\n")
		}
		s.line.WriteString("data: ")
	}
	if err := s.encoder.Encode(value); err != nil {
		return err
	}
	if s.events {
		s.line.WriteByte('\n')
	}
	_, err := s.w.Write(s.line.Bytes())
	return err
}

// stayAlive sends comments until stopped.
func (s *stream) stayAlive() (stop func()) {
	ticker, stopped := time.NewTicker(aliveEvery), make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-stopped:
				return
			case <-ticker.C:
			}
			s.mu.Lock()
			s.head()
			s.control.SetWriteDeadline(time.Now().Add(stallTimeout)) // as below: what serves finds out
			s.w.Write([]byte(":\n\n"))
			s.control.Flush()
			s.mu.Unlock()
		}
	})
	return func() { ticker.Stop(); close(stopped); running.Wait() }
}

// end tells how it ended: of an error behind what was sent, if anything was.
func (s *stream) end(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allowed = nil
	switch {
	case err != nil && !s.begun:
		return err
	case s.events && err != nil:
		s.write("problem", problemOf(err), false) // a client that has gone is no failure of ours
	case s.events:
		s.write("end", struct{}{}, false)
	case err != nil:
		problem, _ := json.Marshal(problemOf(err)) // a struct of strings
		s.w.Header().Set(ProblemTrailer, string(problem))
	default:
		s.head()
	}
	return nil
}
