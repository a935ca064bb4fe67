package explain

// Counter counts packets and their frame lengths.
type Counter struct {
	Packets, Bytes uint64
	Flows          uint64 // backends: flows that were assigned
}

// Counters are totals by what they count: "reason rule-drop", "rule ssh", "default", "allow", "block",
// "backend web/b1", "backend none"; "named web/b1" are packets whose QUIC connection ID named it. Of the packets that a rule matched, "rule ssh undecided" are those that went on to the next
// rule, and "rule ssh shadow" those whose verdict it would have decided. "redirect eth1" and
// "mirror eth1" are packets that rules sent there, and copies that they asked for. What never happened is absent.
type Counters map[string]Counter

// Add adds to one of them.
func (c *Counters) Add(name string, add Counter) {
	if add == (Counter{}) {
		return
	}
	if *c == nil {
		*c = Counters{}
	}
	sum := (*c)[name]
	sum.Packets += add.Packets
	sum.Bytes += add.Bytes
	sum.Flows += add.Flows
	(*c)[name] = sum
}

// packet counts one.
func (c *Counters) packet(name string, frame []byte) {
	c.Add(name, Counter{Packets: 1, Bytes: uint64(len(frame))})
}
