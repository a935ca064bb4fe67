package explain_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"

	"gardu/ctl/explain"
	"gardu/ctl/pkt"
	"gardu/ctl/testnet"
)

const (
	// nftRoundPackets is how many packets meet each ruleset.
	nftRoundPackets = 8000
	// nftBatch is how many of them are under way at once: fewer than any queue on the way holds.
	nftBatch = 200
)

// TestNftAgrees puts the same rules into gardu and into the kernel's nftables, and the same packets through both: nft's
// rules on the ingress hook of a veth pair, whose survivors it forwards to where they can be seen, and gardu's programs.
// The verdict must be the same for each packet, and the count for each rule.
//
// What the two mean differently is not sent: what gardu drops as malformed, since nft has no such notion; and frames with
// two VLAN tags, since nft looks behind one; and some extension headers, see extended. Ports and ICMP types are asked of
// packets only that have them: nft would read them from the data of later fragments, and each fragment is one of a packet of its
// own, since to gardu later ones have the ports of the first. What gardu passes by itself nft is told to: ARP and its like, and at the
// end neighbour discovery and MLD.
//
// GARDU_NFT is the number of packets (112,000), GARDU_SEED the seed (1).
func TestNftAgrees(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces and loads BPF programs")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		if testing.Short() {
			t.Skip("short: an emulated machine has no nft")
		}
		t.Fatal("nft is not installed: Debian's package is nftables")
	}
	packets := fromEnvironment(t, "GARDU_NFT", 112_000)
	if testing.Short() {
		packets = 2 * nftRoundPackets
	}
	seed := fromEnvironment(t, "GARDU_SEED", 1)
	t.Logf("GARDU_SEED=%d", seed)
	oracle := newNftOracle(t)
	var sum nftSums
	for round := 0; sum.sent < int(packets) && !t.Failed(); round++ {
		hook := []string{"xdp", "tc"}[round%2]
		t.Run(fmt.Sprintf("%d-%s", round, hook), func(t *testing.T) {
			g := generator{Rand: rand.New(rand.NewPCG(seed, uint64(round)))}
			sum.add(nftRound(t, g, hook, oracle))
		})
	}
	t.Logf("%d packets, of which %d passed; rules decided for %d; %d more were not sent", sum.sent, sum.passed, sum.decided, sum.excluded)
	if !t.Failed() && (sum.passed < sum.sent/10 || sum.passed > sum.sent*9/10 || sum.decided < sum.sent/4 || sum.excluded > sum.sent) {
		t.Error("the random packets are too tame")
	}
}

type nftSums struct{ sent, passed, decided, excluded int }

func (s *nftSums) add(o nftSums) {
	s.sent += o.sent
	s.passed += o.passed
	s.decided += o.decided
	s.excluded += o.excluded
}

// nftRound judges the packets of one ruleset by both.
func nftRound(t *testing.T, g generator, hook string, oracle *nftOracle) (sum nftSums) {
	set := g.nftRuleset()
	archive := &txtar.Archive{}
	setSection(archive, "config.yaml", set.yaml())
	snapshot, err := readConfig(archive, "config.yaml")
	if err != nil {
		t.Fatalf("%v\n%s", err, set.yaml())
	}
	ours := newBoxPath(t, hooks[hook], featuresOf(t, archive))
	if err := ours.Apply(snapshot); err != nil {
		t.Fatal(err)
	}
	if err := oracle.load(set.nft()); err != nil {
		t.Fatalf("%v\n%s", err, set.nft())
	}
	var frames [][]byte
	var want []bool
	wantCounts := map[string]int{}
	for len(frames) < nftRoundPackets {
		frame, _ := g.packet()
		alone(frame, len(frames))
		frame = numbered(frame, len(frames))
		if tags(frame) > 1 || isLength(frame) || extended(frame) || hook == "tc" && refusedAtTC(frame) {
			sum.excluded++
			continue
		}
		outcome, err := ours.Judge(0, frame)
		if err != nil {
			t.Fatal(err)
		}
		if outcome.Reason == "malformed" {
			sum.excluded++
			continue
		}
		frames = append(frames, frame)
		want = append(want, outcome.Verdict == explain.Pass)
		if outcome.Rule != "" {
			wantCounts[outcome.Rule]++
			sum.decided++
		}
	}
	got, err := oracle.survivors(frames)
	if err != nil {
		t.Fatal(err)
	}
	gotCounts, err := oracle.counts()
	if err != nil {
		t.Fatal(err)
	}
	for i, frame := range frames {
		sum.sent++
		if got[i] {
			sum.passed++
		}
		if got[i] != want[i] {
			outcome, _ := ours.Judge(0, frame)
			t.Fatalf("packet %d: %s\nnft passes it: %t, gardu does: %t (%s %s)\nrules with other counts: %s\n%s\n%s", i, pkt.Describe(frame),
				got[i], want[i], outcome.Reason, outcome.Rule, set.otherCounts(gotCounts, wantCounts), set.yaml(), set.nft())
		}
	}
	if other := set.otherCounts(gotCounts, wantCounts); other != "" {
		t.Fatalf("all verdicts are the same, but these rules decided for others: %s\n%s\n%s", other, set.yaml(), set.nft())
	}
	return sum
}

