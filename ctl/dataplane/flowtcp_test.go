package dataplane

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/flow"
)

// talk is a conversation through a private instance, told from the others by its port.
type talk struct {
	*testing.T
	d    *Dataplane
	port int
}

// ends are those of a packet: a's to b, or b's back; capitals are IPv6.
func (k talk) ends(who byte) string {
	return fmt.Sprintf(map[byte]string{
		'a': "198.51.100.7:%d > 192.0.2.1:80", 'b': "192.0.2.1:80 > 198.51.100.7:%d",
		'A': "[2001:db8::7]:%d > [2001:db8::1]:80", 'B': "[2001:db8::1]:80 > [2001:db8::7]:%d",
	}[who], k.port)
}

// say sends "a seq 1 len 10"; "x3: " before it makes it a bundle of three segments of 100 bytes at most, as tc sees them.
func (k talk) say(text string) {
	k.Helper()
	text, bundle := strings.CutPrefix(text, "x3: ")
	frame := packetOf(k.T, "tcp "+k.ends(text[0])+text[1:])
	if !bundle {
		if _, err := k.d.Run(HookXDP, frame, 1); err != nil {
			k.Fatal(err)
		}
		return
	}
	_, err := program(k.T, k.d, HookIngress).Run(&ebpf.RunOptions{
		Data: frame, DataOut: make([]byte, len(frame)+frameGrowth),
		Context: &bundleContext{skbContext: skbContext{Ifindex: 1, IngressIfindex: 1}, GsoSegs: 3, GsoSize: 100},
	})
	if err != nil {
		k.Fatal(err)
	}
}

// flow is what the table knows of the conversation.
func (k talk) flow() flow.Flow {
	k.Helper()
	var found []flow.Flow
	err := k.d.ReadFlows(func(memory []FlowTable) error {
		table, err := flow.NewTable(memory[0].Memory, memory[0].LRU)
		if err != nil {
			return err
		}
		kernel, hz, err := k.d.Clock()
		if err != nil {
			return err
		}
		return flow.Flows([]*flow.Table{table}, flow.NewClock(kernel, hz, time.Now()), func(f *flow.Flow) bool {
			if int(f.Src.Port()) == k.port || int(f.Dst.Port()) == k.port {
				found = append(found, *f)
			}
			return true
		})
	})
	if err != nil {
		k.Fatal(err)
	}
	if len(found) != 1 {
		k.Fatalf("%d flows", len(found))
	}
	return found[0]
}

// flowsAlone is a private instance that only keeps flow records.
func flowsAlone(t *testing.T) *Dataplane {
	t.Helper()
	d := private(t, compile.Features{Flows: true})
	commit(t, d, 1)
	return d
}

