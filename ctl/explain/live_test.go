package explain_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/dataplane"
	"gardu/ctl/explain"
	"gardu/ctl/inspect"
	"gardu/ctl/model"
	"gardu/ctl/netdev"
	"gardu/ctl/pkt"
	"gardu/ctl/testnet"
)

const (
	livePackets = 10_000
	liveConfigs = 4 // that they are spread over; each is a load of all programs
	liveWait    = 2 * time.Second

	untouchedPackets = 300
)

// TestExplainedPacketsAreSent explains random packets on an instance that is attached, each with what is known at that moment, and sends
// each for real right after: received at XDP, received at tc, or sent by the box. What was explained must happen: the reason that is
// counted, the frame that leaves and where, and by the end what rules and backends count.
func TestExplainedPacketsAreSent(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces and loads BPF programs")
	}
	packets := livePackets
	if testing.Short() {
		packets = 1000
	}
	const usual = 2
	seed := fromEnvironment(t, "GARDU_SEED", usual)
	t.Logf("GARDU_SEED=%d", seed)
	w := newWire(t)
	met := map[string]int{}
	err := w.box.Do(func() error {
		defer w.close()
		if err := w.open(); err != nil {
			return err
		}
		for round := range liveConfigs {
			if err := w.round(generator{Rand: rand.New(rand.NewPCG(seed, uint64(round)))}, packets/liveConfigs, met); err != nil {
				return fmt.Errorf("GARDU_SEED=%d, configuration %d: %w", seed, round, err)
			}
		}
		return w.untouched(generator{Rand: rand.New(rand.NewPCG(seed, liveConfigs))}, untouchedPackets)
	})
	if err != nil {
		t.Fatal(err)
	}
	for what, n := range met {
		t.Logf("%6d %s", n, what)
	}
	if seed != usual || testing.Short() {
		return
	}
	for _, what := range []string{"forward", "nat-reply", "blocked", "allowed", "rule-drop", "rule-reject", "out-drop", "service-fragment", "too-big-told",
		"step state", "step limit", "step nat", "step remembered", "step cid", "text [2001:", "text first", "text later"} {
		if met[what] < 20 {
			t.Errorf("the packets are too tame: %d of %s", met[what], what)
		}
	}
}

// wire is a box with an instance of gardu, attached at XDP on in0 and at tc on in1, and what it is connected to. Nothing but the test sends
// anything: nobody has an address.
type wire struct {
	box, far *testnet.Node
	dir      string
	index    map[string]int  // of the box's interfaces
	names    map[int]string  // the other way round
	taps     map[string]*tap // at the far end of each
	sending  map[string]int  // sockets of the box
	links    *netdev.Handle
	plane    *dataplane.Dataplane
	live     *explain.Box
}

var (
	wireIn  = []string{"in0", "in1"} // eth0 and eth1 of the configurations
	wireAll = []string{"in0", "in1", "out0", "ex1", "ex2"}
)

