package explain

import (
	"bytes"
	"encoding/binary"
	"slices"

	"gardu/ctl/model"
)

// quicHead is how much of a QUIC packet must be there: what has an ID that names a server has more.
const quicHead = 24

// named is the backend that a QUIC packet's connection ID names, if it names one that is up.
func (m *Model) named(service *model.Service, f facts, frame []byte) (key BackendKey, ok bool) {
	id, ok := serverID(service.QUIC, f, frame)
	if !ok {
		return BackendKey{}, false
	}
	i := slices.IndexFunc(service.Backends, func(b model.Backend) bool { return bytes.Equal(service.QUIC.ServerID(&b), id) })
	if i < 0 {
		return BackendKey{}, false
	}
	key = keyOf(service, service.Backends[i])
	return key, !m.backends[key].Down
}

// serverID is the server ID in a packet's connection ID, if that is one that a server made.
func serverID(quic *model.QUIC, f facts, frame []byte) (id []byte, ok bool) {
	if quic == nil || f.proto != protoUDP || !f.hasPorts || f.fragment {
		return nil, false
	}
	udp := frame[f.upper:f.end]
	if len(udp) < 8+quicHead || binary.BigEndian.Uint16(udp[4:]) < 8+quicHead {
		return nil, false
	}
	head, connection := udp[8:], udp[9:]
	if head[0]&0x80 != 0 { // a long header
		version, kind, length := binary.BigEndian.Uint32(head[1:]), head[0]>>4&3, int(head[5])
		switch {
		case version == 1 && kind < 2, version == 0x6b3343cf && (kind == 1 || kind == 2): // Initial, 0-RTT
			return nil, false
		case quic.Format == model.QUICLB && length < 1+quic.Length+4, quic.Format != model.QUICLB && length < 8:
			return nil, false
		}
		connection = head[6:]
	}
	first := connection[0]
	switch quic.Format {
	case model.KatranV2:
		ok = first>>6 == 2
	case model.KatranV3:
		ok = first>>6 == 3
	default:
		ok = int(first>>5) == quic.Config
	}
	return connection[1 : 1+quic.Length], ok
}