func (s nftRuleset) otherCounts(nft, gardu map[string]int) string {
	var other []string
	for _, r := range s.rules {
		if nft[r.name] != gardu[r.name] {
			other = append(other, fmt.Sprintf("%s (nft %d, gardu %d)", r.name, nft[r.name], gardu[r.name]))
		}
	}
	return strings.Join(other, ", ")
}

// nftTrailer is behind each frame: it says which one it is.
var nftTrailer = []byte("gardu-nft")

func numbered(frame []byte, index int) []byte {
	spare := make([]byte, 4) // a VLAN tag is taken out, even one that the frame ends in
	return binary.BigEndian.AppendUint32(slices.Concat(frame, spare, nftTrailer), uint32(index))
}

// tags counts VLAN tags.
func tags(frame []byte) (n int) {
	for at := 12; at+2 <= len(frame); at += 4 {
		switch binary.BigEndian.Uint16(frame[at:]) {
		case 0x8100, 0x88a8:
			n++
		default:
			return n
		}
	}
	return n
}

// isLength tells a frame that has a length where the Ethernet type is, behind a VLAN tag.
func isLength(frame []byte) bool {
	return tags(frame) == 1 && len(frame) >= 18 && binary.BigEndian.Uint16(frame[16:]) < 1536
}

// extended tells whether nft reads the extension headers of an IPv6 packet otherwise: it takes an authentication header
// for the upper protocol, and finds none in a later fragment that begins with extension headers.
func extended(frame []byte) (is bool) {
	eachExtension(frame, func(number byte, header []byte) (more bool) {
		switch {
		case number == 51:
			is = true
		case number == 44 && binary.BigEndian.Uint16(header[2:])>>3 != 0:
			is = slices.Contains([]byte{0, 43, 44, 51, 60}, header[0])
		default:
			return true
		}
		return false
	})
	return is
}

// alone gives a fragment an identification that no other frame has: to gardu a later one has the ports of its first.
func alone(frame []byte, index int) {
	at := 14 + 4*tags(frame)
	if len(frame) >= at+20 && binary.BigEndian.Uint16(frame[at-2:]) == 0x0800 {
		binary.BigEndian.PutUint16(frame[at+4:], uint16(index))
	}
	eachExtension(frame, func(number byte, header []byte) (more bool) {
		if number == 44 {
			binary.BigEndian.PutUint32(header[4:], uint32(index))
		}
		return number != 44
	})
}

// eachExtension visits the extension headers of an IPv6 packet, as far as their first 8 bytes are there.
func eachExtension(frame []byte, visit func(number byte, header []byte) (more bool)) {
	at := 14 + 4*tags(frame)
	if len(frame) < at+40 || binary.BigEndian.Uint16(frame[at-2:]) != 0x86dd {
		return
	}
	next, rest := frame[at+6], frame[at+40:]
	for len(rest) >= 8 && slices.Contains([]byte{0, 43, 44, 51, 60}, next) && visit(next, rest) {
		size := 8 + 8*int(rest[1])
		if next == 44 {
			size = 8
		}
		next, rest = rest[0], rest[min(size, len(rest)):]
	}
}

// nftOracle is a network in which nft judges frames:
//
//	sender s0 --- in0 [nft] out0 --- r0 receiver
type nftOracle struct {
	box  *testnet.Node
	send int // packet sockets
	recv int
	dir  string
}

