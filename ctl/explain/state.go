package explain

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Values of the field state, as rule.Fields numbers them.
const (
	stateNone        = 0 // a packet that has no state matches no rule about it
	stateNew         = 1
	stateEstablished = 2
	stateInvalid     = 3
)

// end is one end of a connection. Of a ping, the end that asks has the identifier for a port.
type end struct {
	addr netip.Addr
	port uint16
}

// course is a connection, seen in one direction.
type course struct {
	from, to end
	proto    uint8
}

func (c course) back() course { return course{c.to, c.from, c.proto} }

// passing is what is known of one direction of a connection.
type passing struct {
	last          time.Time
	syn, fin, rst bool
	spoke         bool // something but a SYN passed while the connection was established
	toBackend     bool // answers may take another way
	seen          bool
}

// timeout is for how long a direction counts as seen.
func timeout(proto uint8, a, b passing) time.Duration {
	switch {
	case proto == protoTCP && (a.rst || b.rst):
		return 10 * time.Second
	case proto == protoTCP && (a.fin || b.fin):
		return 4 * time.Minute
	case proto == protoTCP && (a.spoke || b.spoke):
		return 2*time.Hour + 4*time.Minute
	case proto == protoTCP:
		return time.Minute
	case (proto == protoUDP || proto == protoSCTP) && a.spoke && b.spoke:
		return 3 * time.Minute
	case proto == protoUDP || proto == protoSCTP:
		return time.Minute
	case proto == protoICMP || proto == protoICMPv6:
		return 30 * time.Second
	default:
		return 10 * time.Minute
	}
}

// directions are what passed on a connection within its time-outs, the way of c and the way back. An end that speaks to itself has no
// way back: it can't answer itself.
func (m *Model) directions(c course) (own, other passing) {
	own = m.passed[c]
	if c != c.back() {
		other = m.passed[c.back()]
	}
	limit := timeout(c.proto, own, other)
	if m.Now.Sub(own.last) > limit {
		own = passing{}
	}
	if m.Now.Sub(other.last) > limit {
		other = passing{}
	}
	return own, other
}

// courseOf is false for packets of no connection: ICMP that isn't ping, and fragments whose ports aren't known.
func courseOf(f facts) (course, bool) {
	c := course{end{f.src, 0}, end{f.dst, 0}, f.proto}
	icmp := f.proto == protoICMP && f.src.Is4() || f.proto == protoICMPv6 && f.src.Is6()
	switch {
	case f.proto == protoTCP || f.proto == protoUDP || f.proto == protoSCTP:
		c.from.port, c.to.port = f.sport, f.dport
		return c, f.hasPorts
	case icmp && f.isEcho(false):
		c.from.port = f.echoID
		return c, true
	case icmp && f.isEcho(true):
		c.to.port = f.echoID
		return c, true
	}
	return c, !icmp
}

// isEcho tells a ping, or the answer to one.
func (f facts) isEcho(reply bool) bool {
	types := map[[2]bool]uint8{{false, false}: echoRequest, {false, true}: echoReply, {true, false}: echoRequest6, {true, true}: echoReply6}
	return f.hasICMP && f.icmpType == types[[2]bool{f.src.Is6(), reply}]
}

func (f facts) isICMPError() bool {
	if f.src.Is6() {
		return f.hasICMP && f.icmpType >= 1 && f.icmpType <= 4
	}
	return f.hasICMP && (f.icmpType == 3 || f.icmpType == 11 || f.icmpType == 12)
}

// trust is for how long a flow that was established is taken to be so still. A reset, or a new connection with the same name, that its
// own packets don't tell of (they come with another VLAN tag, or from the other side) is noticed by then.
const trust = time.Second

// way is one direction of a flow, received or sent.
type way struct {
	flow
	sent bool
}

// ask finds out a packet's state: what opens, closes or resets a connection is judged by what passed before it, the rest only if
// the flow isn't trusted.
func (m *Model) ask(f *facts, frame []byte) {
	plain := f.proto != protoTCP || f.later || f.tcpFlags&(flagFIN|flagSYN|flagRST|flagACK) == flagACK
	if m.Now.Sub(m.trusted[way{flowOf(*f), f.sent}]) < trust && plain && !f.hasICMP {
		f.state, f.trusted = stateEstablished, true
		return
	}
	f.state = m.state(*f, frame)
}

// learn notes whether a packet that got through, and that was asked about, makes its flow one to trust: not if it resets it.
func (m *Model) learn(f facts) {
	if f.trusted {
		return
	}
	if m.trusted == nil {
		m.trusted = map[way]time.Time{}
	}
	delete(m.trusted, way{flowOf(f), f.sent})
	if f.state == stateEstablished && (f.proto != protoTCP || f.later || f.tcpFlags&flagRST == 0) {
		m.trusted[way{flowOf(f), f.sent}] = m.Now
	}
}

