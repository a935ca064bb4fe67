package dataplane

import (
	"testing"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/flow"
)

// Of so many packets one counts, whatever the table does; all counts are of the same packets, so they add up as without sampling. What
// isn't said of flows counts every packet, and flows stay on their backends though none of their packets counted.
func TestSampledFlows(t *testing.T) {
	const of, flows, rounds, dropped = 10, 2000, 7, 3000
	r := newRigWith(t, 500, func(f *compile.Features) { f.Sample = true })
	r.SampleFlows(of)
	for range rounds {
		r.each(0, flows, 1, ack)
	}
	for number := range uint32(dropped) {
		r.lose(packet{flow: number, flags: syn, dport: telnet})
	}
	totals, err := r.FlowTotals()
	if err != nil {
		t.Fatal(err)
	}
	if sampled, sent := totals.Accounted+totals.Dropped, uint64(flows*rounds+dropped); sampled != sent/of {
		t.Errorf("%d packets of %d count", sampled, sent)
	}
	if totals.Dropped == 0 || totals.Accounted == 0 || totals.Filtered != flows*rounds+dropped {
		t.Errorf("%+v", totals)
	}
	r.read(func(tables []*flow.Table) error {
		a, err := flow.Account{Counters: r.FlowTotals}.Total(tables)
		found := flow.Count{Packets: a.Records.Packets + a.LRU.Packets + a.Unattributed.Packets, Bytes: a.Records.Bytes + a.LRU.Bytes + a.Unattributed.Bytes}
		if found != a.Accounted {
			t.Errorf("found %+v: %+v", found, a)
		}
		return err
	})
	err = r.ReadDropped(func(memory []byte) error {
		table, err := flow.NewTable(memory, nil)
		if err != nil {
			return err
		}
		if a := flow.TotalDropped(totals, flow.Count{}, table); a.Records.Packets+a.Lost.Packets != a.Dropped.Packets {
			t.Errorf("%+v", a)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	reasons, err := r.Reasons()
	if err != nil || reasons[abi.ReasonForward].Packets != flows*rounds || reasons[abi.ReasonRuleDrop].Packets != dropped {
		t.Errorf("%+v, %v", reasons, err)
	}

	const few = 20
	r = newRigWith(t, 500, func(f *compile.Features) { f.Sample = true })
	r.SampleFlows(60_000)
	r.each(0, few, 1, syn)
	r.choose(1)
	r.each(0, few, 2, ack)
	records := r.records()
	for number := range uint32(few) {
		if got := records[number]; got.Backend != r.backends[0].ID || got.Packets > 1 || got.State != uint8(abi.FlowStateEstablished) {
			t.Errorf("flow %d: %+v", number, got)
		}
	}
}

// Handshakes and retransmissions can't be told from a sample; when every packet counts again they can.
func TestSampledFlowsHaveNoHandshake(t *testing.T) {
	r := newRigWith(t, 500, func(f *compile.Features) { f.Sample = true })
	r.SampleFlows(2)
	for number := range uint32(100) {
		r.each(number, number+1, 1, syn)
		r.each(number, number+1, 5, ack)
	}
	r.SampleFlows(1)
	r.each(1000, 1001, 1, syn)
	for number, record := range r.records() {
		if handshake := record.Syn != 0; handshake != (number == 1000) {
			t.Errorf("flow %d: %+v", number, record)
		}
	}
}
