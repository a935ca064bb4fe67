package explain

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"gardu/ctl/lb"
	"gardu/ctl/model"
)

// translation is what becomes of the packets of a client's flow, and of their answers.
type translation struct {
	backend      BackendKey
	client       course // from the client to the service
	onward       course // from gardu to the backend
	there, back  passing
	theirs, ours [6]byte // MAC addresses of the client's first frame
	vlan         uint16  // its only VLAN tag; 0: none
	ifindex      int     // where that came in
}

// natTries is how many ports are tried.
const natTries = 64

func courseByPorts(f facts) course {
	return course{end{f.src, f.sport}, end{f.dst, f.dport}, f.proto}
}

// translates: TCP and UDP.
func translates(f facts) bool {
	return (f.hasPorts || f.later) && (f.proto == protoTCP || f.proto == protoUDP)
}

// ways are what passed of a translation within its time-out. It lives while there is one.
func (m *Model) ways(t *translation) (there, back passing) {
	there, back = t.there, t.back
	limit := timeout(t.client.proto, there, back)
	if m.Now.Sub(there.last) > limit {
		there = passing{}
	}
	if m.Now.Sub(back.last) > limit {
		back = passing{}
	}
	return there, back
}

func (m *Model) lives(t *translation) bool {
	there, back := m.ways(t)
	return there.seen || back.seen
}

// followed is the translation that a client's packet goes on with, while its backend is up; nil: it needs a new one. A SYN on a
// connection that was closed begins a new one.
func (m *Model) followed(service *model.Service, f facts) *translation {
	t := m.byClient[courseByPorts(f)]
	if t == nil || !m.lives(t) {
		return nil
	}
	there, back := m.ways(t)
	closed := there.rst || back.rst || there.fin && back.fin
	if f.isSYN() && closed || t.backend.Service != service.Name || m.backends[t.backend].Down {
		return nil
	}
	return t
}

// translate makes a translation to a backend; nil: every port that is tried is in use.
func (m *Model) translate(service *model.Service, key BackendKey, f facts) *translation {
	client := courseByPorts(f)
	if old := m.byClient[client]; old != nil {
		m.forget(old)
	}
	port := f.dport
	if own := m.ownPorts[key]; own != 0 {
		port = own
	}
	pool := service.NAT.Pool
	if len(pool) == 0 {
		pool = []netip.Addr{m.backends[key].Source}
	}
	ports := service.NAT.Ports.Hi - service.NAT.Ports.Lo + 1
	space := uint64(ports) * uint64(len(pool))
	h := hash(f, model.AffinityFlow)
	start, step := h>>32%space, uint64(1)
	if space > natTries {
		step = 1 + uint64(uint32(h))%(space-1)
	}
	for i := range uint64(natTries) {
		at := (start + i*step) % space
		from := end{pool[at/uint64(ports)], uint16(uint64(service.NAT.Ports.Lo) + at%uint64(ports))}
		onward := course{from, end{key.Address, port}, f.proto}
		if other := m.byBackend[onward.back()]; other != nil {
			if m.lives(other) {
				continue
			}
			m.forget(other)
		}
		t := &translation{backend: key, client: client, onward: onward, theirs: f.srcMAC, ours: f.dstMAC, ifindex: m.Ifindex}
		if f.tags == 1 {
			t.vlan = f.vlan
		}
		if m.byClient == nil {
			m.byClient, m.byBackend = map[course]*translation{}, map[course]*translation{}
		}
		m.byClient[client], m.byBackend[onward.back()] = t, t
		return t
	}
	return nil
}

func (m *Model) forget(t *translation) {
	delete(m.byClient, t.client)
	delete(m.byBackend, t.onward.back())
}

// heard notes that a packet passes, an answer or not. What has timed out is forgotten then.
func (m *Model) heard(t *translation, f facts, answer bool) {
	t.there, t.back = m.ways(t)
	own, other := &t.there, t.back
	if answer {
		own, other = &t.back, t.there
	}
	tcp := f.proto == protoTCP
	own.seen, own.last = true, m.Now
	own.syn = own.syn || tcp && f.tcpFlags&flagSYN != 0
	own.fin = own.fin || tcp && f.tcpFlags&flagFIN != 0
	own.rst = tcp && f.tcpFlags&flagRST != 0
	own.spoke = own.spoke || other.seen && !(tcp && f.tcpFlags&flagSYN != 0)
}

// answered is the translation that a packet, or what an ICMP error is about, is an answer to, nil: none.
func (m *Model) answered(f facts, frame []byte) *translation {
	flow, ok := f, true
	switch first, known := m.first(f); {
	case f.isICMPError() && !f.fragment:
		flow, ok = answeredBy(f, frame)
	case f.later:
		flow.sport, flow.dport, ok = first.sport, first.dport, known
	}
	t := m.byBackend[courseByPorts(flow)]
	if t == nil || !ok || !translates(flow) || !m.lives(t) {
		return nil
	}
	return t
}

// seenBy is a packet with other ends. A later fragment has no ports.
func (f facts) seenBy(c course) facts {
	f.src, f.dst = c.from.addr, c.to.addr
	if !f.later {
		f.sport, f.dport = c.from.port, c.to.port
	}
	return f
}