func newWire(t *testing.T) *wire {
	t.Helper()
	n, err := testnet.New("gardu-explain-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &wire{dir: fmt.Sprintf("/sys/fs/bpf/gardu-test-explain-%d", os.Getpid()), index: map[string]int{}, names: map[int]string{},
		taps: map[string]*tap{}, sending: map[string]int{}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w.box, err = n.Node("box")
	must(err)
	w.far, err = n.Node("far")
	must(err)
	for _, node := range []*testnet.Node{w.box, w.far} {
		must(node.SetSysctl("net.ipv6.conf.all.disable_ipv6", "1"))
		must(node.SetSysctl("net.ipv6.conf.default.disable_ipv6", "1"))
	}
	for _, name := range wireAll {
		must(n.Connect(testnet.End{Node: w.box, Name: name}, testnet.End{Node: w.far, Name: name}, 1700))
		must(w.far.SetGRO(name, true)) // or it wouldn't take what XDP sends
		must(w.far.Do(func() (err error) {
			w.taps[name], err = newTap(name)
			return err
		}))
		t.Cleanup(w.taps[name].close)
	}
	must(w.far.Do(func() error { // a veth takes what XDP sends back only where XDP is, too
		link, err := net.InterfaceByName("in0")
		if err != nil {
			return err
		}
		decap, err := dataplane.AttachDecap(dataplane.DecapOptions{Name: "in0", Ifindex: link.Index, Path: model.PathXDP})
		if err == nil {
			t.Cleanup(func() { decap.Close() })
		}
		return err
	}))
	return w
}

// open loads and attaches gardu. It and what follows run in the box.
func (w *wire) open() error {
	var one unix.CPUSet
	one.Set(0)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return err
	}
	for _, name := range wireAll {
		link, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		w.index[name], w.names[link.Index] = link.Index, name
	}
	features := allFeatures
	features.Trace, features.Sample = false, false
	var err error
	if w.links, err = netdev.Open(); err != nil { // older kernels attach at tc by it
		return err
	}
	w.plane, err = dataplane.Open(dataplane.Options{Dir: w.dir, Features: features, FlowsMax: 1 << 16, DroppedMax: 1000, NATMax: 1 << 12, Netlink: w.links})
	if err != nil {
		return err
	}
	for _, name := range wireIn {
		path := map[string]model.Path{"in0": model.PathXDP, "in1": model.PathTC}[name]
		got, err := w.plane.Attach(dataplane.AttachOptions{Name: name, Ifindex: w.index[name], Path: path, Egress: true})
		if err == nil && got.Path != path {
			err = fmt.Errorf("%s is attached by %s: %s", name, got.Path, got.Why)
		}
		if err != nil {
			return err
		}
		if w.sending[name], err = frameSocket(name, 0); err != nil {
			return err
		}
	}
	w.live = explain.LiveBox(w.plane, features)
	return w.plane.SetRejectLimit(abi.RejectLimit{}) // explain answers each packet, as if it were alone
}

func (w *wire) close() {
	for _, socket := range w.sending {
		unix.Close(socket)
	}
	if w.plane != nil {
		w.plane.DetachAll()
		w.plane.Close()
		dataplane.Remove(w.dir, w.links)
	}
	if w.links != nil {
		w.links.Close()
	}
}

var anyLimit = regexp.MustCompile(`, limit: \{[^}]*(, per: [^}]*)\}`)

// rich is the one of some configurations that has the most to say.
func (g generator) rich() (best configText) {
	words := func(c configText) (n int) {
		for _, word := range []string{"default: drop", "allow: ", "@a", "@p", "@q", "state: ", "reject", "tcp-reset", "redirect", "mirror", "shadow", "direction: out", "service: ",
			"forward: dsr", "forward: ipip", "forward: gue", "forward: nat", "affinity: source", "arp: true", "sctp", "any", "interface: ", "mac: ", "fragment: "} {
			if strings.Contains(c.yaml(), word) {
				n++
			}
		}
		return n
	}
	for range 40 {
		if c := g.config(); words(c) > words(best) {
			best = c
		}
	}
	return best
}

// configure puts a random configuration in force, behind some rules, with limits that nobody exceeds: what they have left explain says that it
// doesn't know.
func (w *wire) configure(g generator, first ...string) error {
	c := g.rich()
	c.rules = slices.Concat(first, c.rules)
	for i := range c.rules {
		c.rules[i] = anyLimit.ReplaceAllString(c.rules[i], ", limit: {rate: 1000000/s, burst: 1000000$1}")
	}
	s := script{configs: []configText{c}}
	snapshot, err := readConfig(s.archive(), "config.yaml")
	if err != nil {
		return fmt.Errorf("%w\n%s", err, c.yaml())
	}
	for i, name := range wireIn {
		if err := w.live.SetInterface(w.index[name], snapshot.Interfaces[i].Name, ourMAC); err != nil {
			return err
		}
	}
	for i, key := range keysOf(snapshot) {
		state := reachable(key)
		state.Ifindex, state.Down = w.index["out0"], i%5 == 4
		if err := w.live.SetBackend(key, state); err != nil {
			return err
		}
	}
	for i, name := range exitNames {
		if err := w.live.SetExit(name, explain.Exit{Ifindex: w.index[wireAll[3+i]], MTU: 1500}); err != nil {
			return err
		}
	}
	for range g.IntN(4) {
		if err := w.live.Block(netip.MustParsePrefix(g.blockable()), time.Time{}); err != nil {
			return err
		}
	}
	return w.live.Apply(snapshot)
}

