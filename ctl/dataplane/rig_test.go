package dataplane

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/config"
	"gardu/ctl/flow"
	"gardu/ctl/lb"
)

// rig is a private instance that balances one service, with a generator in front of its XDP program, which sends a
// hundred thousand packets in less than a tenth of a second. All of them go through the CPU of the test's thread.
type rig struct {
	*Dataplane
	t         *testing.T
	generator *generator
	ring      uint32
	backends  []compile.Backend
	passed    count            // what was sent and not dropped
	lost      count            // what was dropped
	sent      map[uint32]count // the same by flow
	dropped   flow.Count       // left in tables that a resize dropped
}

type count struct{ packets, bytes uint64 }

func (c *count) add(packets, bytes uint64) {
	c.packets += packets
	c.bytes += bytes
}

const rigSnapshot = `
interfaces:
  eth0: {}
filter:
  rules:
    - {name: no-telnet, match: {proto: tcp, dport: 23}, action: drop}
services:
  web:
    address: 192.0.2.10
    port: 80
    proto: tcp
    forward: dsr
    backends: [{name: b1, address: 10.0.0.11}, {name: b2, address: 10.0.0.12}]
`

// newRig makes one whose table is for so many flows. New flows get backend 0 until choose says otherwise.
func newRig(t *testing.T, flowsMax int) *rig {
	t.Helper()
	return newRigWith(t, flowsMax, func(*compile.Features) {})
}

// newRigWith makes one with other features.
func newRigWith(t *testing.T, flowsMax int, change func(*compile.Features)) *rig {
	t.Helper()
	needRoot(t)
	pin(t, 0)
	snapshot, _, err := config.Parse("rig", []byte(rigSnapshot), ".")
	if err != nil {
		t.Fatal(err)
	}
	ids, _, err := compile.IDs{}.Assign(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := compile.Compile(snapshot, ids)
	if err != nil {
		t.Fatal(err)
	}
	features := tables.Features
	features.Flows, features.Blocks, features.Dropped = true, true, true
	change(&features)
	d, err := OpenPrivate(features, flowsMax)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, d) })
	r := &rig{Dataplane: d, t: t, ring: tables.Rings[0].ID, backends: tables.Backends, sent: map[uint32]count{}}
	for _, b := range tables.Backends {
		address, family := abi.PutAddr(b.Address)
		err := d.PutBackend(b.ID, abi.Backend{
			State: uint8(abi.BackendUsed | abi.BackendUp | abi.BackendHop), Mode: uint8(b.Mode), Family: uint8(family),
			Service: b.Service, Mtu: 1500, Ifindex: 1, Address: address,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	r.choose(0)
	var generation Tables
	for which, lines := range [][]abi.Line{abi.TableSets: tables.Sets, abi.TableRules: tables.Rules, abi.TableServices: tables.Services} {
		if generation[which], err = d.NewTable(abi.Table(which), lines); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Commit(1, generation); err != nil {
		t.Fatal(err)
	}
	r.generator = newGenerator(t, program(t, d, HookXDP))
	return r
}

// manyPackets skips a test that would take an emulated machine minutes.
func manyPackets(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("short: sends a million packets")
	}
}

// pin keeps the test on one CPU: each has its own region of the flow table. The thread ends with the test.
func pin(t *testing.T, cpu int) {
	t.Helper()
	runtime.LockOSThread()
	var one unix.CPUSet
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
}

// choose puts a ring in force by which every new flow goes to one backend.
func (r *rig) choose(backend int) {
	r.t.Helper()
	if err := r.PutRing(r.ring, slices.Repeat([]uint16{r.backends[backend].ID}, lb.RingSize)); err != nil {
		r.t.Fatal(err)
	}
}

// packet is one of a numbered flow to the service: its source, its length and its TTL tell the number.
type packet struct {
	flow  uint32
	flags uint8  // of TCP
	dport uint16 // 0: the service's
	seq   int32
}

const (
	fin, syn, rst, ack = 1, 2, 4, 16
	telnet             = 23 // dropped by a rule
)

func (p packet) bytes() uint64 { return 40 + uint64(p.flow%11) } // of IP
func (p packet) ttl() uint8    { return uint8(64 + p.flow%64) }

func (p packet) frame() (frame [frameWords]uint64) {
	raw := (*[frameWords * 8]byte)(unsafe.Pointer(&frame))
	raw[12] = 0x08 // IPv4
	ip := raw[14:]
	ip[0], ip[8], ip[9] = 0x45, p.ttl(), unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(ip[2:], uint16(p.bytes()))
	binary.BigEndian.PutUint32(ip[12:], source+p.flow%sources)
	copy(ip[16:], []byte{192, 0, 2, 10})
	tcp := ip[20:]
	binary.BigEndian.PutUint16(tcp, uint16(1024+p.flow/sources))
	binary.BigEndian.PutUint16(tcp[2:], 80)
	if p.dport != 0 {
		binary.BigEndian.PutUint16(tcp[2:], p.dport)
	}
	binary.BigEndian.PutUint32(tcp[4:], uint32(p.seq))
	tcp[12], tcp[13] = 5<<4, p.flags
	return frame
}

// The sources are 198.18.0.0/15 (RFC 2544), with one port after the other.
const (
	source  = 198<<24 | 18<<16
	sources = 1 << 17
)

func flowOf(key *abi.FlowKey) uint32 {
	addr := binary.BigEndian.Uint32(key.Saddr[12:]) - source
	return addr + (uint32(abi.Ntohs(key.BeSport))-1024)*sources
}

func sourceOf(number uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, source+number%sources)))
}

