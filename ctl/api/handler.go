package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"gardu/ctl/pkt"
)

// handler turns requests into calls of the Engine.
type handler struct {
	engine Engine
	log    *slog.Logger

	wrong struct { // tokens, that were shown
		sync.Mutex
		logged int
		since  int // the last that was logged
		last   time.Time
	}
}

func newHandler(engine Engine, log *slog.Logger) *handler { return &handler{engine: engine, log: log} }

// guard turns an error into a Problem.
func (h *handler) guard(serve func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := serve(w, r)
		if err == nil || r.Context().Err() != nil {
			return
		}
		problem := problemOf(err)
		if problem.Status == http.StatusInternalServerError {
			h.log.Error("API request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		}
		if err := send(w, problem.Status, "application/problem+json", problem); err != nil {
			h.log.Error("API problem doesn't encode", "error", err)
		}
	}
}

func reply(w http.ResponseWriter, value any, err error) error {
	if err != nil {
		return err
	}
	return send(w, http.StatusOK, "application/json", value)
}

// send answers with a line of JSON in which > stays >: packets are full of them.
func send(w http.ResponseWriter, status int, contentType string, value any) error {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentType)
	// A client that stalls or has gone is no failure of ours.
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(stallTimeout))
	w.WriteHeader(status)
	w.Write(body.Bytes())
	return nil
}

// decode reads exactly one JSON value without unknown keys. It must come in time; what is done with it may take longer.
func decode(w http.ResponseWriter, r *http.Request, into any) error {
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Now().Add(bodyTimeout))
	defer control.SetReadDeadline(time.Time{})
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if err == nil {
		_, err = decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = errors.New("something follows the JSON value")
		}
	}
	if over, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge(over.Limit)
	}
	return NewProblem(CodeInvalid, "the request's body is not what is expected: %v", err)
}

func tooLarge(most int64) error {
	return NewProblem(CodeTooLarge, "the request is larger than %d bytes", most)
}

// FullAt is the part of a table in use from which on status warns.
const FullAt = 0.8

func (h *handler) status(ctx context.Context) (Status, error) {
	status, err := h.engine.Status(ctx)
	for _, table := range status.Tables {
		if table.Ratio() >= FullAt {
			status.Warnings = append(status.Warnings,
				fmt.Sprintf("%s is %.0f%% full: %d of %d", table.Name, 100*table.Ratio(), table.Entries, table.Max))
		}
	}
	return status, err
}

func (h *handler) explain(ctx context.Context, request ExplainRequest) (Explanation, error) {
	if (request.Packet == "") == (len(request.Frame) == 0) {
		return Explanation{}, NewProblem(CodeInvalid, `either "packet" or "frame" must be given`)
	}
	if request.Packet != "" {
		frame, err := pkt.Parse(request.Packet)
		if err != nil {
			return Explanation{}, NewProblem(CodeInvalid, "%v", err)
		}
		request.Frame = frame
	}
	if request.AsNewFlow && request.WithFlow {
		return Explanation{}, NewProblem(CodeInvalid, `"as_new_flow" and "with_flow" contradict each other`)
	}
	if request.Backend != "" && !request.WithFlow {
		return Explanation{}, NewProblem(CodeInvalid, `"backend" is that of a flow: it needs "with_flow"`)
	}
	if !request.At.IsZero() && time.Until(request.At) < 0 {
		return Explanation{}, NewProblem(CodeInvalid, `"at": %s is over`, request.At.Format(time.RFC3339))
	}
	return h.engine.Explain(ctx, request)
}