// round explains and sends so many packets under one configuration.
func (w *wire) round(g generator, packets int, met map[string]int) error {
	if err := w.configure(g); err != nil {
		return err
	}
	sibling, err := w.plane.Sibling()
	if err != nil {
		return err
	}
	defer sibling.Close()
	before, err := w.live.Counters()
	if err != nil {
		return err
	}
	expected := explain.Counters{}
	var recent, answers [][]byte
	for done := 0; done < packets; {
		frame := w.next(g, recent, answers)
		on, sent := pick(g, wireIn...), false
		if g.oneIn(4) {
			on, sent = "in1", true // what is at the other end of in0 would unwrap some
		}
		if !sendable(frame, on, sent) {
			continue
		}
		told, err := w.explainAndSend(sibling, frame, on, sent)
		if err != nil {
			return fmt.Errorf("%s, on %s, sent %t: %w\nexplained: %+v", pkt.Describe(frame), on, sent, err, told)
		}
		done++
		met[told.Reason]++
		for _, step := range told.Steps {
			met["step "+step.Step]++
		}
		text := pkt.Describe(frame)
		for _, word := range []string{"[2001:", "later", "first"} { // IPv6, fragments
			if strings.Contains(text, word) {
				met["text "+word]++
			}
		}
		if told.Rule != "" && told.Reason != "health-reply" {
			expected.Add("rule "+told.Rule, explain.Counter{Packets: 1})
		}
		if told.Reason == "forward" {
			expected.Add("backend "+told.Service+"/"+told.Backend, explain.Counter{Packets: 1})
		}
		recent = append(recent[max(0, len(recent)-50):], frame)
		if told.Reason == "rule-redirect" {
			expected.Add("redirect "+exitNames[slices.Index(wireAll, told.Out[0].Interface)-3], explain.Counter{Packets: 1})
		}
		if len(told.Out) > 0 {
			answers = append(answers[max(0, len(answers)-50):], turned(told.Out[0].Hex))
		}
	}
	after, err := w.live.Counters()
	if err != nil {
		return err
	}
	return w.agree(expected, before, after)
}

// untouched explains packets with all that is known by now, in each way that one can ask, and sends none: every live counter and table
// must be, entry by entry, what it was. Nearly all packets take a token.
func (w *wire) untouched(g generator, packets int) error {
	const limit = "limit: {rate: 1/s, per: src}, action: drop}"
	if err := w.configure(g, "    - {name: in, match: {}, "+limit, "    - {name: out, direction: out, match: {}, "+limit); err != nil {
		return err
	}
	before, err := w.dump()
	if err != nil {
		return err
	}
	limited := 0
	for _, a := range []dataplane.Assumption{{}, {NoFlows: true, Later: time.Hour}} {
		n, err := w.explained(g, a, packets/2)
		if err != nil {
			return err
		}
		limited += n
	}
	if limited < packets {
		return fmt.Errorf("only %d of %d packets at three hooks met a limit", limited, packets)
	}
	after, err := w.dump()
	if err != nil {
		return err
	}
	for name, text := range before {
		if after[name] != text {
			return fmt.Errorf("explaining changed %s", name)
		}
	}
	if len(after) != len(before) {
		return fmt.Errorf("%d maps before, %d after", len(before), len(after))
	}
	for _, name := range []string{"rule_counters", "backend_counters", "interface_counters", "flow_totals", "blocks", "states", "nat_entries", "fragments", "limits"} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(before)), func(key string) bool { return strings.HasPrefix(key, name+" ") && before[key] != "" }) {
			return fmt.Errorf("there is nothing in %s that could have changed", name)
		}
	}
	return nil
}

// explained explains so many packets at each hook, and says of how many limits were asked.
func (w *wire) explained(g generator, a dataplane.Assumption, packets int) (limited int, err error) {
	sibling, err := w.plane.SiblingIf(a)
	if err != nil {
		return 0, err
	}
	defer sibling.Close()
	for range packets {
		frame, _ := g.packet()
		for hook, on := range map[dataplane.Hook]string{dataplane.HookXDP: "in0", dataplane.HookIngress: "in1", dataplane.HookEgress: "in1"} {
			if !sendable(frame, on, false) {
				continue
			}
			q := explain.Question{Hook: hook, Frame: frame, Ifindex: w.index[on], Later: a.Later}
			answer, err := explain.Ask(sibling, q, w.live.Names(), w.live.Backends())
			if err != nil {
				return limited, fmt.Errorf("%s: %w", pkt.Describe(frame), err)
			}
			if slices.ContainsFunc(answer.Trace.Step[:], func(s abi.TraceStep) bool { return abi.Step(s.Step) == abi.StepLimit }) {
				limited++
			}
		}
	}
	return limited, nil
}

