package dataplane

import (
	"math/rand/v2"
	"testing"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
	"gardu/ctl/flow"
)

// droppedRecords are those of dropped flows by number. They account for every packet that was dropped, with those that are
// counted as lost.
func (r *rig) droppedRecords(before flow.Count) map[uint32]abi.FlowValue {
	r.t.Helper()
	totals, err := r.FlowTotals()
	if err != nil {
		r.t.Fatal(err)
	}
	found := map[uint32]abi.FlowValue{}
	err = r.ReadDropped(func(memory []byte) error {
		table, err := flow.NewTable(memory, nil)
		if err != nil {
			return err
		}
		account := flow.TotalDropped(totals, before, table)
		if got := (count{account.Dropped.Packets, account.Dropped.Bytes}); got != r.lost {
			r.t.Errorf("dropped %+v, sent %+v", got, r.lost)
		}
		if account.Records.Packets+account.Lost.Packets != r.lost.packets || account.Records.Bytes+account.Lost.Bytes != r.lost.bytes {
			r.t.Errorf("found %+v and %+v lost, sent %+v", account.Records, account.Lost, r.lost)
		}
		return flow.Sweep([]*flow.Table{table}, func(record *abi.FlowRecord) bool {
			found[flowOf(&record.Key)] = record.Value
			return true
		})
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return found
}

// The reasons that packets left with agree with the account of what was dropped.
func (r *rig) droppedByReasons() {
	r.t.Helper()
	reasons, err := r.Reasons()
	if err != nil {
		r.t.Fatal(err)
	}
	var sum uint64
	for id, c := range reasons {
		if verdict := abi.Reason(id).Verdict(); verdict == abi.VerdictDrop || verdict == abi.VerdictReject {
			sum += c.Packets
		}
	}
	if sum != r.lost.packets {
		r.t.Errorf("%d packets left for reasons that drop, %d were sent", sum, r.lost.packets)
	}
}

// What is dropped is remembered with its flow: how much, by which rule, why. What passes of the same ends is told apart.
func TestDroppedFlowsAreRemembered(t *testing.T) {
	const flows = 20 // so few that no five of them meet in a bucket
	r := newRig(t, 1000)
	for number := range uint32(flows) {
		r.lose(packet{flow: number, flags: syn, dport: telnet}, packet{flow: number, flags: rst, dport: telnet})
		r.send(packet{flow: number, flags: ack})
	}
	add(t, r.Dataplane, Block{Prefix: prefix(sourceOf(7).String() + "/32")})
	r.lose(packet{flow: 7, flags: ack, dport: telnet})
	records := r.droppedRecords(flow.Count{})
	r.droppedByReasons()
	if len(records) != flows {
		t.Errorf("%d flows", len(records))
	}
	for number, record := range records {
		p := packet{flow: number}
		want := abi.FlowValue{
			Packets: 2, Bytes: 2 * p.bytes(), Last: record.Last, First: record.First, Rule: record.Rule, Verdict: uint8(abi.VerdictDrop),
			Reason: uint8(abi.ReasonRuleDrop), TcpFlags: syn | rst, Ifindex: 1, TtlMin: p.ttl(), TtlMax: p.ttl(),
		}
		if number == 7 {
			want.Packets, want.Bytes, want.TcpFlags, want.Reason = 3, 3*p.bytes(), syn|rst|ack, uint8(abi.ReasonBlocked)
		}
		if record != want || record.First == 0 || (number != 7) != (record.Rule >= uint32(abi.FirstRuleId)) {
			t.Errorf("flow %d: %+v, want %+v", number, record, want)
		}
	}
	r.exact()
}

// A flood of sources that are dropped takes nothing from flows that pass, and what is dropped again and again stays to be seen.
func TestFloodOfDroppedFlows(t *testing.T) {
	manyPackets(t)
	const live, persistent = 1000, 50
	r := newRig(t, 4*live)
	before := r.establish(live)
	random := rand.New(rand.NewPCG(1, 2))
	for range 5 { // they are there before the flood
		for number := range uint32(persistent) {
			r.lose(packet{flow: number, flags: syn, dport: telnet})
		}
	}
	for range 10 {
		var packets []packet
		for i := range 50_000 {
			packets = append(packets, packet{flow: live + random.Uint32N(1<<24), flags: syn, dport: telnet})
			if i%1000 == 0 {
				packets = append(packets, packet{flow: uint32(i/1000) % persistent, flags: syn, dport: telnet})
			}
		}
		r.lose(packets...)
	}
	records := r.droppedRecords(flow.Count{})
	r.droppedByReasons()
	for number := range uint32(persistent) {
		if got := records[number].Packets; got != 5+10 {
			t.Errorf("flow %d: %d packets", number, got)
		}
	}
	if len(records) > privateDropped {
		t.Errorf("%d flows in room for %d", len(records), privateDropped)
	}
	after := r.records()
	for number := range uint32(live) {
		if after[number] != before[number] {
			t.Errorf("flow %d: %+v, before %+v", number, after[number], before[number])
		}
	}
	r.exact()
}

// Another size is another table; what the old one remembered is accounted for as lost, and without one everything is.
func TestResizeDropped(t *testing.T) {
	r := newRig(t, 1000)
	var lost flow.Count
	resize := func(max int) {
		t.Helper()
		r.WantDropped(max)
		err := r.ResizeDropped(func(memory []byte) error {
			old, err := flow.NewTable(memory, nil)
			if err == nil {
				lost = lost.Plus(old.Array())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	fill := func() {
		for number := range uint32(20) {
			r.lose(packet{flow: number, flags: syn, dport: telnet})
		}
	}
	for i, max := range []int{privateDropped, 16384, 64, 1} {
		fill()
		records := r.droppedRecords(lost)
		if i < 2 && len(records) != 20 || len(records) == 0 {
			t.Errorf("%d flows before it is for %d", len(records), max)
		}
		resize(max)
		if records := r.droppedRecords(lost); i > 0 && len(records) != 0 {
			t.Errorf("%d flows in an empty table for %d", len(records), max)
		}
	}
	fill()
	r.droppedRecords(lost)
	if err := r.maps[abi.AbiMapFlowDropped].Delete(uint32(0)); err != nil {
		t.Fatal(err)
	}
	fill()
	r.droppedRecords(lost)
}

// What is no flow's is counted all the same: frames that can't be parsed.
func TestDroppedWithoutAFlow(t *testing.T) {
	r := newRig(t, 1000)
	frame := make([]byte, 60)
	frame[12] = 0x08
	if _, err := program(t, r.Dataplane, HookXDP).Run(&ebpf.RunOptions{Data: frame}); err != nil {
		t.Fatal(err)
	}
	r.lost.add(1, 0)
	if records := r.droppedRecords(flow.Count{}); len(records) != 0 {
		t.Errorf("%v", records)
	}
	r.droppedByReasons()
}
