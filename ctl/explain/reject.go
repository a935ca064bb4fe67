package explain

import (
	"encoding/binary"
	"net/netip"

	"gardu/ctl/model"
)

// divert is what rules do with a packet besides letting it pass or dropping it: copies, answers, another way out.
func (m *Model) divert(f facts, frame []byte, out *Outcome) {
	for _, name := range m.copies {
		m.counters.Add("mirror "+name, Counter{Packets: 1})
	}
	m.copies = nil
	if out.by == nil {
		return
	}
	switch out.by.Action {
	case model.Reject:
		answer := answerReject(out.by.Reject, f, frame)
		switch {
		case answer == nil:
			out.Verdict, out.Reason = Drop, "reject-silent"
		case !m.mayAnswer():
			out.Verdict, out.Reason = Drop, "reject-limited"
		default:
			out.Frame = answer
		}
	case model.Redirect:
		length := f.length
		if !f.isIP() {
			length = len(frame) - f.ip
		}
		switch exit := m.exits[out.by.Interface]; {
		case exit.Ifindex == 0:
			out.Verdict, out.Reason = Drop, "redirect-failed"
		case exit.MTU != 0 && length > exit.MTU:
			out.Verdict, out.Reason = Drop, "too-big"
		default:
			out.Frame, out.Ifindex = frame, exit.Ifindex
			m.counters.Add("redirect "+out.by.Interface, Counter{Packets: 1})
		}
	}
}

// mayAnswer takes one of the answers that may still be given.
func (m *Model) mayAnswer() bool {
	if m.answers == nil {
		return true
	}
	*m.answers--
	return *m.answers >= 0
}

