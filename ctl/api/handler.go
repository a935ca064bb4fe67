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
	"strings"
	"time"

	"gardu/ctl/pkt"
)

// handler turns requests into calls of the Engine.
type handler struct {
	engine Engine
	log    *slog.Logger
}

// Handler returns the API as an http.Handler.
func Handler(engine Engine, log *slog.Logger) http.Handler {
	h := &handler{engine, log}
	routes := []struct {
		method, path string
		serve        func(w http.ResponseWriter, r *http.Request) error
	}{
		{"GET", "/v1/status", reader(h.status)},
		{"GET", "/v1/rules", reader(list(engine.Rules))},
		{"GET", "/v1/sets", reader(list(engine.Sets))},
		{"GET", "/v1/services", reader(list(engine.Services))},
		{"GET", "/v1/backends", reader(list(engine.Backends))},
		{"GET", "/v1/blocks", reader(list(engine.Blocks))},
		{"POST", "/v1/blocks", writer(h.block)},
		{"DELETE", "/v1/blocks", h.unblock},
		{"POST", "/v1/drains", writer(h.drain)},
		{"DELETE", "/v1/drains", h.undrain},
		{"PUT", "/v1/weights", writer(h.weigh)},
		{"GET", "/v1/flows", h.flows},
		{"GET", "/v1/top", h.top},
		{"GET", "/v1/history", h.serveHistory},
		{"GET", "/v1/events", h.events},
		{"POST", "/v1/capture", h.capture},
		{"DELETE", "/v1/capture", h.endCapture},
		{"PUT", "/v1/snapshot", writer(h.apply)},
		{"POST", "/v1/plan", writer(h.plan)},
		{"POST", "/v1/confirm", writer(engine.Confirm)},
		{"POST", "/v1/rollback", writer(h.rollback)},
		{"GET", "/v1/revisions", reader(list(engine.Revisions))},
		{"GET", "/v1/revision", h.revision},
		{"POST", "/v1/explain", writer(h.explain)},
	}
	mux := http.NewServeMux()
	methods := map[string][]string{}
	for _, route := range routes {
		mux.HandleFunc(route.method+" "+route.path, h.guard(route.serve))
		methods[route.path] = append(methods[route.path], route.method)
	}
	for path, methods := range methods {
		mux.HandleFunc(path, h.guard(func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Allow", strings.Join(methods, ", "))
			return NewProblem(CodeMethod, "%s takes %s, not %s", path, strings.Join(methods, " and "), r.Method)
		}))
	}
	mux.HandleFunc("/", h.guard(func(_ http.ResponseWriter, r *http.Request) error {
		return NewProblem(CodeNotFound, "there is no %s in this API", r.URL.Path)
	}))
	return mux
}

// guard limits the request's size and turns an error into a Problem.
func (h *handler) guard(serve func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, MaxRequest)
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

// reader answers with what get returns.
func reader[T any](get func(context.Context) (T, error)) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		value, err := get(r.Context())
		return reply(w, value, err)
	}
}

// list makes nothing an empty list, so that clients always find one.
func list[T any](get func(context.Context) ([]T, error)) func(context.Context) ([]T, error) {
	return func(ctx context.Context) ([]T, error) {
		rows, err := get(ctx)
		if rows == nil {
			rows = []T{}
		}
		return rows, err
	}
}

// writer hands the request's body to do and answers with what it returns.
func writer[In, Out any](do func(context.Context, In) (Out, error)) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		var in In
		if err := decode(w, r, &in); err != nil {
			return err
		}
		out, err := do(r.Context(), in)
		return reply(w, out, err)
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
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return NewProblem(CodeTooLarge, "the request is larger than %d bytes", tooLarge.Limit)
	}
	return NewProblem(CodeInvalid, "the request's body is not what is expected: %v", err)
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
