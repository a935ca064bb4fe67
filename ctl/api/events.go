package api

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"gardu/ctl/expr"
	"gardu/ctl/rule"
)

// EventQuery says which events. The zero value is all that are kept.
type EventQuery struct {
	Filter string // see package expr
	Follow bool   // and those to come, until the client goes
	Last   int    // at most so many of those that are kept; < 0: none, 0: all
}

// EventWish is an EventQuery as an Engine gets it.
type EventWish struct {
	Match  func(*Event) bool // called before Packet is filled in; events of lost ones are told anyway
	Last   int               // at most so many of those kept that match; < 0: all
	Follow bool
}

// Facts returns what an expression sees of the event at the time now.
func (e *Event) Facts(now time.Time) *expr.Flow {
	proto, known := rule.Protocol(e.Proto)
	if !known {
		number, _ := strconv.ParseUint(e.Proto, 10, 8)
		proto = uint8(number)
	}
	return &expr.Flow{
		Src: e.Src, Dst: e.Dst, Sport: e.Sport, Dport: e.Dport, Proto: proto, Vlan: e.Vlan, Age: now.Sub(e.Time),
		Verdict: e.Verdict, Reason: e.Reason, Rule: e.Rule, Service: e.Service, Backend: e.Backend, Interface: e.Interface,
		Kind: e.Kind, Direction: e.Direction, Length: uint64(e.Length),
	}
}

func (h *handler) events(w http.ResponseWriter, r *http.Request) error {
	wish, err := parseEventQuery(r)
	if err != nil {
		return err
	}
	control := http.NewResponseController(w)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Trailer", ProblemTrailer)
	written := 0
	if wish.Follow { // so that the client knows that it is heard
		w.WriteHeader(http.StatusOK)
		if err := control.Flush(); err != nil {
			return err
		}
		written++
	}
	err = h.engine.Events(r.Context(), wish, func(e Event, more bool) error {
		if err := control.SetWriteDeadline(time.Now().Add(stallTimeout)); err != nil {
			return err
		}
		written++
		if err := encoder.Encode(&e); err != nil || more {
			return err
		}
		return control.Flush()
	})
	if r.Context().Err() != nil {
		return nil
	}
	return endStream(w, written > 0, err)
}

func parseEventQuery(r *http.Request) (EventWish, error) {
	values := r.URL.Query()
	filter, err := expr.ParseEvent(values.Get("filter"))
	if err != nil {
		return EventWish{}, NewProblem(CodeInvalid, "%v", err)
	}
	wish := EventWish{Last: -1, Match: func(e *Event) bool { return filter.Match(e.Facts(time.Now())) }}
	if text := values.Get("follow"); text != "" {
		if wish.Follow, err = strconv.ParseBool(text); err != nil {
			return wish, NewProblem(CodeInvalid, "follow is true or false, not %q", text)
		}
	}
	if text := values.Get("last"); text != "" {
		wish.Last, err = strconv.Atoi(text)
		if err != nil || wish.Last < 0 {
			return wish, NewProblem(CodeInvalid, "last is a number of events, not %q", text)
		}
	}
	return wish, nil
}
