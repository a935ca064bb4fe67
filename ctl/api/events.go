package api

import (
	"cmp"
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
	After  string // only those after the one with this ID; empty: all
}

// EventWish is an EventQuery as an Engine gets it.
type EventWish struct {
	Match  func(*Event) bool // called before Packet is filled in; events of lost ones are told anyway
	Last   int               // at most so many of those kept that match; < 0: all
	After  string            // only those after the one with this ID; empty: all. What isn't known any more is told as lost
	Follow bool
	Drops  bool // dropped packets can match, which become events only while somebody wants them
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

func (h *handler) events() endpoint {
	return streams[Event](h, func(r *http.Request, out *stream) error {
		wish, err := parseEventQuery(r)
		if err != nil {
			return err
		}
		if wish.Follow {
			if err := out.begin(); err != nil {
				return err
			}
		}
		return h.engine.Events(r.Context(), wish, func(e Event, more bool) error { return out.send(&e, more) })
	}, filterParam,
		param{name: "follow", help: "and those to come, until the client goes", kind: "boolean"},
		param{name: "last", help: "at most so many of those that are kept", kind: "integer"},
		param{name: "after", help: "only those after the one with this id; a header Last-Event-ID says so, too, and counts", kind: "string"})
}

func parseEventQuery(r *http.Request) (EventWish, error) {
	values := r.URL.Query()
	filter, err := expr.ParseEvent(values.Get("filter"))
	if err != nil {
		return EventWish{}, NewProblem(CodeInvalid, "%v", err)
	}
	wish := EventWish{Last: -1, Drops: filter.MayHold("kind", EventDrop), Match: func(e *Event) bool { return filter.Match(e.Facts(time.Now())) }}
	wish.After = cmp.Or(r.Header.Get("Last-Event-ID"), values.Get("after"))
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
