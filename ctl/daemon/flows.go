package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/dataplane"
	"gardu/ctl/flow"
	"gardu/ctl/rule"
)

// readFlows calls read with the flow tables: the one in use, and after it the one before while a resize isn't finished.
func (d *Daemon) readFlows(read func([]*flow.Table) error) error {
	return d.plane.ReadFlows(func(memory []dataplane.FlowTable) error {
		tables := make([]*flow.Table, len(memory))
		for i, m := range memory {
			var err error
			if tables[i], err = flow.NewTable(m.Memory, m.LRU); err != nil {
				return err
			}
		}
		return read(tables)
	})
}

// Flows gives every flow of the table, both directions joined.
func (d *Daemon) Flows(ctx context.Context, yield func(api.Flow) error) error {
	clock, err := d.clock()
	if err != nil {
		return err
	}
	names := d.flowNames()
	var stopped error
	err = d.readFlows(func(tables []*flow.Table) error {
		give := func(f *flow.Flow) bool {
			if stopped = ctx.Err(); stopped == nil {
				if f.Packets+f.PacketsReply == 0 {
					return true // it is there to stay on its backend, and no packet was in the sample yet
				}
				stopped = yield(names.flow(f))
			}
			return stopped == nil
		}
		if err := flow.Flows(tables, clock, give); err != nil || stopped != nil {
			return err
		}
		return d.readDropped(func(dropped *flow.Table) error {
			if dropped == nil {
				return nil
			}
			return flow.Flows([]*flow.Table{dropped}, clock, give)
		})
	})
	if err != nil {
		return err
	}
	return stopped
}

// readDropped calls read with the table of dropped flows, nil if there is none.
func (d *Daemon) readDropped(read func(*flow.Table) error) error {
	return d.plane.ReadDropped(func(memory []byte) error {
		if memory == nil {
			return read(nil)
		}
		table, err := flow.NewTable(memory, nil)
		if err != nil {
			return err
		}
		return read(table)
	})
}