// tooBig tells the sender of a packet how much fits: RFC 1191 section 4, RFC 4443 section 3.2. No host believes that less than 1280
// bytes of IPv6 do (RFC 8200, section 5).
func (m *Model) tooBig(mtu int, f facts, frame []byte, out *Outcome) {
	out.Verdict, out.Reason = Drop, "too-big"
	if f.later || f.hasICMP && !isQuery(f) || !betweenHosts(f, frame) || f.src.Is6() && f.length <= 1280 || !m.mayAnswer() {
		return
	}
	out.Verdict, out.Reason = Reject, "too-big-told"
	head, proto := []byte{3, 4, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, byte(protoICMP)
	if f.src.Is6() {
		mtu = max(mtu, 1280)
		head, proto = []byte{2, 0, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, protoICMPv6
	} else if frame[f.ip+6]&0x40 == 0 {
		out.Reason = "cannot-fragment"
	}
	out.Frame = answer(f, frame, proto, append(head, quote(f, frame)...))
}

// answerReject returns the frame that tells a packet's sender that it is not wanted, or nil when the RFCs forbid one.
func answerReject(how model.RejectCode, f facts, frame []byte) []byte {
	var upper []byte
	proto := byte(protoTCP)
	switch {
	case !f.isIP() || f.later || !betweenHosts(f, frame):
		return nil
	case how == model.RejectReset || how == model.RejectDefault && f.proto == protoTCP:
		if upper = reset(f, frame); upper == nil {
			return nil
		}
	case f.hasICMP && !isQuery(f):
		return nil
	default:
		proto, upper = unreachable(how, f, frame)
	}
	return answer(f, frame, proto, upper)
}

// answer is a frame from where the packet was sent to, back to its sender; the checksum of upper is 0 still.
func answer(f facts, frame []byte, proto byte, upper []byte) []byte {
	out := append(append([]byte{}, frame[6:12]...), frame[:6]...)
	out = append(out, frame[12:f.ip]...) // tags, Ethernet type
	src, dst := f.dst.AsSlice(), f.src.AsSlice()
	sumAt := 16
	if proto != protoTCP {
		sumAt = 2
	}
	pseudo := append(append([]byte{}, src...), dst...)
	pseudo = append(pseudo, 0, 0, byte(len(upper)>>8), byte(len(upper)), 0, 0, 0, proto)
	if proto == protoICMP { // the one without a pseudo header
		pseudo = nil
	}
	binary.BigEndian.PutUint16(upper[sumAt:], checksum(append(pseudo, upper...)))
	if f.src.Is4() {
		length := 20 + len(upper)
		h := []byte{0x45, 0, byte(length >> 8), byte(length), 0, 0, 0x40, 0, 64, proto, 0, 0}
		h = append(append(h, src...), dst...)
		binary.BigEndian.PutUint16(h[10:], checksum(h))
		return append(append(out, h...), upper...)
	}
	h := []byte{0x60, 0, 0, 0, byte(len(upper) >> 8), byte(len(upper)), proto, 64}
	h = append(append(h, src...), dst...)
	return append(append(out, h...), upper...)
}

// betweenHosts: one host sent it to one host, as RFC 1122 section 3.2.2 and RFC 4443 section 2.4 (e) ask. What has no
// business on a wire (0.0.0.0/8, loopback, class E) counts as none.
func betweenHosts(f facts, frame []byte) bool {
	group := frame[0]&1 != 0 || frame[6]&1 != 0
	return !group && isHost(f.src) && isHost(f.dst)
}

func isHost(addr netip.Addr) bool {
	if addr.Is4() {
		first := addr.As4()[0]
		return first != 0 && first != 127 && first < 224
	}
	return addr != netip.IPv6Unspecified() && addr != netip.IPv6Loopback() && addr.As16()[0] != 0xff
}

// isQuery: an ICMP message that is no error (RFC 792, 950, RFC 4443 section 2.1) and no redirect. An IPv4 type that is not
// known, or not a host's business, may be one.
func isQuery(f facts) bool {
	if f.src.Is6() {
		return f.icmpType >= 128 && f.icmpType != 137
	}
	switch f.icmpType {
	case 0, 8, 13, 14, 15, 16, 17, 18:
		return true
	}
	return false
}

// reset is the answer to a segment for a connection that doesn't exist, RFC 9293 section 3.10.7.1; its checksum is 0 still.
func reset(f facts, frame []byte) []byte {
	if f.proto != protoTCP || f.tcpFlags&flagRST != 0 {
		return nil
	}
	segment := frame[f.upper:f.end]
	out := make([]byte, 20)
	copy(out, segment[2:4])
	copy(out[2:], segment[:2])
	out[12] = 5 << 4
	if f.tcpFlags&flagACK != 0 {
		copy(out[4:], segment[8:12])
		out[13] = flagRST
		return out
	}
	length := uint32(len(segment) - 4*int(segment[12]>>4))
	for _, flag := range []uint8{flagSYN, flagFIN} {
		if f.tcpFlags&flag != 0 {
			length++
		}
	}
	binary.BigEndian.PutUint32(out[8:], binary.BigEndian.Uint32(segment[4:])+length)
	out[13] = flagRST | flagACK
	return out
}

// unreachable is the ICMP message, its checksum 0 still.
func unreachable(how model.RejectCode, f facts, frame []byte) (proto byte, message []byte) {
	if f.src.Is4() {
		code := map[model.RejectCode]byte{model.RejectNet: 0, model.RejectHost: 1, model.RejectAdmin: 13}
		message = []byte{3, 3, 0, 0, 0, 0, 0, 0}
		if c, ok := code[how]; ok {
			message[1] = c
		}
		return protoICMP, append(message, quote(f, frame)...)
	}
	code := map[model.RejectCode]byte{model.RejectNet: 0, model.RejectAdmin: 1, model.RejectHost: 3}
	message = []byte{1, 4, 0, 0, 0, 0, 0, 0}
	if c, ok := code[how]; ok {
		message[1] = c
	}
	return protoICMPv6, append(message, quote(f, frame)...)
}

// quote is as much of the packet as fits into what every path carries: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c).
func quote(f facts, frame []byte) []byte {
	most := 1280 - 48
	if f.src.Is4() {
		most = 576 - 28
	}
	return frame[f.ip:min(f.end, f.ip+most)]
}