func newNftOracle(t *testing.T) *nftOracle {
	t.Helper()
	network, err := testnet.New("gardu-nft-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	nodes := map[string]*testnet.Node{}
	for _, name := range []string{"sender", "box", "receiver"} {
		node, err := network.Node(name)
		must(err)
		// Nobody but us sends anything here.
		for _, key := range []string{"all", "default"} {
			must(node.SetSysctl("net.ipv6.conf."+key+".disable_ipv6", "1"))
		}
		nodes[name] = node
	}
	must(network.Connect(testnet.End{Node: nodes["sender"], Name: "s0"}, testnet.End{Node: nodes["box"], Name: "in0"}, 9000))
	must(network.Connect(testnet.End{Node: nodes["box"], Name: "out0"}, testnet.End{Node: nodes["receiver"], Name: "r0"}, 9000))
	o := &nftOracle{box: nodes["box"], dir: t.TempDir()}
	o.send = packetSocket(t, nodes["sender"], "s0")
	o.recv = packetSocket(t, nodes["receiver"], "r0")
	must(unix.SetsockoptInt(o.recv, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20))
	must(unix.SetsockoptTimeval(o.recv, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}))
	return o
}

// packetSocket sends and receives whole frames on an interface of a node.
func packetSocket(t *testing.T, node *testnet.Node, name string) (fd int) {
	t.Helper()
	err := node.Do(func() error {
		iface, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // network order
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: iface.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// load puts a table in force in place of the one before.
func (o *nftOracle) load(table string) error {
	path := filepath.Join(o.dir, "rules.nft")
	if err := os.WriteFile(path, []byte("flush ruleset\n"+table), 0o600); err != nil {
		return err
	}
	_, err := o.box.Output(context.Background(), "nft", "-f", path)
	return err
}

// nftMarker is an ethertype for experiments (IEEE 802), which no rule gets to see: it comes through, behind what was sent before it.
const nftMarker = 0x88b5

// survivors sends frames and returns which of them came through.
func (o *nftOracle) survivors(frames [][]byte) ([]bool, error) {
	marker := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, nftMarker >> 8, nftMarker & 0xff}
	passed := make([]bool, len(frames))
	buffer := make([]byte, 16<<10)
	for batch := range slices.Chunk(frames, nftBatch) {
		for _, frame := range append(batch[:len(batch):len(batch)], marker) {
			if _, err := unix.Write(o.send, frame); err != nil {
				return nil, fmt.Errorf("send a frame of %d bytes: %w", len(frame), err)
			}
		}
		for {
			n, err := unix.Read(o.recv, buffer)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("wait for the marker behind %d frames: %w", len(batch), err)
			}
			frame := buffer[:n]
			if n >= 14 && binary.BigEndian.Uint16(frame[12:]) == nftMarker {
				break
			}
			at := n - 4 - len(nftTrailer)
			if at < 0 || !bytes.Equal(frame[at:n-4], nftTrailer) {
				return nil, fmt.Errorf("a stray frame came through: %s", pkt.Describe(frame))
			}
			index := binary.BigEndian.Uint32(frame[n-4:])
			if int(index) >= len(frames) || passed[index] {
				return nil, fmt.Errorf("frame %d came through, twice or never sent", index)
			}
			passed[index] = true
		}
	}
	return passed, nil
}

// counts returns how many packets each rule decided for, by the comment that names gardu's.
func (o *nftOracle) counts() (map[string]int, error) {
	out, err := o.box.Output(context.Background(), "nft", "-j", "list", "chain", "netdev", "gardu", "rules")
	if err != nil {
		return nil, err
	}
	var list struct {
		Nftables []struct {
			Rule struct {
				Comment string
				Expr    []struct {
					Counter struct{ Packets int }
				}
			}
		}
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("read nft's counters: %w", err)
	}
	counts := map[string]int{}
	for _, object := range list.Nftables {
		for _, part := range object.Rule.Expr {
			counts[object.Rule.Comment] += part.Counter.Packets
		}
	}
	return counts, nil
}

// nftRuleset is one ruleset in two languages.
type nftRuleset struct {
	drop  bool // what no rule decides
	sets  map[string][]string
	rules []nftRule
}

type nftRule struct {
	name, action string
	match        []nftCondition
}

// nftCondition is what a rule asks of a field. Numbers are given as ranges that don't touch; of prefixes and ports of
// sets some may overlap.
type nftCondition struct {
	field    string
	negated  bool
	prefixes []string
	ranges   [][2]int
	masks    []nftMask
	words    []string // of fragment
	set      string
}

// nftMask is what some bits are: of TCP flags or of a MAC address. gardu writes it in words, nft as numbers.
type nftMask struct{ words, value, bits string }

// nftFamilies are the kinds of frames that a rule of gardu's is written for, one rule each: nft has no field that all have.
var nftFamilies = []string{"ip", "ip6", "!= { ip, ip6 }"}

const nftLink = 2 // neither IPv4 nor IPv6

// nftFields are the fields that both know, and how nft writes them for each family; "": in its own way.
var nftFields = map[string][2]string{
	"src":       {"ip saddr", "ip6 saddr"},
	"dst":       {"ip daddr", "ip6 daddr"},
	"proto":     {"meta l4proto", "meta l4proto"},
	"sport":     {"meta mark 0 meta l4proto { 6, 17, 132 } th sport", "meta mark 0 meta l4proto { 6, 17, 132 } th sport"},
	"dport":     {"meta mark 0 meta l4proto { 6, 17, 132 } th dport", "meta mark 0 meta l4proto { 6, 17, 132 } th dport"},
	"icmp-type": {"meta mark 0 icmp type", "meta mark 0 icmpv6 type"},
	"icmp-code": {"meta mark 0 icmp code", "meta mark 0 icmpv6 code"},
	"ttl":       {"ip ttl", "ip6 hoplimit"},
	"dscp":      {"ip dscp", "ip6 dscp"},
	"length":    {"ip length", "ip6 length"},
	"tcp-flags": {"meta mark 0 meta l4proto { 6 } @th,104,8", "meta mark 0 meta l4proto { 6 } @th,104,8"}, // nft takes no ports beside `tcp flags`
	"fragment":  {},
	"vlan":      {},
	"ethertype": {},
	"src-mac":   {"ether saddr", "ether saddr"},
	"dst-mac":   {"ether daddr", "ether daddr"},
}

// nftFragments is how nft tells the kinds of fragments of each family, each in one or more ways. A fragment header may stand before
// a packet that is whole (RFC 6946).
var nftFragments = map[string][2][]string{
	"later": {{"ip frag-off & 0x1fff != 0"}, {"frag frag-off != 0"}},
	"first": {{"ip frag-off & 0x3fff == 0x2000"}, {"frag frag-off 0 frag more-fragments 1"}},
	"none":  {{"ip frag-off & 0x3fff == 0"}, {"exthdr frag missing", "frag frag-off 0 frag more-fragments 0"}},
}

const (
	nftTagged   = "ether type { 0x8100, 0x88a8 }"
	nftUntagged = "ether type != { 0x8100, 0x88a8 }"
)

// yaml writes it for gardu.
func (s nftRuleset) yaml() string {
	c := configText{defaultAction: "pass"}
	if s.drop {
		c.defaultAction = "drop"
	}
	for _, name := range slices.Sorted(maps.Keys(s.sets)) {
		kind := "entries"
		if name[0] == 'p' {
			kind = "ports"
		}
		c.sets = append(c.sets, fmt.Sprintf("  %s: {%s: [%s]}", name, kind, strings.Join(quoted(s.sets[name]), ", ")))
	}
	for _, r := range s.rules {
		var match []string
		for _, m := range r.match {
			key := m.field
			if m.negated {
				key = "not-" + key
			}
			value := "\"@" + m.set + "\""
			if m.set == "" {
				values := slices.Concat(quoted(m.prefixes), texts(m.ranges), m.words)
				for _, mask := range m.masks {
					values = append(values, mask.words)
				}
				value = "[" + strings.Join(values, ", ") + "]"
			}
			match = append(match, key+": "+value)
		}
		c.rules = append(c.rules, fmt.Sprintf("    - {name: %s, match: {%s}, action: %s}", r.name, strings.Join(match, ", "), r.action))
	}
	return c.yaml()
}

func quoted(list []string) []string {
	out := make([]string, len(list))
	for i, text := range list {
		out[i] = fmt.Sprintf("%q", text)
	}
	return out
}

func texts(ranges [][2]int) []string {
	out := make([]string, len(ranges))
	for i, r := range ranges {
		out[i] = fmt.Sprint(r[0])
		if r[0] != r[1] {
			out[i] += fmt.Sprintf("-%d", r[1])
		}
	}
	return out
}

// nft writes it for nft.
func (s nftRuleset) nft() string {
	var b, rules strings.Builder
	b.WriteString("table netdev gardu {\n")
	for name, entries := range s.sets {
		if name[0] == 'p' {
			fmt.Fprintf(&b, "  set %s { type inet_service; flags interval; auto-merge; elements = { %s }; }\n", name, strings.Join(entries, ", "))
			continue
		}
		for family, kind := range []string{"ipv4_addr", "ipv6_addr"} {
			nftAddressSet(&b, fmt.Sprintf("%s_%d", name, family), kind, ofFamily(entries, family))
		}
	}
	for i, r := range s.rules {
		for family, protocol := range nftFamilies {
			if family == nftLink && !r.namesLink() {
				continue
			}
			texts := []string{""}
			for j, m := range r.match {
				var longer []string
				for _, part := range m.nft(&b, fmt.Sprintf("r%d_%d_%d", i, j, family), family) {
					for _, text := range texts {
						longer = append(longer, text+" "+part)
					}
				}
				texts = longer
			}
			action := map[string]string{"pass": "accept", "drop": "drop"}[r.action]
			for _, text := range texts {
				fmt.Fprintf(&rules, "    meta protocol %s%s counter %s comment %q\n", protocol, text, action, r.name)
			}
		}
	}
	b.WriteString("  chain rules { type filter hook ingress device \"in0\" priority 0; policy accept;\n")
	fmt.Fprintf(&b, "    ether type %#x accept\n", nftMarker)
	b.WriteString("    ip frag-off & 0x1fff != 0 meta mark set 1\n    frag frag-off != 0 meta mark set 1\n") // later fragments
	b.WriteString(rules.String())
	if s.drop {
		b.WriteString("    meta protocol != { ip, ip6 } accept\n")
		b.WriteString("    meta mark 0 icmpv6 type { 130-137, 143 } accept\n    drop\n")
	}
	b.WriteString("  }\n  chain out { type filter hook ingress device \"in0\" priority 10; fwd to \"out0\"; }\n}\n")
	return b.String()
}

func nftAddressSet(b *strings.Builder, name, kind string, entries []string) {
	elements := ""
	if len(entries) > 0 {
		elements = " elements = { " + strings.Join(entries, ", ") + " };"
	}
	fmt.Fprintf(b, "  set %s { type %s; flags interval; auto-merge;%s }\n", name, kind, elements)
}

func ofFamily(entries []string, family int) (of []string) {
	for _, entry := range entries {
		if strings.Contains(entry, ":") == (family == 1) {
			of = append(of, entry)
		}
	}
	return of
}

// namesLink tells a rule that sees frames that are neither IPv4 nor IPv6.
func (r nftRule) namesLink() bool {
	return slices.ContainsFunc(r.match, func(m nftCondition) bool {
		return m.field == "ethertype" || strings.HasSuffix(m.field, "-mac")
	})
}

// nft writes the condition for packets of one family, in one or more ways any of which may hold, or none when no packet of the
// family meets it; a list of prefixes becomes a set of that name.
func (m nftCondition) nft(b *strings.Builder, name string, family int) (ways []string) {
	switch m.field {
	case "vlan":
		return m.nftVLAN()
	case "ethertype":
		return m.nftEtherType()
	case "src-mac", "dst-mac":
		return m.nftMasks(nftFields[m.field][0])
	}
	if family == nftLink {
		return nil // they have no such field
	}
	field := nftFields[m.field][family]
	switch {
	case m.field == "tcp-flags":
		return m.nftMasks(field)
	case m.field == "fragment":
		return m.nftFragment(family)
	case m.field == "src" || m.field == "dst":
		if m.set != "" {
			return []string{fmt.Sprintf("%s %s@%s_%d", field, m.not(), m.set, family)}
		}
		entries := ofFamily(m.prefixes, family)
		nftAddressSet(b, name, []string{"ipv4_addr", "ipv6_addr"}[family], entries)
		return []string{fmt.Sprintf("%s %s@%s", field, m.not(), name)}
	case m.set != "":
		return []string{fmt.Sprintf("%s %s@%s", field, m.not(), m.set)}
	}
	ranges := slices.Clone(m.ranges)
	if m.field == "length" && family == 1 { // nft's doesn't count the header
		for i := range ranges {
			ranges[i][0], ranges[i][1] = max(0, ranges[i][0]-40), ranges[i][1]-40
		}
		ranges = slices.DeleteFunc(ranges, func(r [2]int) bool { return r[1] < 0 })
		if len(ranges) == 0 && m.negated {
			return []string{""}
		}
		if len(ranges) == 0 {
			return nil
		}
	}
	return []string{m.among(field, ranges)}
}

func (m nftCondition) not() string {
	if m.negated {
		return "!= "
	}
	return ""
}

// among says that a field is in the ranges, or isn't.
func (m nftCondition) among(field string, ranges [][2]int) string {
	return fmt.Sprintf("%s %s{ %s }", field, m.not(), strings.Join(texts(ranges), ", "))
}

// nftMasks: one of several holds, or none does.
func (m nftCondition) nftMasks(field string) (ways []string) {
	operator := "=="
	if m.negated {
		operator = "!="
	}
	for _, mask := range m.masks {
		ways = append(ways, fmt.Sprintf("%s & %s %s %s", field, mask.bits, operator, mask.value))
	}
	if m.negated {
		return []string{strings.Join(ways, " ")}
	}
	return ways
}

func (m nftCondition) nftFragment(family int) (ways []string) {
	for kind, how := range nftFragments {
		if (slices.Contains(m.words, kind) || slices.Contains(m.words, "any") && kind != "none") != m.negated {
			ways = append(ways, how[family]...)
		}
	}
	return ways
}

// nftVLAN: a frame without a tag is to gardu one of VLAN 0. nft's own word is about tags of type 0x8100 alone.
func (m nftCondition) nftVLAN() []string {
	ways := []string{nftTagged + " " + m.among("@ll,112,16 & 0xfff", m.ranges)}
	if m.ranges[0][0] == 0 != m.negated {
		ways = append(ways, nftUntagged)
	}
	return ways
}

// nftEtherType is what stands behind a tag, if there is one.
func (m nftCondition) nftEtherType() []string {
	return []string{nftUntagged + " " + m.among("@ll,96,16", m.ranges), nftTagged + " " + m.among("@ll,128,16", m.ranges)}
}

// nftRuleset makes a random one, of values that packets have.
func (g generator) nftRuleset() nftRuleset {
	s := nftRuleset{drop: g.oneIn(2), sets: map[string][]string{}}
	unquoted := func() string { return strings.Trim(g.prefix(), "\"") }
	for i := range 2 {
		var addresses, ports []string
		for range 1 + g.IntN(10) {
			addresses = append(addresses, unquoted())
		}
		for range 1 + g.IntN(3) {
			if p := g.ports(); p[0] != '0' {
				ports = append(ports, p)
			}
		}
		s.sets[fmt.Sprintf("a%d", i)], s.sets[fmt.Sprintf("p%d", i)] = addresses, append(ports, "443")
	}
	size := 1 + g.IntN(pick(g, 5, 10, 40, 120))
	for i := range size {
		r := nftRule{name: fmt.Sprintf("r%d", i), action: pick(g, "pass", "drop")}
		asked := map[string]bool{}
		for range 1 + g.IntN(4) {
			m := nftCondition{negated: g.oneIn(5)}
			m.field = pick(g, "src", "src", "dst", "dst", "proto", "sport", "dport", "dport", "icmp-type", "icmp-code", "ttl", "dscp", "length",
				"tcp-flags", "tcp-flags", "fragment", "fragment", "vlan", "ethertype", "src-mac", "dst-mac")
			upper := m.field == "proto" || m.field == "tcp-flags" || strings.HasSuffix(m.field, "port")
			icmp := strings.HasPrefix(m.field, "icmp")
			if asked[m.field] || icmp && asked["upper"] || upper && asked["icmp"] { // nft refuses both in one rule
				continue
			}
			asked["upper"], asked["icmp"] = asked["upper"] || upper, asked["icmp"] || icmp
			asked[m.field] = true
			// nft 1.0.6 makes one comparison of two `!=` on adjacent fields, which is true when either differs.
			neighbours := map[bool]string{true: "not icmp", false: "not port"}[icmp]
			if m.negated && (icmp || strings.HasSuffix(m.field, "port")) {
				m.negated = !asked[neighbours]
				asked[neighbours] = true
			}
			g.nftValues(&m, unquoted)
			r.match = append(r.match, m)
		}
		s.rules = append(s.rules, r)
		if !s.valid() { // contradictions like ports of ICMP
			s.rules = s.rules[:len(s.rules)-1]
		}
	}
	return s
}

func (s nftRuleset) valid() bool {
	archive := &txtar.Archive{}
	setSection(archive, "config.yaml", s.yaml())
	_, err := readConfig(archive, "config.yaml")
	return err == nil
}

func (g generator) nftValues(m *nftCondition, prefix func() string) {
	switch m.field {
	case "src", "dst":
		if g.oneIn(3) {
			m.set = pick(g, "a0", "a1")
			return
		}
		for range 1 + g.IntN(4) {
			m.prefixes = append(m.prefixes, prefix())
		}
		return
	case "sport", "dport":
		if g.oneIn(3) {
			m.set = pick(g, "p0", "p1")
			return
		}
	case "fragment":
		m.words = pick(g, []string{"none"}, []string{"first"}, []string{"later"}, []string{"any"}, []string{"none", "first"}, []string{"none", "later"})
		return
	case "tcp-flags":
		for range 1 + g.IntN(3) {
			m.masks = append(m.masks, g.nftFlags())
		}
		return
	case "src-mac", "dst-mac":
		for range pick(g, 1, 2, 10, 20) {
			m.masks = append(m.masks, g.nftMAC())
		}
		return
	}
	var edges []int
	for range pick(g, 2, 2, 4, 6) {
		edges = append(edges, map[string]func() int{
			"proto": func() int { return pick(g, 6, 17, 1, 58, 132, g.IntN(256)) },
			"sport": g.port, "dport": g.port,
			"icmp-type": func() int { return pick(g, 8, 0, 3, 128, 129, 135, g.IntN(256)) },
			"icmp-code": func() int { return g.IntN(6) },
			"ttl":       func() int { return pick(g, 0, 1, 3, 63, 64, 65, 255, g.IntN(256)) },
			"dscp":      func() int { return pick(g, 0, 8, 12, 46, 63, g.IntN(64)) },
			"length":    func() int { return pick(g, 28, 40, 48, 52, 60, 80, 100, 1400, 1500, g.IntN(1600)) },
			"vlan":      func() int { return pick(g, 0, 10, 20, 30, g.IntN(4096)) },
			"ethertype": func() int { return pick(g, 0, 0x26, 0x800, 0x806, 0x86dd, 0x88cc, 0x9100, g.IntN(65536)) },
		}[m.field]())
	}
	slices.Sort(edges)
	for pair := range slices.Chunk(edges, 2) { // apart from each other, or one and the same
		if n := len(m.ranges); n > 0 && pair[0] <= m.ranges[n-1][1]+1 {
			continue
		}
		if g.oneIn(2) {
			pair[1] = pair[0]
		}
		m.ranges = append(m.ranges, [2]int{pair[0], pair[1]})
	}
}

// nftFlags are some TCP flags, of which some are set.
func (g generator) nftFlags() nftMask {
	names := []string{"fin", "syn", "rst", "psh", "ack", "urg"}
	var bits, set []string
	value, mask := 0, 0
	for i, name := range names {
		if g.oneIn(2) {
			bits, mask = append(bits, name), mask|1<<i
			if g.oneIn(2) {
				set, value = append(set, name), value|1<<i
			}
		}
	}
	if len(bits) == 0 {
		return nftMask{words: "ack/ack", value: "0x10", bits: "0x10"}
	}
	if len(set) == 0 {
		set = []string{"none"}
	}
	return nftMask{strings.Join(set, "+") + "/" + strings.Join(bits, "+"), fmt.Sprintf("%#x", value), fmt.Sprintf("%#x", mask)}
}

// nftMAC is an address that frames have, or its first bits.
func (g generator) nftMAC() nftMask {
	mac := pick(g, g.mac(), g.mac(), "02:00:00:00:00:01", "02:00:00:00:00:02")
	bits := pick(g, 48, 48, 44, 40, 24, 1)
	address, err := net.ParseMAC(mac)
	if err != nil {
		panic(err)
	}
	mask := make(net.HardwareAddr, 6)
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	for i := range address {
		address[i] &= mask[i]
	}
	return nftMask{fmt.Sprintf("%s/%d", address, bits), address.String(), mask.String()}
}
