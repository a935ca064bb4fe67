package pkt

// Begin is the first packet of the flow that a frame belongs to: sent by who sent the frame, or by the other side. nil: it belongs to
// none that could begin so.
func Begin(frame []byte, byOther bool) []byte {
	p := decodeFrame(frame, len(frame))
	if p == nil || p.kind&(kindsPorts|kindsICMP|kindIP) == 0 || p.isLater() {
		return nil
	}
	if byOther {
		p = p.answered()
	}
	first := p.bare()
	switch request, _ := p.echo(); {
	case p.kind == kindTCP:
		first.tcpFlags = flagSYN
	case p.kind&kindsICMP != 0 && (p.icmpType != request):
		return nil
	}
	return first.frame()
}

// Answer is what the other side sends to the first packet of a flow.
func Answer(frame []byte) []byte {
	p := decodeFrame(frame, len(frame))
	if p == nil {
		return nil
	}
	answer := p.answered().bare()
	if p.kind == kindTCP {
		answer.tcpFlags = flagSYN | flagACK
	}
	return answer.frame()
}

// Next is what follows the first packet of a flow, and the answer.
func Next(frame []byte) []byte {
	p := decodeFrame(frame, len(frame))
	if p == nil {
		return nil
	}
	next := p.bare()
	if p.kind == kindTCP {
		next.tcpFlags = flagACK
	}
	return next.frame()
}

const (
	flagSYN = 1 << 1
	flagACK = 1 << 4
)

// isLater says whether it is a fragment that doesn't begin the packet.
func (p *packet) isLater() bool {
	for _, e := range p.extensions {
		if e.number == protoFragment && e.offset > 0 {
			return true
		}
	}
	return false
}

// answered is the packet with its ends changed for each other, and a ping's request for its reply.
func (p *packet) answered() *packet {
	a := *p
	a.source, a.destination = p.destination, p.source
	a.src, a.dst, a.sport, a.dport = p.dst, p.src, p.dport, p.sport
	switch request, reply := p.echo(); {
	case p.kind&kindsICMP == 0:
	case p.icmpType == request:
		a.icmpType = reply
	case p.icmpType == reply:
		a.icmpType = request
	}
	return &a
}

// echo are the ICMP types of a ping of its family.
func (p *packet) echo() (request, reply uint8) {
	if p.kind == kindICMPv6 {
		return 128, 129
	}
	return 8, 0
}

// bare is a packet between the same ends, without what isn't needed for it to belong to their flow.
func (p *packet) bare() *packet {
	b := newPacket(p.kind)
	b.source, b.destination, b.tags = p.source, p.destination, p.tags
	b.src, b.dst, b.sport, b.dport, b.proto = p.src, p.dst, p.sport, p.dport, p.proto
	b.tagSCTP, b.icmpType, b.icmpCode, b.rest = p.tagSCTP, p.icmpType, p.icmpCode, p.rest
	return b
}