func TestRetransmissions(t *testing.T) {
	d, port := flowsAlone(t), 40000
	for name, c := range map[string]struct {
		packets     []string
		there, back uint32
	}{
		"none":                  {[]string{"a syn seq 1", "b syn ack seq 900", "a ack seq 2", "a ack seq 2 len 10", "b ack seq 901 len 5", "a ack seq 12 len 10", "a fin ack seq 22", "b fin ack seq 906"}, 0, 0},
		"middle of a flow":      {[]string{"a ack seq 7000 len 10", "a ack seq 7010 len 10"}, 0, 0},
		"sequence 0":            {[]string{"a ack seq 0 len 10", "a ack seq 10"}, 0, 0},
		"SYN and SYN+ACK":       {[]string{"a syn seq 1", "a syn seq 1", "b syn ack seq 900", "b syn ack seq 900", "b syn ack seq 900"}, 1, 2},
		"SYN of the next":       {[]string{"a syn seq 1", "a ack seq 2 len 100", "a syn seq 50", "a ack seq 51 len 10"}, 0, 0},
		"data":                  {[]string{"a ack seq 2 len 10", "a ack seq 12 len 10", "a ack seq 2 len 10", "a ack seq 12 len 10", "a ack seq 22 len 10"}, 2, 0},
		"a byte":                {[]string{"a ack seq 2 len 1", "a ack seq 2 len 1"}, 1, 0},
		"half of it is new":     {[]string{"a ack seq 2 len 10", "a ack seq 7 len 10", "a ack seq 17 len 10"}, 1, 0},
		"FIN":                   {[]string{"a ack seq 2 len 10", "a fin ack seq 12", "a fin ack seq 12"}, 1, 0},
		"keepalive":             {[]string{"a ack seq 2 len 10", "a ack seq 11", "a ack seq 12 len 1"}, 0, 0},
		"acknowledgements":      {[]string{"a ack seq 2 len 10", "b ack seq 900", "b ack seq 900", "b ack seq 900"}, 0, 0},
		"numbers wrap":          {[]string{"a ack seq 4294967290 len 10", "a ack seq 4 len 10", "a ack seq 4294967290 len 10"}, 1, 0},
		"nonsense, and back":    {[]string{"a ack seq 1000 len 10", "a ack seq 3000000000 len 10", "a ack seq 1010 len 10", "a ack seq 1020 len 10"}, 0, 0},
		"IPv6":                  {[]string{"A ack seq 2 len 10", "A ack seq 2 len 10", "B ack seq 5 len 1", "B ack seq 5 len 1", "B ack seq 5 len 1"}, 1, 2},
		"reset":                 {[]string{"a ack seq 1000 len 10", "a rst seq 5", "a rst ack seq 1010"}, 0, 0},
		"bundle":                {[]string{"x3: a ack seq 2 len 300", "x3: a ack seq 302 len 300", "a ack seq 602 len 100"}, 0, 0},
		"bundle again":          {[]string{"x3: a ack seq 2 len 300", "x3: a ack seq 2 len 300"}, 3, 0},
		"some segments of it":   {[]string{"a ack seq 2 len 200", "x3: a ack seq 2 len 300", "a ack seq 302 len 1"}, 2, 0},
		"a segment and a bit":   {[]string{"a ack seq 2 len 150", "x3: a ack seq 2 len 300"}, 2, 0},
		"a bundle not so old":   {[]string{"x3: a ack seq 2 len 300", "a ack seq 402 len 100", "x3: a ack seq 102 len 300"}, 3, 0},
		"what is said on a RST": {[]string{"a ack seq 2 len 10", "a rst seq 2 len 4"}, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			port++
			pin(t, 0)
			k := talk{t, d, port}
			for _, text := range c.packets {
				k.say(text)
			}
			if f := k.flow(); f.Retransmits != c.there || f.RetransmitsReply != c.back {
				t.Errorf("%d and %d, want %d and %d", f.Retransmits, f.RetransmitsReply, c.there, c.back)
			}
		})
	}
}