// dump is what each live map holds.
func (w *wire) dump() (map[string]string, error) {
	held, err := inspect.Open(w.dir)
	if err != nil {
		return nil, err
	}
	programs, err := held.Programs(context.Background(), 0)
	if err != nil {
		return nil, err
	}
	list, err := held.Maps(programs)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, m := range list {
		if m.Type == "RingBuf" || m.Type == "ProgramArray" {
			continue // has no entries to look at
		}
		var lines []string
		content, err := m.Content()
		if err != nil {
			return nil, err
		}
		err = content.Dump(0, func(e inspect.Entry) error {
			lines = append(lines, fmt.Sprint(e))
			return nil
		})
		content.Close()
		if err != nil {
			return nil, fmt.Errorf("dump %s: %w", m.Name, err)
		}
		slices.Sort(lines)
		all[fmt.Sprintf("%s %d", m.Name, m.ID)] = strings.Join(lines, "\n")
	}
	return all, nil
}

// next is a new packet, or one that has to do with those before it.
func (w *wire) next(g generator, recent, answers [][]byte) []byte {
	switch what := g.IntN(20); {
	case what < 4 && len(recent) > 0:
		return pick(g, recent...)
	case what < 6 && len(recent) > 0:
		return turned(pick(g, recent...))
	case what < 7 && len(recent) > 0:
		return g.fragmented(pick(g, recent...))
	case what < 8 && len(recent) > 0:
		return g.icmpError(pick(g, recent...))
	case what < 10 && len(answers) > 0:
		return pick(g, answers...)
	}
	frame, _ := g.packet()
	return frame
}

// sendable: a test run at tc refuses cut IP headers, and a kernel drops what ends within its tag before tc sees it.
func sendable(frame []byte, on string, sent bool) bool {
	if len(frame) > 1700 {
		return false
	}
	tagged := frame[12] == 0x81 && frame[13] == 0 || frame[12] == 0x88 && frame[13] == 0xa8
	return on == "in0" || !tagged && !refusedAtTC(frame) || tagged && len(frame) >= 14+4+4+40
}

// explainAndSend does both and compares.
func (w *wire) explainAndSend(sibling *dataplane.Dataplane, frame []byte, on string, sent bool) (told api.Explanation, err error) {
	q := explain.Question{Hook: dataplane.HookXDP, Frame: frame, Ifindex: w.index[on]}
	switch {
	case sent:
		q.Hook = dataplane.HookEgress
	case on == "in1":
		q.Hook = dataplane.HookIngress
	}
	answer, err := explain.Ask(sibling, q, w.live.Names(), w.live.Backends())
	if err != nil {
		return told, err
	}
	told = explain.Explain(answer.Result, w.live.Names(), q.Ifindex, w.names)
	before, err := w.live.Reasons()
	if err != nil {
		return told, err
	}
	if sent {
		err = unix.Send(w.sending[on], frame, 0)
	} else {
		err = w.taps[on].send(frame)
	}
	if err != nil && !(sent && told.Verdict == explain.Drop && errors.Is(err, unix.ENOBUFS)) { // as tc tells the sender
		return told, fmt.Errorf("send it: %w", err)
	}
	if err := w.counted(before, told.Reason); err != nil {
		return told, err
	}
	return told, w.left(told, frame, on, sent)
}

// counted waits until one more packet is counted for the reason, and none for another. What is sent and judged by no rule is not
// counted.
func (w *wire) counted(before []abi.Counter, want string) error {
	for deadline := time.Now().Add(liveWait); ; {
		now, err := w.live.Reasons()
		if err != nil {
			return err
		}
		var moved []string
		for reason := range now {
			if n := now[reason].Packets - before[reason].Packets; n > 0 {
				moved = append(moved, fmt.Sprintf("%d %s", n, abi.Reason(reason)))
			}
		}
		switch {
		case want == "none" && len(moved) == 0 || len(moved) == 1 && moved[0] == "1 "+want:
			return nil
		case len(moved) > 0:
			return fmt.Errorf("what happened: %s", strings.Join(moved, ", "))
		case time.Now().After(deadline):
			return errors.New("nothing happened")
		}
	}
}