// send sends packets that the filter passes.
func (r *rig) send(packets ...packet) {
	r.t.Helper()
	r.generator.send(r.t, packets)
	for _, p := range packets {
		r.passed.add(1, p.bytes())
		sent := r.sent[p.flow]
		sent.add(1, p.bytes())
		r.sent[p.flow] = sent
	}
}

// lose sends packets that are dropped.
func (r *rig) lose(packets ...packet) {
	r.t.Helper()
	r.generator.send(r.t, packets)
	for _, p := range packets {
		r.lost.add(1, p.bytes())
	}
}

// each sends n packets of every flow from first to last, one flow after the other.
func (r *rig) each(first, last uint32, n int, flags uint8) {
	r.t.Helper()
	var packets []packet
	for number := first; number < last; number++ {
		for range n {
			packets = append(packets, packet{flow: number, flags: flags})
		}
	}
	r.send(packets...)
}

// records adds up what is remembered of each flow.
func (r *rig) records() map[uint32]abi.FlowValue {
	r.t.Helper()
	all := map[uint32]abi.FlowValue{}
	r.read(func(tables []*flow.Table) error {
		return flow.Sweep(tables, func(record *abi.FlowRecord) bool {
			number := flowOf(&record.Key)
			value := record.Value
			if before, ok := all[number]; ok {
				value.Packets += before.Packets
				value.Bytes += before.Bytes
			}
			all[number] = value
			return true
		})
	})
	return all
}