// now is the clock that handshakes are measured by.
func now(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// Each time lies between the moments just before and after the packets that it is measured by.
func TestHandshakeTimes(t *testing.T) {
	d, port := flowsAlone(t), 40000
	for name, c := range map[string]struct {
		packets               []string
		syn, synAck, ack      int // which packets count; -1: none
		noServer, noClientRTT bool
	}{
		"plain":             {packets: []string{"a syn", "b syn ack", "a ack", "a ack len 10", "b ack len 20"}, syn: 0, synAck: 1, ack: 2},
		"IPv6":              {packets: []string{"A syn", "B syn ack", "A ack"}, syn: 0, synAck: 1, ack: 2},
		"SYN was lost":      {packets: []string{"a syn", "a syn", "b syn ack", "a ack"}, syn: 1, synAck: 2, ack: 3},
		"SYN+ACK was lost":  {packets: []string{"a syn", "b syn ack", "a syn", "b syn ack", "a ack"}, syn: 2, synAck: 3, ack: 4},
		"late SYN":          {packets: []string{"a syn", "b syn ack", "a ack", "a syn", "b ack"}, syn: 0, synAck: 1, ack: 2},
		"data at once":      {packets: []string{"a syn", "b syn ack", "a psh ack len 5"}, syn: 0, synAck: 1, ack: 2},
		"refused":           {packets: []string{"a syn", "b rst ack"}, noServer: true, noClientRTT: true},
		"no ACK":            {packets: []string{"a syn", "b syn ack", "a rst"}, syn: 0, synAck: 1, noClientRTT: true},
		"the SYN passed by": {packets: []string{"b syn ack", "a ack"}, noServer: true, noClientRTT: true},
		"mid-flow":          {packets: []string{"a ack", "b ack"}, noServer: true, noClientRTT: true},
		"opened again":      {packets: []string{"a syn", "b syn ack", "a ack", "a fin ack", "b fin ack", "a ack", "a syn", "b syn ack", "a ack"}, syn: 6, synAck: 7, ack: 8},
	} {
		t.Run(name, func(t *testing.T) {
			port++
			pin(t, 0)
			k := talk{t, d, port}
			before, after := make([]time.Duration, len(c.packets)), make([]time.Duration, len(c.packets))
			for i, text := range c.packets {
				before[i] = now(t)
				k.say(text)
				after[i] = now(t)
			}
			f := k.flow()
			within := func(what string, got time.Duration, none bool, from, to int) {
				if none {
					if got != 0 {
						t.Errorf("%s %s, want none", what, got)
					}
				} else if got < before[to]-after[from] || got > after[to]-before[from] {
					t.Errorf("%s %s, want %s to %s", what, got, before[to]-after[from], after[to]-before[from])
				}
			}
			within("server", f.ServerRTT, c.noServer, c.syn, c.synAck)
			within("client", f.ClientRTT, c.noClientRTT, c.synAck, c.ack)
		})
	}
}

// A closed connection's name may be used again; what is over is forgotten then, and counts go on.
func TestEndOfAConnection(t *testing.T) {
	k := talk{t, flowsAlone(t), 40000}
	pin(t, 0)
	for _, c := range []struct {
		packet string
		end    flow.End
	}{
		{"a syn", flow.EndNone}, {"b syn ack", flow.EndNone}, {"a ack", flow.EndNone}, {"a fin ack", flow.EndNone}, {"b fin ack", flow.EndFIN},
		{"a ack", flow.EndFIN}, {"b rst", flow.EndRST}, {"a syn", flow.EndRST}, {"b syn ack", flow.EndNone}, {"a ack", flow.EndNone},
	} {
		k.say(c.packet)
		f := k.flow()
		if f.Ended() != c.end {
			t.Errorf("after %q: %q, want %q", c.packet, f.Ended(), c.end)
		}
	}
	if f := k.flow(); f.Packets != 6 || f.PacketsReply != 4 || f.State != abi.FlowStateEstablished {
		t.Errorf("%+v", f)
	}
}

// A SYN whose record gave way leaves who sent it second, and the opener all the same.
func TestOpenerWithoutItsSYN(t *testing.T) {
	pin(t, 0)
	d := flowsAlone(t)
	for port, packets := range map[int][]string{
		40000: {"b syn ack", "a ack", "b ack len 10", "a ack"},
		40001: {"b ack", "a syn", "b syn ack", "a ack"}, // the name was another connection's
	} {
		k := talk{t, d, port}
		for _, text := range packets {
			k.say(text)
		}
		if f := k.flow(); int(f.Src.Port()) != port || f.State != abi.FlowStateEstablished {
			t.Errorf("%q: opened by %v, state %d", packets, f.Src, f.State)
		}
	}
}

func TestTTLAndDSCPOfBothSides(t *testing.T) {
	k := talk{t, flowsAlone(t), 40000}
	pin(t, 0)
	for _, text := range []string{"a syn ttl 60 dscp 10", "b syn ack ttl 50 dscp 46", "a ack ttl 64 dscp 0", "a ack ttl 57", "b ack ttl 50"} {
		k.say(text)
	}
	f := k.flow()
	if f.TTLMin != 57 || f.TTLMax != 64 || f.TTLMinReply != 50 || f.TTLMaxReply != 50 || f.DSCP != 10 || f.DSCPReply != 46 {
		t.Errorf("%+v", f)
	}
}
