package explain

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"gardu/ctl/lb"
	"gardu/ctl/model"
)

const (
	echoReply    = 0
	echoRequest  = 8
	echoRequest6 = 128
	echoReply6   = 129
	solicitation = 135
)

// serve is what happens to a packet that the filter passed: if it is for a service address, gardu answers, forwards
// or drops it, and out says so. Else out stays.
func (m *Model) serve(f facts, frame []byte, out *Outcome) {
	if f.hasICMP && f.src.Is6() && f.icmpType == solicitation {
		if reply := m.answerND(f, frame); reply != nil {
			out.Verdict, out.Reason, out.Frame = Redirect, "nd-reply", reply
			return
		}
	}
	switch {
	case !m.isServiceAddress(f.dst, false):
		return
	case f.later && !f.carriesICMP():
		m.follow(f, frame, out)
	case f.hasICMP && !f.fragment && (f.src.Is4() && f.icmpType == echoRequest || f.src.Is6() && f.icmpType == echoRequest6):
		out.Verdict, out.Reason, out.Frame = Redirect, "echo-reply", answerEcho(f, frame)
	case !f.carriesICMP():
		service := m.serviceOf(f)
		var key BackendKey
		if service != nil {
			key = m.balance(service, f, f, frame, out)
		}
		if f.fragment && (service != nil || f.hasPorts) {
			m.noteFirst(f, key)
		}
	case f.isICMPError() && !f.fragment:
		flow, ok := answeredBy(f, frame)
		if service := m.serviceOf(flow); ok && service != nil {
			m.balance(service, flow, f, frame, out)
		}
	}
}

// follow sends a later fragment where the first one went. If nobody knows where that is, one of a protocol with ports can't be told from those
// of other services, and any other goes by its addresses.
func (m *Model) follow(f facts, frame []byte, out *Outcome) {
	first, ok := m.first(f)
	if !ok && hasPorts(f.proto) {
		out.Verdict, out.Reason = Drop, "service-fragment"
		return
	}
	flow := facts{src: f.src, dst: f.dst, proto: f.proto, vlan: f.vlan, later: !ok}
	if hasPorts(f.proto) {
		flow.sport, flow.dport, flow.hasPorts = first.sport, first.dport, true
	}
	if service := m.serviceOf(flow); service != nil {
		m.balance(service, flow, f, frame, out)
	}
}

// answeredBy is the flow whose answer an ICMP error quotes, if it tells: the error is for whom that flow is for.
func answeredBy(f facts, frame []byte) (flow facts, ok bool) {
	quoted, _, ok := quotedCourse(f, frame[f.upper+8:f.end])
	return facts{
		src: quoted.to.addr, dst: quoted.from.addr, sport: quoted.to.port, dport: quoted.from.port, proto: quoted.proto, vlan: f.vlan,
		hasPorts: hasPorts(quoted.proto),
	}, ok && quoted.from.addr == f.dst
}

// serviceOf is the service that a packet is for; nil: none. Of several that would take it, the one with the longest prefix does, then one of
// its protocol alone, then the one with the fewest ports.
func (m *Model) serviceOf(f facts) (service *model.Service) {
	if f.carriesICMP() || hasPorts(f.proto) && !f.hasPorts {
		return nil
	}
	for i := range m.snapshot.Services {
		s := &m.snapshot.Services[i]
		takes := (s.Proto == f.proto || s.Proto == model.ProtoAny) && s.Port.Lo <= uint32(f.dport) && uint32(f.dport) <= s.Port.Hi
		if takes && s.Addresses().Contains(f.dst) && (service == nil || narrower(s, service)) {
			service = s
		}
	}
	return service
}

func narrower(s, than *model.Service) bool {
	ports := func(s *model.Service) uint32 { return s.Port.Hi - s.Port.Lo }
	switch {
	case s.Addresses().Bits() != than.Addresses().Bits():
		return s.Addresses().Bits() > than.Addresses().Bits()
	case (s.Proto == model.ProtoAny) != (than.Proto == model.ProtoAny):
		return than.Proto == model.ProtoAny
	}
	return ports(s) < ports(than)
}

