package dataplane

import (
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
	"gardu/ctl/flow"
)

// torn says whether a record mixes two flows: all that is in it follows from the flow's number.
func torn(record *abi.FlowRecord) bool {
	p, v := packet{flow: flowOf(&record.Key)}, &record.Value
	return v.Packets != 1 || v.Bytes != p.bytes() || v.TtlMin != p.ttl() || v.TtlMax != p.ttl() || v.TcpFlags != ack
}

// A reader sweeps while the program on another CPU gives the records of one bucket to new flows, one a packet.
func TestReadersSeeNoTornRecords(t *testing.T) {
	manyPackets(t)
	if runtime.NumCPU() < 2 {
		t.Skip("needs two CPUs: one writes while the other reads")
	}
	r := newRig(t, 1)
	var packets []packet
	for number := range uint32(generatorMax) {
		packets = append(packets, packet{flow: number, flags: ack})
	}
	var replaced atomic.Uint64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		pin(t, 1)
		for {
			select {
			case <-stop:
				return
			default:
				r.generator.send(t, packets)
				replaced.Add(uint64(len(packets)))
			}
		}
	}()
	var reads, bad, plainReads, plainBad int
	err := r.ReadFlows(func(memory []FlowTable) error {
		table, err := flow.NewTable(memory[0].Memory, nil)
		if err != nil {
			return err
		}
		live := unsafe.Slice((*abi.FlowRecord)(unsafe.Pointer(unsafe.SliceData(memory[0].Memory))), table.Capacity())
		for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
			for range 1000 {
				flow.Sweep([]*flow.Table{table}, func(record *abi.FlowRecord) bool {
					reads++
					if torn(record) {
						bad++
					}
					return true
				})
				for i := range live {
					record := live[i]
					if record.Key.Tag != 0 {
						plainReads++
						if torn(&record) {
							plainBad++
						}
					}
				}
			}
		}
		return nil
	})
	close(stop)
	<-done
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d replaced; %d of %d reads torn, %d of %d plain ones", replaced.Load(), bad, reads, plainBad, plainReads)
	if bad > 0 || reads == 0 {
		t.Errorf("%d of %d reads torn", bad, reads)
	}
}

// sentByGardu is SENT_BY_GARDU in bpf/ctx.h.
const sentByGardu = 0x67617264

// What the box sends is counted once: where it came in, or else where it leaves.
func TestEgressCountsWhatWasNotCounted(t *testing.T) {
	const known, unknown = 1, 2
	features := allOff()
	features.Flows = true
	d := private(t, features)
	commit(t, d, 1)
	if err := d.SetInterface(known, abi.Interface{Flags: uint8(abi.InterfaceIngress)}); err != nil {
		t.Fatal(err)
	}
	frame := udp4(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.7"))
	if _, err := d.Run(HookIngress, frame, known); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name           string
		ingress, cb    uint32
		accounted, out uint64 // after it, from the start
	}{
		{"counted where it came in", known, 0, 1, 0},
		{"sent to a backend", 0, sentByGardu, 1, 0},
		{"the box's own", 0, 0, 2, 1},
		{"came in where gardu isn't", unknown, 0, 3, 2},
	} {
		context := struct {
			skbContext
			TcIndex uint32
			Cb      [5]uint32
		}{skbContext: skbContext{IngressIfindex: c.ingress, Ifindex: known}, Cb: [5]uint32{c.cb}}
		if _, err := program(t, d, HookEgress).Run(&ebpf.RunOptions{Data: frame, Context: &context}); err != nil {
			t.Fatal(err)
		}
		totals, err := d.FlowTotals()
		if err != nil || totals.Accounted != c.accounted || totals.Sent != c.out {
			t.Errorf("%s: %d accounted, %d sent, %v; want %d and %d", c.name, totals.Accounted, totals.Sent, err, c.accounted, c.out)
		}
	}
}
