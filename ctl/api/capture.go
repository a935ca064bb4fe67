package api

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"time"

	"gardu/ctl/expr"
	"gardu/ctl/pkt"
)

// CaptureSnap is the most bytes of a frame that a capture takes.
const CaptureSnap = 16384

// CaptureQuery says which packets are to be captured. The zero value is all of them, until the client goes.
type CaptureQuery struct {
	Filter string `json:"filter,omitempty"` // see package expr
	Snap   int    `json:"snap,omitempty"`   // bytes of each frame; 0: CaptureSnap
	Count  uint64 `json:"count,omitempty"`  // ends after so many packets; 0: it doesn't
}

// CaptureWish is a CaptureQuery as an Engine gets it.
type CaptureWish struct {
	Filter *expr.Expr
	Snap   int // 1 to CaptureSnap
	Count  uint64
}

// CaptureItem is a line of a capture: one of its members is there.
type CaptureItem struct {
	Began    string         `json:"began,omitempty"` // the first line: the capture is on, under this name
	Captured *Captured      `json:"captured,omitempty"`
	Totals   *CaptureTotals `json:"totals,omitempty"` // after losses, and at the end
}

// CaptureTotals say what became of packets that a capture picked.
type CaptureTotals struct {
	Captured uint64 `json:"captured"`
	Lost     uint64 `json:"lost"`    // the kernel's buffer was full; of all captures that were on
	Refused  uint64 `json:"refused"` // more than a CPU tells of in a second; likewise
	Missed   uint64 `json:"missed"`  // this client was too slow
}

// CaptureStatus is what captures did since the daemon began.
type CaptureStatus struct {
	Readers  int    `json:"readers"` // that capture now
	Captured uint64 `json:"captured"`
	Lost     uint64 `json:"lost"`   // the buffer was full, or it was more than a CPU tells of in a second
	Missed   uint64 `json:"missed"` // a client was too slow
}

// Captured is a packet and what became of it.
type Captured struct {
	Time      time.Time  `json:"time"`
	Verdict   string     `json:"verdict"`
	Reason    string     `json:"reason"`         // none: nothing was said of it
	Rule      string     `json:"rule,omitempty"` // that decided
	Service   string     `json:"service,omitempty"`
	Backend   string     `json:"backend,omitempty"`
	Interface string     `json:"interface"`
	Direction string     `json:"direction"` // in: received, out: sent
	Src       netip.Addr `json:"src,omitzero"`
	Dst       netip.Addr `json:"dst,omitzero"`
	Sport     uint16     `json:"sport,omitempty"`
	Dport     uint16     `json:"dport,omitempty"`
	Proto     string     `json:"proto,omitempty"`
	Vlan      uint16     `json:"vlan,omitempty"`
	Packets   int        `json:"packets"` // on the wire: a bundle is several
	CapturedFrame
	Out    *CapturedOut `json:"out,omitempty"`    // what gardu sends instead: to a backend, or an answer
	Copies []string     `json:"copies,omitempty"` // interfaces that rules mirrored it to, as it came
}

// CapturedFrame is what was taken of a frame.
type CapturedFrame struct {
	Length int    `json:"length"`           // of the whole
	Packet string `json:"packet,omitempty"` // as text; not as it travels: see Describe
	Frame  Hex    `json:"frame"`
}

// CapturedOut is a frame that gardu sends.
type CapturedOut struct {
	Interface string `json:"interface"`
	CapturedFrame
}

// Describe fills in the text.
func (f *CapturedFrame) Describe() {
	f.Packet = pkt.Captured{Frame: f.Frame, Length: f.Length}.Text()
}

func (h *handler) capture() endpoint {
	e := streams[CaptureItem](h, func(r *http.Request, out *stream) error {
		var query CaptureQuery
		if err := decode(out.w, r, &query); err != nil {
			return err
		}
		wish, err := query.wish()
		if err != nil {
			return err
		}
		return h.engine.Capture(r.Context(), wish, func(item CaptureItem, more bool) error { return out.send(&item, more) })
	})
	e.takes = reflect.TypeFor[CaptureQuery]()
	return e
}

func (q CaptureQuery) wish() (CaptureWish, error) {
	filter, err := expr.ParsePacket(q.Filter)
	if err != nil {
		return CaptureWish{}, NewProblem(CodeInvalid, "%v", err)
	}
	if q.Snap == 0 {
		q.Snap = CaptureSnap
	}
	if q.Snap < 1 || q.Snap > CaptureSnap {
		return CaptureWish{}, NewProblem(CodeInvalid, "snap is 1 to %d bytes, not %d", CaptureSnap, q.Snap)
	}
	return CaptureWish{Filter: filter, Snap: q.Snap, Count: q.Count}, nil
}

func (h *handler) endCapture(ctx context.Context, query url.Values) (struct{}, error) {
	return struct{}{}, h.engine.EndCapture(ctx, query.Get("name"))
}