// carriesICMP says so also of later fragments.
func (f facts) carriesICMP() bool {
	return f.src.Is4() && f.proto == protoICMP || f.src.Is6() && f.proto == protoICMPv6
}

// isServiceAddress; announced: only those for which gardu answers ARP and neighbour solicitations.
func (m *Model) isServiceAddress(addr netip.Addr, announced bool) bool {
	return m.snapshot != nil && slices.ContainsFunc(m.snapshot.Services, func(s model.Service) bool {
		return s.Addresses().Contains(addr) && (s.ARP || !announced)
	})
}

// balance chooses a flow's backend and sends a packet there: one of the flow, a later fragment, or an error about it. It returns
// the backend.
func (m *Model) balance(service *model.Service, flow, f facts, frame []byte, out *Outcome) BackendKey {
	out.Service = service.Name
	if !f.hasICMP && !f.later && m.lose(service, f, frame, out) {
		return m.flows[flowOf(f)].backend
	}
	key, isNew, ok := m.choose(service, flow)
	if first := m.fragments[fragmentOf(f)]; f.later && !flow.later && first.backend.Service == service.Name && !m.backends[first.backend].Down {
		key, ok = first.backend, true
	}
	server, isNamed := m.named(service, f, frame)
	if isNamed {
		isNew = isNew || !ok
		key, ok = server, true
	}
	if !ok {
		m.counters.packet("backend none", frame)
		out.Verdict, out.Reason = Drop, "no-backend"
		return key
	}
	out.Backend = key.Name
	var nat *translation
	if isNAT(key) {
		if nat = m.followed(service, flow); nat != nil {
			isNamed = isNamed && key == nat.backend
			key, isNew = nat.backend, false
			out.Backend = key.Name
		}
	}
	if isNAT(key) && nat == nil && !translates(f) { // an error about a flow that isn't translated
		out.Service, out.Backend = "", ""
		return key
	}
	if isNAT(key) && nat == nil && f.later {
		out.Verdict, out.Reason = Drop, "service-fragment"
		return key
	}
	backend := m.backends[key]
	switch {
	case !backend.Hop:
		out.Verdict, out.Reason = Drop, "no-next-hop"
	case backend.MTU != 0 && f.length+overhead(key) > backend.MTU:
		m.tooBig(backend.MTU-overhead(key), f, frame, out)
	case isNAT(key) && f.ttl <= 1:
		out.Verdict, out.Reason = Drop, "ttl-exceeded"
	default:
		if isNAT(key) && nat == nil && service.NAT.Ports.Lo == 0 { // the service doesn't translate any more
			m.counters.packet("backend none", frame)
			out.Verdict, out.Reason, out.Backend = Drop, "no-backend", ""
			return key
		}
		if isNAT(key) && nat == nil {
			if nat = m.translate(service, key, f); nat == nil {
				out.Verdict, out.Reason = Drop, "nat-ports"
				return key
			}
		}
		out.Verdict, out.Reason = Forward, "forward"
		if isNAT(key) {
			if !f.hasICMP {
				m.heard(nat, f, false)
			}
			out.Frame = translated(f, nat.onward, backend.NextMAC, backend.OwnMAC, frame)
		} else {
			out.Frame = forward(key, backend, f, frame)
		}
		out.Frame = tagged(backend.VLAN, out.Frame)
		out.key, out.Ifindex = key, backend.Ifindex
		m.counters.packet("backend "+key.String(), frame)
		if isNamed {
			m.counters.Add("named "+key.String(), Counter{Packets: 1})
		}
		if isNew && !f.hasICMP && !f.later {
			m.counters.Add("backend "+key.String(), Counter{Flows: 1})
		}
	}
	return key
}