// sendBack sends a backend's answer to the client. There are no routes here: it takes the way that the client's first frame came.
func (m *Model) sendBack(t *translation, f facts, frame []byte, out *Outcome) {
	if f.fragment && !f.later {
		m.noteFirst(f, BackendKey{})
	}
	if f.ttl <= 1 {
		out.Verdict, out.Reason = Drop, "ttl-exceeded"
		return
	}
	if !f.hasICMP {
		m.heard(t, f, true)
	}
	out.Verdict, out.Reason = Forward, "nat-reply"
	out.Service, out.Backend, out.key = t.backend.Service, t.backend.Name, t.backend
	out.Ifindex = t.ifindex
	out.Frame = tagged(t.vlan, translated(f, t.client.back(), t.theirs, t.ours, frame))
}

// translated is a frame with other ends, without its VLAN tags, one hop further.
func translated(f facts, c course, to, from [6]byte, frame []byte) []byte {
	if f.hasICMP {
		return translatedError(f, c, to, from, frame)
	}
	packet := bytes.Clone(frame[f.ip:])
	if f.later {
		return oneHop(f, addressesOf(c.from.addr, c.to.addr), to, from, packet)
	}
	upper := packet[f.upper-f.ip:]
	sum := upper[6:]
	if f.proto == protoTCP {
		sum = upper[16:]
	}
	none := f.proto == protoUDP && sum[0] == 0 && sum[1] == 0
	before, after := addressesOf(f.src, f.dst), addressesOf(c.from.addr, c.to.addr)
	ports := portsOf(c)
	change(sum, before, after)
	change(sum, slices.Clone(upper[:4]), ports)
	copy(upper, ports)
	switch {
	case none:
		copy(sum, []byte{0, 0})
	case f.proto == protoUDP && sum[0] == 0 && sum[1] == 0:
		copy(sum, []byte{0xff, 0xff})
	}
	return oneHop(f, after, to, from, packet)
}

// change makes a checksum follow words that change.
func change(sum, before, after []byte) {
	for i := 0; i < len(before); i += 2 {
		adjust(sum, binary.BigEndian.Uint16(before[i:]), binary.BigEndian.Uint16(after[i:]))
	}
}

// oneHop gives a packet other addresses and a hop less, in a frame.
func oneHop(f facts, addresses []byte, to, from [6]byte, packet []byte) []byte {
	if f.src.Is4() {
		change(packet[10:], packet[12:20], addresses)
		copy(packet[12:], addresses)
		adjust(packet[10:], uint16(f.ttl)<<8, uint16(f.ttl-1)<<8)
		packet[8]--
	} else {
		copy(packet[8:], addresses)
		packet[7]--
	}
	out := append(append([]byte{}, to[:]...), from[:]...)
	return append(binary.BigEndian.AppendUint16(out, f.etherType), packet...)
}

// translatedError is translated for an ICMP error: what it quotes goes the other way, and gets the ends that its sender gave it. The
// checksums follow, as far as they are there.
func translatedError(f facts, c course, to, from [6]byte, frame []byte) []byte {
	packet := bytes.Clone(frame[f.ip:])
	icmp := packet[f.upper-f.ip : f.end-f.ip]
	own, inner := icmp[2:4], icmp[8:]
	quoted, upper, _ := quotedCourse(f, inner)
	before, after := addressesOf(quoted.from.addr, quoted.to.addr), addressesOf(c.to.addr, c.from.addr)
	portsBefore, ports := slices.Clone(upper[:4]), portsOf(c.back())
	inside := func(sum []byte, words ...[]byte) { // a checksum in what is quoted, which the error's own covers
		old := slices.Clone(sum[:2])
		for i := 0; i < len(words); i += 2 {
			change(sum, words[i], words[i+1])
		}
		if quoted.proto == protoUDP && len(words) > 2 && sum[0] == 0 && sum[1] == 0 {
			copy(sum, []byte{0xff, 0xff})
		}
		change(own, old, sum[:2])
	}
	if f.src.Is4() {
		inside(inner[10:], before, after)
		copy(inner[12:], after)
	} else {
		change(own, addressesOf(f.src, f.dst), addressesOf(c.from.addr, c.to.addr)) // its pseudo header
		copy(inner[8:], after)
	}
	change(own, before, after)
	change(own, portsBefore, ports)
	copy(upper, ports)
	switch {
	case quoted.proto == protoUDP && (upper[6] != 0 || upper[7] != 0):
		inside(upper[6:], before, after, portsBefore, ports)
	case quoted.proto == protoTCP && len(upper) >= 18:
		inside(upper[16:], before, after, portsBefore, ports)
	}
	return oneHop(f, addressesOf(c.from.addr, c.to.addr), to, from, packet)
}

func portsOf(c course) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, c.from.port), c.to.port)
}

func addressesOf(src, dst netip.Addr) []byte { return append(src.AsSlice(), dst.AsSlice()...) }

func isNAT(key BackendKey) bool { return key.Mode == lb.ModeNAT }
