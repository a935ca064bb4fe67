package compile

import (
	"encoding/binary"
	"errors"
	"fmt"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

// quicForm is what the data plane knows of connection IDs; 0: it doesn't look at them.
func quicForm(q *model.QUIC) uint8 {
	if q == nil {
		return 0
	}
	form, config := uint8(q.Length), q.Config
	if q.Format != model.QUICLB {
		form |= uint8(abi.QuicKatran)
		config = 4 // the version, in two bits
		if q.Format == model.KatranV3 {
			config = 6
		}
	}
	return form | uint8(config)<<4
}

// addServerIDs adds the server IDs of the backends of all services, if there are any. Other salts are tried until no two share a
// slot, which takes a second one once in a long while.
func addServerIDs(t *table, head *abi.ServicesHead, services []model.Service, ids IDs) error {
	var servers []abi.ServerId
	for i := range services {
		s := &services[i]
		if s.QUIC == nil {
			continue
		}
		for j := range s.Backends {
			b := &s.Backends[j]
			id, ok := ids.Backends[backendKey(s, b)]
			if !ok {
				return fmt.Errorf("backend %s/%s has no id", s.Name, b.Name)
			}
			var bytes [16]byte
			copy(bytes[:], s.QUIC.ServerID(b))
			servers = append(servers, abi.ServerId{
				Id:      [2]uint64{binary.BigEndian.Uint64(bytes[:8]), binary.BigEndian.Uint64(bytes[8:])},
				Service: ids.Services[s.Name], Backend: id,
			})
		}
	}
	if len(servers) == 0 {
		return nil
	}
	lines := make([]abi.Line, len(servers))
	for i := range servers {
		lines[i] = abi.ToLine(servers[i])
	}
	for salt := range uint32(64) {
		entries := make([]entry, len(servers))
		for i, s := range servers {
			entries[i] = entry{hash: mix(s.Id[0], s.Id[1], uint64(s.Service)|uint64(salt)<<32), ref: uint32(i)}
		}
		buckets, err := newBucketTable(entries)
		if err != nil {
			return err
		}
		if len(buckets.chain) > 0 {
			continue
		}
		head.ServerSalt = salt
		head.ServerOff = t.add(lines)
		head.ServerBucketOff, head.ServerBucketMask = t.add(buckets.buckets), buckets.mask()
		return nil
	}
	return errors.New("cannot happen: server IDs share slots whatever the salt")
}