// lose is what becomes of a TCP segment in the middle of a flow whose backend is down, if the service doesn't want it to move.
func (m *Model) lose(service *model.Service, f facts, frame []byte, out *Outcome) bool {
	record := m.flows[flowOf(f)]
	onDown := m.onDown[record.backend] // of a backend that the snapshot has no more, as it was
	if onDown == model.DownMove || onDown == "" || f.proto != protoTCP || f.isSYN() ||
		record.backend.Service != service.Name || !m.backends[record.backend].Down {
		return false
	}
	out.Backend = record.backend.Name
	out.Verdict, out.Reason = Drop, "backend-down"
	if onDown == model.DownDrop {
		return true
	}
	answer := answerReject(model.RejectReset, f, frame)
	switch {
	case answer == nil:
		out.Reason = "reject-silent"
	case m.answers != nil && *m.answers == 0:
		out.Reason = "reject-limited"
	default:
		out.Verdict, out.Reason, out.Frame = Reject, "backend-reset", answer
		if m.answers != nil {
			*m.answers--
		}
	}
	return true
}

func ringSlots(service *model.Service) int { return cmp.Or(service.Ring, lb.RingSize) }

// slotOf is the slot of the service's ring that a flow begins on.
func slotOf(service *model.Service, f facts) int {
	return int(hash(f, service.Affinity) >> 32 * uint64(ringSlots(service)) >> 32)
}

// choose returns the backend that the flow is on while that is up, else the ring's choice. A SYN on a flow that was
// closed opens a new flow.
func (m *Model) choose(service *model.Service, f facts) (key BackendKey, isNew, ok bool) {
	record := m.flows[flowOf(f)]
	if record.backend.Service == service.Name && !m.backends[record.backend].Down && !(f.isSYN() && record.closed) {
		return record.backend, false, true
	}
	index := m.ring(service)[slotOf(service, f)]
	if index == 0 {
		return BackendKey{}, false, false
	}
	return keyOf(service, service.Backends[index-1]), true, true
}

// account keeps what the flow's next packet needs to know. Packets that are dropped leave no trace.
func (m *Model) account(f facts, out Outcome) {
	if out.Verdict == Drop || out.Verdict == Reject {
		return
	}
	m.learn(f)
	if m.flows == nil {
		m.flows = map[flow]record{}
	}
	closed := m.flows[flowOf(f)].closed && !f.isSYN() || f.proto == protoTCP && f.tcpFlags&(flagFIN|flagRST) != 0
	m.flows[flowOf(f)] = record{out.key, closed}
}

func flowOf(f facts) flow { return flow{f.src, f.dst, f.sport, f.dport, f.proto, f.vlan, f.later} }

// hash is the hash of flows that the choice of a backend goes by: the same on every box.
func hash(f facts, affinity model.Affinity) uint64 {
	src, dst := f.src.As16(), f.dst.As16()
	words := []uint64{binary.BigEndian.Uint64(src[:8]), binary.BigEndian.Uint64(src[8:])}
	if affinity != model.AffinitySource {
		ports := uint64(f.sport)<<32 | uint64(f.dport)<<16 | uint64(f.proto)
		words = append(words, binary.BigEndian.Uint64(dst[:8]), binary.BigEndian.Uint64(dst[8:]), ports)
	}
	h := uint64(0x243F6A8885A308D3)
	for _, word := range words {
		h = (h ^ word) * 0x9E3779B97F4A7C15
		h ^= h >> 32
	}
	return h
}

// overhead is what forwarding adds to the IP packet.
func overhead(key BackendKey) int {
	bytes := 0
	if key.Mode == "dsr" || isNAT(key) {
		return 0
	}
	if key.Mode == "gue" {
		bytes = 8
	}
	if key.Address.Is4() {
		return bytes + 20
	}
	return bytes + 40
}

// tagged is a frame with a VLAN tag, 0: none.
func tagged(vlan uint16, frame []byte) []byte {
	if vlan == 0 {
		return frame
	}
	tag := binary.BigEndian.AppendUint16([]byte{0x81, 0}, vlan)
	return slices.Concat(frame[:12], tag, frame[12:])
}