// left compares what comes out of the box.
func (w *wire) left(told api.Explanation, frame []byte, on string, sent bool) error {
	want := map[string][]byte{}
	if len(told.Out) > 0 {
		want[told.Out[0].Interface] = told.Out[0].Hex
	}
	if sent && (told.Verdict == "pass" || told.Reason == "none") {
		want[on] = frame
	}
	for name, frame := range want {
		got, err := w.taps[name].receive(true)
		for err == nil && !bytes.Equal(got, frame) && isExit(name) { // a copy that was mirrored before
			got, err = w.taps[name].receive(true)
		}
		if err != nil {
			return fmt.Errorf("nothing left by %s: %w", name, err)
		}
		if !bytes.Equal(got, frame) {
			return fmt.Errorf("by %s left\n%s, not\n%s", name, pkt.Describe(got), pkt.Describe(frame))
		}
	}
	for name, tap := range w.taps {
		if got, err := tap.receive(false); err == nil && !isExit(name) {
			return fmt.Errorf("by %s left %s", name, pkt.Describe(got))
		}
	}
	return nil
}

// isExit: besides what is redirected, copies leave there, of which explain says nothing.
func isExit(name string) bool { return strings.HasPrefix(name, "ex") }

// agree compares what rules decided and what backends got.
func (w *wire) agree(want, before, after explain.Counters) error {
	for name, now := range after {
		switch {
		case strings.HasPrefix(name, "rule ") && !strings.HasSuffix(name, " undecided") && !strings.HasSuffix(name, " shadow"):
			now.Packets -= after[name+" undecided"].Packets - before[name+" undecided"].Packets
		case !strings.HasPrefix(name, "backend ") && !strings.HasPrefix(name, "redirect ") || name == "backend none":
			continue
		}
		if got := now.Packets - before[name].Packets; got != want[name].Packets {
			return fmt.Errorf("%s: %d packets counted, %d explained", name, got, want[name].Packets)
		}
		delete(want, name)
	}
	for name, c := range want {
		return fmt.Errorf("%s: none counted, %d explained", name, c.Packets)
	}
	return nil
}

// tap is the far end of a link, where frames are sent and received as they are.
type tap struct{ socket int }

func newTap(ifname string) (*tap, error) {
	socket, err := frameSocket(ifname, unix.ETH_P_ALL)
	if err != nil {
		return nil, err
	}
	timeout := unix.NsecToTimeval(liveWait.Nanoseconds())
	return &tap{socket}, errors.Join(
		unix.SetsockoptInt(socket, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(socket, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
}

// frameSocket sends and receives on an interface of the calling thread's namespace; with protocol 0 it receives nothing.
func frameSocket(ifname string, protocol uint16) (int, error) {
	link, err := net.InterfaceByName(ifname)
	if err != nil {
		return 0, err
	}
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	return socket, unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: abi.Htons(protocol), Ifindex: link.Index})
}

func (t *tap) close() { unix.Close(t.socket) }

func (t *tap) send(frame []byte) error { return unix.Send(t.socket, frame, 0) }

// receive gives the next frame, with the tag that the kernel has taken out.
func (t *tap) receive(wait bool) ([]byte, error) {
	flags := unix.MSG_DONTWAIT
	if wait {
		flags = 0
	}
	frame, control := make([]byte, 2048), make([]byte, 128)
	n, m, _, _, err := unix.Recvmsg(t.socket, frame, control, flags)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:m])
	if err != nil {
		return nil, err
	}
	frame = frame[:n]
	for _, message := range messages {
		if message.Header.Level != unix.SOL_PACKET || message.Header.Type != unix.PACKET_AUXDATA {
			continue
		}
		status, beside := binary.NativeEndian.Uint32(message.Data), message.Data[16:] // struct tpacket_auxdata
		if status&unix.TP_STATUS_VLAN_VALID != 0 {
			tag := binary.BigEndian.AppendUint16(nil, binary.NativeEndian.Uint16(beside[2:]))
			tag = binary.BigEndian.AppendUint16(tag, binary.NativeEndian.Uint16(beside))
			frame = slices.Insert(frame, 12, tag...)
		}
	}
	return frame, nil
}