// state is what a packet is to what passed before it.
func (m *Model) state(f facts, frame []byte) uint32 {
	tcp := f.proto == protoTCP && !f.later
	flags := f.tcpFlags & (flagFIN | flagSYN | flagRST | flagACK)
	if tcp {
		switch flags {
		case flagSYN, flagSYN | flagACK, flagACK, flagFIN | flagACK, flagRST, flagRST | flagACK:
		default:
			return stateInvalid
		}
	}
	if f.isICMPError() {
		return m.stateOfError(f, frame)
	}
	c, ok := courseOf(f)
	if !ok && f.hasICMP {
		return stateNew
	}
	if !ok {
		return stateNone
	}
	own, other := m.directions(c)
	closed := own.rst || other.rst || own.fin && other.fin
	switch {
	case tcp && flags == flagSYN && closed:
		return stateNew
	case other.seen:
		return stateEstablished
	case tcp && flags == flagSYN|flagACK:
		return stateInvalid
	case tcp && flags != flagSYN && own.syn && own.toBackend:
		return stateEstablished
	case tcp && flags&flagRST != 0 && !own.seen, f.isEcho(true):
		return stateInvalid
	}
	return stateNew
}

// stateOfError judges an ICMP error by the packet that it quotes: it must go to that packet's source, and that packet's
// direction must have been seen.
func (m *Model) stateOfError(f facts, frame []byte) uint32 {
	c, _, ok := quotedCourse(f, frame[f.upper+8:f.end])
	if !ok || c.from.addr != f.dst {
		return stateInvalid
	}
	own, other := m.directions(c)
	if own.seen || other.toBackend {
		return stateEstablished
	}
	return stateInvalid
}

// quotedCourse reads the head of a packet: its IP header and 8 bytes or more of what is behind.
func quotedCourse(f facts, b []byte) (c course, upper []byte, ok bool) {
	var next uint8
	switch {
	case f.src.Is4():
		if len(b) < 20 || b[0]>>4 != 4 || b[0]&0xf < 5 || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return c, nil, false
		}
		c.from.addr, c.to.addr = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		next, b = b[9], b[min(len(b), int(b[0]&0xf)*4):]
	default:
		if len(b) < 40 || b[0]>>4 != 6 {
			return c, nil, false
		}
		c.from.addr, c.to.addr = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		next, b = b[6], b[40:]
		for walked := 0; isExtension(next); walked++ {
			if walked == maxExtensions || len(b) < 8 {
				return c, nil, false
			}
			size := 8 * (int(b[1]) + 1)
			switch next {
			case protoAH:
				size = 4 * (int(b[1]) + 2)
			case protoFragment:
				if size = 8; binary.BigEndian.Uint16(b[2:])>>3 != 0 {
					return c, nil, false
				}
			}
			next, b = b[0], b[min(len(b), size):]
		}
	}
	if len(b) < 8 {
		return c, nil, false
	}
	c.proto = next
	switch quoted := (facts{src: c.from.addr, hasICMP: true, icmpType: b[0]}); {
	case next == protoTCP || next == protoUDP || next == protoSCTP:
		c.from.port, c.to.port = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	case next != protoICMP && f.src.Is4() || next != protoICMPv6 && f.src.Is6():
	case quoted.isEcho(false):
		c.from.port = binary.BigEndian.Uint16(b[4:])
	case quoted.isEcho(true):
		c.to.port = binary.BigEndian.Uint16(b[4:])
	default:
		return c, nil, false
	}
	return c, b, true
}

// remember notes that a packet passed.
func (m *Model) remember(f facts, toBackend bool) {
	c, ok := courseOf(f)
	if !ok || f.trusted || f.state != stateNew && f.state != stateEstablished {
		return
	}
	own, other := m.directions(c)
	tcp := f.proto == protoTCP && !f.later
	has := func(flag uint8) bool { return tcp && f.tcpFlags&flag != 0 }
	if tcp && f.isSYN() && f.state == stateNew {
		if own.rst || other.rst || own.fin && other.fin { // a connection with an old name
			other = passing{}
		}
		own = passing{}
	}
	own.seen, own.last = true, m.Now
	own.syn = own.syn || has(flagSYN)
	own.fin = own.fin || has(flagFIN)
	own.rst = has(flagRST) // who resets says no more: what comes after it shows that it was somebody else's
	own.spoke = own.spoke || f.state == stateEstablished && !has(flagSYN)
	own.toBackend = own.toBackend || toBackend
	if m.passed == nil {
		m.passed = map[course]passing{}
	}
	m.passed[c.back()] = other
	m.passed[c] = own
}