// forward returns the frame as it goes to the backend.
func forward(key BackendKey, backend BackendState, f facts, frame []byte) []byte {
	etherType, packet, behind := f.etherType, frame[f.ip:f.end], frame[f.end:]
	switch key.Mode {
	case "ipip":
		carried := byte(4)
		if f.src.Is6() {
			carried = 41
		}
		etherType, packet = wrap(key, backend, f, carried, packet)
	case "gue":
		etherType, packet = wrap(key, backend, f, protoUDP, wrapUDP(key, backend, f, packet))
	}
	out := append(append([]byte{}, backend.NextMAC[:]...), backend.OwnMAC[:]...)
	out = binary.BigEndian.AppendUint16(out, etherType) // VLAN tags stay behind
	return append(append(out, packet...), behind...)
}

// wrap puts an outer IP header before what it carries, and gives its Ethernet type.
func wrap(key BackendKey, backend BackendState, f facts, carried byte, packet []byte) (uint16, []byte) {
	src, dst := backend.Source.AsSlice(), key.Address.AsSlice()
	if key.Address.Is4() {
		h := []byte{0x45, f.tos, 0, 0, 0, 0, 0x40, 0, 64, carried, 0, 0}
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(packet)))
		h = append(append(h, src...), dst...)
		binary.BigEndian.PutUint16(h[10:], checksum(h))
		return typeIPv4, append(h, packet...)
	}
	h := []byte{0x60 | f.tos>>4, f.tos << 4, 0, 0, 0, 0, carried, 64}
	binary.BigEndian.PutUint16(h[4:], uint16(len(packet)))
	return typeIPv6, append(append(append(h, src...), dst...), packet...)
}

// wrapUDP puts a UDP header before a packet: to port 6080, from one that the flow picks. Its checksum is that of the packet as
// if the checksums inside were right; where these don't cover all of it, there is none.
func wrapUDP(key BackendKey, backend BackendState, f facts, packet []byte) []byte {
	udp := binary.BigEndian.AppendUint16(nil, uint16(49152+hash(f, model.AffinityFlow)>>50))
	udp = binary.BigEndian.AppendUint16(udp, 6080)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(packet)))
	udp = append(append(udp, 0, 0), packet...)
	if inner, ok := righted(f, packet); ok {
		pseudo := append(backend.Source.AsSlice(), key.Address.AsSlice()...)
		pseudo = append(pseudo, 0, protoUDP)
		pseudo = append(append(append(pseudo, udp[4:6]...), udp[:8]...), inner...)
		sum := checksum(pseudo)
		if sum == 0 {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(udp[6:], sum)
	}
	return udp
}