func (r *rig) read(read func([]*flow.Table) error) {
	r.t.Helper()
	err := r.ReadFlows(func(memory []FlowTable) error {
		var tables []*flow.Table
		for _, m := range memory {
			table, err := flow.NewTable(m.Memory, m.LRU)
			if err != nil {
				return err
			}
			tables = append(tables, table)
		}
		return read(tables)
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// account checks that every packet is accounted for: what the programs counted is what was sent, and where they say that it
// went is where it is.
func (r *rig) account() flow.Totals {
	r.t.Helper()
	totals, err := r.FlowTotals()
	if err != nil {
		r.t.Fatal(err)
	}
	var account flow.Totals
	r.read(func(tables []*flow.Table) (err error) {
		account, err = flow.Account{Counters: r.FlowTotals, Dropped: r.dropped}.Total(tables)
		return err
	})
	a := &account
	if got := (count{totals.Accounted, totals.AccountedBytes}); got != r.passed {
		r.t.Errorf("accounted %+v, passed %+v", got, r.passed)
	}
	if got := (count{a.Records.Packets + a.LRU.Packets + a.Unattributed.Packets, a.Records.Bytes + a.LRU.Bytes + a.Unattributed.Bytes}); got != r.passed {
		r.t.Errorf("found %+v, passed %+v: %+v", got, r.passed, account)
	}
	if totals.Spilled < totals.Returned+a.LRU.Packets || totals.SpilledBytes < totals.ReturnedBytes+a.LRU.Bytes {
		r.t.Errorf("more is in the LRU map than went there: %+v, %+v", totals, a.LRU)
	}
	return account
}

// exact checks besides that no flow has more packets than were sent, or another's.
func (r *rig) exact() flow.Totals {
	r.t.Helper()
	account := r.account()
	for number, record := range r.records() {
		if sent := r.sent[number]; record.Packets > sent.packets || record.Bytes != record.Packets*(packet{flow: number}).bytes() {
			r.t.Fatalf("flow %d has %d packets and %d bytes, sent were %+v", number, record.Packets, record.Bytes, sent)
		}
	}
	return account
}

// tick waits for the next jiffy.
func (r *rig) tick() {
	r.t.Helper()
	jiffies := func() uint64 {
		now, _, err := r.Clock()
		if err != nil {
			r.t.Fatal(err)
		}
		return now.Jiffies
	}
	before := jiffies()
	eventually(r.t, "the next jiffy", func() bool { return jiffies() > before })
}

const (
	frameWords   = 8
	generatorMax = 1 << 17 // packets at a time
)

// generator is a program that writes the next packet over the frame and goes on with the program under test.
type generator struct {
	program *ebpf.Program
	frames  []byte    // mapped
	cursor  *ebpf.Map // of a cursor
}

// cursor is the index of the next packet, and how many there are: a run that a signal interrupts is repeated from the start.
type cursor struct{ Next, Count uint32 }

func newGenerator(t *testing.T, subject *ebpf.Program) *generator {
	t.Helper()
	array := func(kind ebpf.MapType, size, entries, flags uint32) *ebpf.Map {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: kind, KeySize: 4, ValueSize: size, MaxEntries: entries, Flags: flags})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeIt(t, m) })
		return m
	}
	frames := array(ebpf.Array, frameWords*8, generatorMax, unix.BPF_F_MMAPABLE)
	cursor := array(ebpf.Array, 8, 1, 0)
	jump := array(ebpf.ProgramArray, 4, 1, 0)
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMapValue(asm.R1, cursor.FD(), 0),
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word),
		asm.LoadMem(asm.R3, asm.R1, 4, asm.Word),
		asm.JGE.Reg(asm.R2, asm.R3, "out"),
		asm.StoreMem(asm.RFP, -4, asm.R2, asm.Word),
		asm.Add.Imm(asm.R2, 1),
		asm.StoreMem(asm.R1, 0, asm.R2, asm.Word),
		asm.LoadMapPtr(asm.R1, frames.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R2, asm.R6, 0, asm.Word), // data
		asm.LoadMem(asm.R3, asm.R6, 4, asm.Word), // data_end
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, frameWords*8),
		asm.JGT.Reg(asm.R4, asm.R3, "out"),
	}
	for i := range int16(frameWords) {
		code = append(code, asm.LoadMem(asm.R5, asm.R0, i*8, asm.DWord), asm.StoreMem(asm.R2, i*8, asm.R5, asm.DWord))
	}
	code = append(code,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, jump.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
		asm.Return(),
	)
	// A tail call needs the same kind of program on both sides.
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, AttachType: ebpf.AttachXDP, Flags: unix.BPF_F_XDP_HAS_FRAGS, Instructions: code, License: "GPL",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, program) })
	if err := jump.Put(uint32(0), subject); err != nil {
		t.Fatal(err)
	}
	memory, err := mapMemory(frames)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(memory) })
	return &generator{program, memory, cursor}
}

// send puts the packets through the program under test, on the CPU of the calling thread.
func (g *generator) send(t *testing.T, packets []packet) {
	t.Helper()
	frames := unsafe.Slice((*[frameWords]uint64)(unsafe.Pointer(unsafe.SliceData(g.frames))), generatorMax)
	for part := range slices.Chunk(packets, generatorMax) {
		for i, p := range part {
			frames[i] = p.frame()
		}
		at := cursor{Count: uint32(len(part))}
		if err := g.cursor.Put(uint32(0), &at); err != nil {
			t.Fatal(err)
		}
		if _, err := g.program.Run(&ebpf.RunOptions{Data: make([]byte, frameWords*8), Repeat: at.Count}); err != nil {
			t.Fatal(err)
		}
		if err := g.cursor.Lookup(uint32(0), &at); err != nil || at.Next != at.Count {
			t.Fatalf("%d of %d packets were sent, %v", at.Next, at.Count, err)
		}
	}
}