// droppedTotals closes the account of dropped packets; nil when none are remembered.
func (d *Daemon) droppedTotals(programs abi.FlowTotals) (*api.DroppedTotals, error) {
	var t flow.DroppedTotals
	err := d.readDropped(func(table *flow.Table) error {
		t = flow.TotalDropped(programs, *d.droppedLost.Load(), table)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &api.DroppedTotals{
		Entries: t.Records.Entries, Max: t.Capacity, Packets: t.Dropped.Packets, Bytes: t.Dropped.Bytes,
		Attributed: t.Records.Packets, Unattributed: t.Lost.Packets, UnattributedBytes: t.Lost.Bytes,
	}, nil
}

// resizeDropped gives the table of dropped flows the size that the snapshot wants. What the old one remembered is lost, and counted so.
func (d *Daemon) resizeDropped() error {
	return d.plane.ResizeDropped(func(memory []byte) error {
		old, err := flow.NewTable(memory, nil)
		if err != nil {
			return err
		}
		lost := d.droppedLost.Load().Plus(old.Array())
		d.droppedLost.Store(&lost)
		d.saved.DroppedLost = lost
		return d.saved.save(d.options.StateDir)
	})
}

// clock places the times of flow records on the wall. It stays the same as long as it is right, so that a record has the
// same times whenever it is read.
func (d *Daemon) clock() (flow.Clock, error) {
	kernel, hz, err := d.plane.Clock()
	if err != nil {
		return flow.Clock{}, err
	}
	now := flow.NewClock(kernel, hz, d.timeOfDay())
	for {
		kept := d.flowClock.Load()
		if kept != nil && kept.Agrees(now) {
			return *kept, nil
		}
		if d.flowClock.CompareAndSwap(kept, &now) {
			return now, nil
		}
	}
}

// timeOfDay is when flows did what they did, by a clock that anybody may set. How many packets they had doesn't depend on it.
func (d *Daemon) timeOfDay() time.Time {
	if d.options.now != nil {
		return d.options.now()
	}
	return time.Now()
}

// flowNames are what the ids in flow records mean, as far as that is known.
type flowNames struct {
	*applied
	backends   map[uint16]string
	addresses  map[uint16]netip.Addr // of backends
	interfaces map[uint32]string
}

func (d *Daemon) flowNames() flowNames {
	names := flowNames{applied: d.current.Load().withoutTables(), backends: map[uint16]string{}, addresses: map[uint16]netip.Addr{}, interfaces: map[uint32]string{}}
	for id, backend := range d.reconciler.Have().Backends {
		names.backends[id], names.addresses[id] = backend.Name, backend.Address
	}
	for index, name := range d.linkNames() {
		names.interfaces[uint32(index)] = name
	}
	return names
}

// linkNames are the interfaces of this machine by index; empty when they can't be listed.
func (d *Daemon) linkNames() map[int]string {
	names := map[int]string{}
	links, err := d.netdev.Links()
	if err != nil {
		d.log.Warn("interfaces not listed: they are shown by number", "error", err)
	}
	for _, link := range links {
		names[link.Index] = link.Name
	}
	return names
}

func (n flowNames) flow(f *flow.Flow) api.Flow {
	return api.Flow{
		Src: f.Src.Addr(), Dst: f.Dst.Addr(), Sport: f.Src.Port(), Dport: f.Dst.Port(),
		Proto:   rule.ProtocolName(f.Proto),
		Packets: f.Packets, Bytes: f.Bytes, PacketsReply: f.PacketsReply, BytesReply: f.BytesReply,
		Sample: n.sample(), First: f.First, Last: f.Last,
		Verdict: f.Verdict.String(), Reason: f.Reason.String(),
		Rule: n.rules[f.Rule], Service: n.services[f.Service], Backend: n.backends[f.Backend],
		State: flow.StateWord(f.State), End: f.Ended().String(), Flags: flow.FlagLetters(f.TCPFlags), FlagsReply: flow.FlagLetters(f.TCPFlagsReply),
		Interface: n.interfaceName(f.Ifindex), InterfaceReply: n.replyInterface(f), Vlan: f.VLAN,
		ServerRTT: api.Duration(f.ServerRTT), ClientRTT: api.Duration(f.ClientRTT),
		Retransmits: f.Retransmits, RetransmitsReply: f.RetransmitsReply,
		TTLMin: f.TTLMin, TTLMax: f.TTLMax, TTLMinReply: f.TTLMinReply, TTLMaxReply: f.TTLMaxReply,
		DSCP: f.DSCP, DSCPReply: f.DSCPReply,
	}
}

// sample is of how many packets one counts; 0: every one does.
func (a *applied) sample() int { return sampled(a.snapshot.Flows.Sample) }

// sampled leaves 1 out.
func sampled(of int) int {
	if of == 1 {
		return 0
	}
	return of
}

// Rule implements flow.Names, as do the next three.
func (n flowNames) Rule(id uint32) string { return n.rules[id] }

func (n flowNames) Service(id uint16) string { return n.services[id] }

func (n flowNames) Backend(id uint16) string { return n.backends[id] }

func (n flowNames) Interface(ifindex uint32) string { return n.interfaceName(ifindex) }

func (n flowNames) replyInterface(f *flow.Flow) string {
	if f.PacketsReply == 0 {
		return ""
	}
	return n.interfaceName(f.IfindexReply)
}

func (n flowNames) interfaceName(ifindex uint32) string {
	if name, ok := n.interfaces[ifindex]; ok {
		return name
	}
	return fmt.Sprintf("if%d", ifindex)
}

// A full table takes tens of milliseconds to add up. The totals in status may be as old as that takes ten times, and
// never older than totalsAge.
const (
	totalsAge   = time.Second
	totalsShare = 10
)

// totalsCache holds the last totals of the flow table.
type totalsCache struct {
	mu    sync.Mutex
	at    time.Time
	took  time.Duration
	value flow.Totals
}

// flowTotals closes the account of the flow table.
func (d *Daemon) flowTotals() (flow.Totals, error) {
	d.totals.mu.Lock()
	defer d.totals.mu.Unlock()
	if time.Since(d.totals.at) < min(totalsAge, totalsShare*d.totals.took) {
		return d.totals.value, nil
	}
	began := time.Now()
	kernel, hz, err := d.plane.Clock()
	if err != nil {
		return flow.Totals{}, err
	}
	idle := d.current.Load().snapshot.Flows.Idle
	account := flow.Account{
		Counters:  d.plane.FlowTotals,
		Dropped:   *d.dropped.Load(),
		LiveSince: uint32(kernel.Jiffies - uint64(idle.Seconds()*float64(hz))),
	}
	err = d.readFlows(func(tables []*flow.Table) (err error) {
		d.totals.value, err = account.Total(tables)
		return err
	})
	if err != nil {
		return flow.Totals{}, err
	}
	d.totals.at, d.totals.took = time.Now(), time.Since(began)
	return d.totals.value, nil
}

// completeFlows gives the flow table all its room, for which nobody waited at the start.
func (d *Daemon) completeFlows() {
	d.fault("make the whole flow table", d.plane.CompleteFlows())
}

// beforeResize makes room for another size of the flow table while the last one is not finished. changing is held.
func (d *Daemon) beforeResize(max int) error {
	if max == 0 || max == d.plane.FlowsMax() {
		return nil
	}
	d.resized = time.Now()
	return d.dropOldFlows()
}

// finishResize drops the flow table from before a resize once its flows have moved or are idle.
func (d *Daemon) finishResize() error {
	d.changing.Lock()
	defer d.changing.Unlock()
	if time.Since(d.resized) < d.current.Load().snapshot.Flows.Idle {
		return nil
	}
	return d.dropOldFlows()
}

// dropOldFlows ends a resize. The packets of the flows that are still in the old array belong to no flow from then on;
// those in its LRU map are missed there by themselves.
func (d *Daemon) dropOldFlows() error {
	if !d.plane.Resizing() {
		return nil
	}
	err := d.plane.FinishResize(func(leaving, staying dataplane.FlowTable) error {
		old, err := flow.NewTable(leaving.Memory, leaving.LRU)
		if err != nil {
			return err
		}
		now, err := flow.NewTable(staying.Memory, staying.LRU)
		if err != nil {
			return err
		}
		d.fault("report what is left in a flow table", d.leaveFlows(old, now))
		left := d.dropped.Load().Plus(old.Array())
		d.dropped.Store(&left)
		return nil
	})
	if err != nil {
		return err
	}
	d.saved.Dropped = *d.dropped.Load()
	return d.saved.save(d.options.StateDir)
}
