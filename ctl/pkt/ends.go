package pkt

import "net/netip"

// Ends tell flows apart: the same for both directions.
type Ends struct {
	kind kind
	a, b netip.AddrPort
}

// EndsOf returns the ends of a captured packet; ok is false when it isn't IP, or not understood.
func EndsOf(c Captured) (e Ends, ok bool) {
	p := c.decode()
	if p == nil || !p.src.IsValid() || !p.dst.IsValid() {
		return Ends{}, false
	}
	e = Ends{p.kind, netip.AddrPortFrom(p.src, p.sport), netip.AddrPortFrom(p.dst, p.dport)}
	if e.b.Compare(e.a) < 0 {
		e.a, e.b = e.b, e.a
	}
	return e, true
}
