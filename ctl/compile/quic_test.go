package compile

import (
	"fmt"
	"net/netip"
	"testing"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

// TestServerIDs: each of many server IDs leads to its backend through the buckets, as the programs look for it.
func TestServerIDs(t *testing.T) {
	quic := &model.QUIC{Format: model.QUICLB, Length: 9}
	service := model.Service{Name: "h3", Address: netip.MustParseAddr("192.0.2.10"), Port: model.Range{Lo: 443, Hi: 443}, Proto: model.ProtoUDP, Forward: "dsr", QUIC: quic}
	for i := range 5000 {
		address := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		service.Backends = append(service.Backends, model.Backend{Name: fmt.Sprint(i), Address: address, Weight: 1})
	}
	snapshot := &model.Snapshot{Services: []model.Service{service}}
	ids, _, err := IDs{}.Assign(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := servicesTable(snapshot.Services, ids)
	if err != nil {
		t.Fatal(err)
	}
	head := abi.FromLine[abi.ServicesHead](lines[0])
	for i := range service.Backends {
		b := &service.Backends[i]
		want, id := ids.Backends[backendKey(&service, b)], quic.ServerID(b)
		if len(id) != quic.Length || id[8] != byte(i) || id[7] != byte(i>>8) {
			t.Fatalf("the server ID of %s is %x", b.Address, id)
		}
		hi, lo := uint64(10)<<16|1<<8|uint64(i)>>8, uint64(byte(i))<<56
		h := mix(hi, lo, uint64(ids.Services["h3"])|uint64(head.ServerSalt)<<32)
		var got uint16
		(&mirror{}).bucket(lines, head.ServerBucketOff, head.ServerBucketMask, 0, h, func(ref uint32) {
			if server := abi.FromLine[abi.ServerId](lines[head.ServerOff+ref]); server.Id == [2]uint64{hi, lo} {
				got = server.Backend
			}
		})
		if got != want {
			t.Fatalf("the server ID of %s leads to backend %d, not %d", b.Address, got, want)
		}
	}
}