// righted is a packet with its checksums made right, if they cover every byte of it.
func righted(f facts, packet []byte) ([]byte, bool) {
	if f.fragment || f.proto != protoTCP && f.proto != protoUDP {
		return nil, false
	}
	packet = bytes.Clone(packet)
	upper := packet[f.upper-f.ip:]
	at := 16
	if f.proto == protoUDP {
		at = 6
		if int(binary.BigEndian.Uint16(upper[4:])) != len(upper) || upper[6] == 0 && upper[7] == 0 {
			return nil, false
		}
	}
	if f.src.Is4() {
		copy(packet[10:], []byte{0, 0})
		binary.BigEndian.PutUint16(packet[10:], checksum(packet[:f.upper-f.ip]))
	} else if f.upper-f.ip != 40 {
		return nil, false
	}
	copy(upper[at:], []byte{0, 0})
	pseudo := append(f.src.AsSlice(), f.dst.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint16(append(pseudo, 0, f.proto), uint16(len(upper)))
	binary.BigEndian.PutUint16(upper[at:], checksum(append(pseudo, upper...)))
	return packet, true
}

// answerEcho turns a ping around.
func answerEcho(f facts, frame []byte) []byte {
	out := bytes.Clone(frame)
	copy(out, frame[6:12])
	copy(out[6:], frame[:6])
	ip, icmp := out[f.ip:f.upper], out[f.upper:]
	reply := byte(echoReply)
	if f.src.Is4() {
		copy(ip[12:], f.dst.AsSlice())
		copy(ip[16:], f.src.AsSlice())
		adjust(ip[10:], uint16(ip[8])<<8, 64<<8)
		ip[8] = 64
	} else {
		copy(ip[8:], f.dst.AsSlice())
		copy(ip[24:], f.src.AsSlice())
		ip[7] = 64
		reply = echoReply6
	}
	adjust(icmp[2:], uint16(icmp[0])<<8, uint16(reply)<<8)
	if icmp[2] == 0 && icmp[3] == 0 { // the same number as 0xffff, but wrong for a message of zeros
		icmp[2], icmp[3] = 0xff, 0xff
	}
	icmp[0] = reply
	return out
}

// answerARP returns the answer to a request for an announced service address, or nil.
func (m *Model) answerARP(f facts, frame []byte) []byte {
	request := frame[f.ip:]
	if f.etherType != typeARP || len(request) < 28 || !bytes.Equal(request[:8], []byte{0, 1, 8, 0, 6, 4, 0, 1}) {
		return nil
	}
	sender := netip.AddrFrom4([4]byte(request[14:18]))
	target := netip.AddrFrom4([4]byte(request[24:28]))
	if sender.IsUnspecified() || sender == target || !m.isServiceAddress(target, true) {
		return nil
	}
	out := bytes.Clone(frame)
	copy(out, request[8:14]) // RFC 826: to the hardware address that asks
	copy(out[6:], m.MAC[:])
	arp := out[f.ip:]
	arp[7] = 2
	copy(arp[8:], m.MAC[:])
	copy(arp[14:], request[24:28])
	copy(arp[18:], request[8:18])
	return out
}

// answerND returns the answer to a neighbour solicitation for an announced service address, or nil. RFC 4861
// section 7.1.1: hop limit 255, code 0, the whole target; RFC 6980: no fragments. Not answered are duplicate address
// detection (from ::), because two balancers may share the address, and what has other options or headers than the
// asker's link-layer address, which only a solicitation sent to one receiver may lack.
func (m *Model) answerND(f facts, frame []byte) []byte {
	message := frame[f.upper:f.end]
	bare, withMAC := len(message) == 24, len(message) == 32 && message[24] == 1 && message[25] == 1
	if f.ttl != 255 || f.icmpCode != 0 || f.fragment || f.upper != f.ip+40 || f.src.IsUnspecified() ||
		!withMAC && !(bare && !f.dst.IsMulticast()) {
		return nil
	}
	target := netip.AddrFrom16([16]byte(message[8:24]))
	if !m.isServiceAddress(target, true) {
		return nil
	}
	out := bytes.Clone(frame)
	copy(out, frame[6:12])
	copy(out[6:], m.MAC[:])
	copy(out[f.ip+8:], target.AsSlice())
	copy(out[f.ip+24:], f.src.AsSlice())
	answer := out[f.upper:f.end]
	copy(answer, []byte{136, 0, 0, 0, 0x60, 0, 0, 0}) // solicited, override
	if withMAC {
		copy(answer[24:], append([]byte{2, 1}, m.MAC[:]...))
	}
	pseudo := append(target.AsSlice(), f.src.AsSlice()...)
	pseudo = append(pseudo, 0, 0, 0, byte(len(answer)), 0, 0, 0, protoICMPv6)
	binary.BigEndian.PutUint16(answer[2:], checksum(append(pseudo, answer...)))
	return out
}

// checksum is the Internet checksum of b, RFC 1071.
func checksum(b []byte) uint16 {
	sum := 0
	for i, c := range b {
		if i%2 == 0 {
			sum += int(c) << 8
		} else {
			sum += int(c)
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// adjust changes the checksum at the head of b for a word that changes, RFC 1624 equation 3: a sum that was wrong
// stays wrong.
func adjust(b []byte, before, after uint16) {
	sum := int(^binary.BigEndian.Uint16(b)) + int(^before) + int(after)
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(b, ^uint16(sum))
}
