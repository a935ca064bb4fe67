package api

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"gardu/ctl/model"
)

// Duration travels as a number of seconds.
type Duration time.Duration

// MarshalJSON writes seconds, with a fraction only when there is one.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(d).Seconds())
}

// UnmarshalJSON reads seconds. What doesn't fit in a time.Duration (292 years) is an error.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var seconds float64
	if err := json.Unmarshal(data, &seconds); err != nil {
		return err
	}
	if math.Abs(seconds) > math.MaxInt64/float64(time.Second) {
		return fmt.Errorf("%v seconds is too long", seconds)
	}
	*d = Duration(seconds * float64(time.Second))
	return nil
}

// Counter counts wire packets and bytes. Bytes are frame lengths, unless a field says IP bytes.
type Counter struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Status is the state of the whole: where gardu is attached, what became of the packets, what is full or lost.
type Status struct {
	Version    string                   `json:"version"`
	Revision   uint64                   `json:"revision"`   // of the applied snapshot; 0: none yet
	Generation uint32                   `json:"generation"` // of the tables in force; grows with re-read set files too
	Config     string                   `json:"config,omitempty"`
	Applied    time.Time                `json:"applied,omitzero"`
	Waiting    *Waiting                 `json:"waiting,omitempty"` // absent: what is in force stays
	Started    time.Time                `json:"started"`           // of this daemon; the data plane may be older
	Uptime     Duration                 `json:"uptime"`
	Interfaces []Interface              `json:"interfaces"`
	Exits      []Exit                   `json:"exits,omitempty"`  // interfaces that rules redirect or mirror to
	Losses     []Loss                   `json:"losses,omitempty"` // after XDP sent packets
	Reasons    map[string]ReasonCounter `json:"reasons"`          // only those that were counted
	Filter     FilterTotals             `json:"filter"`
	Dropped    *DroppedTotals           `json:"dropped,omitempty"`
	Flows      FlowTotals               `json:"flows"`
	Sinks      []Sink                   `json:"sinks,omitempty"`   // what reports of flows go to
	History    *HistoryStatus           `json:"history,omitempty"` // absent: none is kept
	States     *StateTotals             `json:"states,omitempty"`
	Events     EventTotals              `json:"events"`
	Overruns   uint64                   `json:"overruns"` // times that the network changed too fast; all of it was read again
	Captures   CaptureStatus            `json:"captures"`
	Limits     LimitTotals              `json:"limits"`
	Tables     []Fill                   `json:"tables"`
	Privileges *Privileges              `json:"privileges,omitempty"`
	Warnings   []string                 `json:"warnings,omitempty"` // degraded, lost, refused: one sentence each
}

// Privileges are what the daemon may do, as the kernel sees it.
type Privileges struct {
	Capabilities    []string `json:"capabilities"`           // of any of its threads, without CAP_
	NoNewPrivileges bool     `json:"no_new_privileges"`      // it gets no others by running programs
	Filtered        bool     `json:"system_calls_filtered"`  // those that it never makes are refused
	Writable        []string `json:"writable,omitempty"`     // directories; nothing else is writable, and no program can be run
	Unrestricted    string   `json:"unrestricted,omitempty"` // why it may write to all files
}

// Interface is one interface of the snapshot and how gardu is attached to it.
type Interface struct {
	Name     string     `json:"name"`
	Ifindex  int        `json:"ifindex,omitempty"` // absent while the interface doesn't exist
	Path     model.Path `json:"path,omitempty"`    // in force; absent while not attached
	Want     model.Path `json:"want"`              // as configured
	Why      string     `json:"why,omitempty"`     // why this path
	Egress   bool       `json:"egress"`            // attached at tc egress too
	Attached bool       `json:"attached"`
	Error    string     `json:"error,omitempty"` // why it is not attached
	*Traffic            // absent when nobody asked
}

// Traffic is what passed by an interface since gardu was put there first. A bundle counts as the packets that it is on the wire; bytes
// are lengths of frames, without a VLAN tag that the kernel keeps beside the frame.
type Traffic struct {
	Received    Counter `json:"received"`
	Dropped     Counter `json:"dropped"`      // or rejected, of those received
	Sent        Counter `json:"sent"`         // by gardu itself; where Egress says so, by the kernel as well
	SentDropped Counter `json:"sent_dropped"` // that the kernel was to send, and rules with direction out dropped
}

// Exit is an interface that rules redirect or mirror to. Packets are wire packets.
type Exit struct {
	Name       string `json:"name"`
	Ifindex    int    `json:"ifindex,omitempty"` // absent while nothing can leave by it
	Redirected uint64 `json:"redirected"`        // packets
	Mirrored   uint64 `json:"mirrored"`          // packets of which a copy was sent
	Failed     uint64 `json:"failed"`            // copies that could not be made
	Error      string `json:"error,omitempty"`   // why nothing can leave by it
}

// Loss is packets that the kernel lost after XDP sent them out of an interface: they left with the reason for which they were sent.
type Loss struct {
	Interface string `json:"interface"`
	Packets   uint64 `json:"packets"` // frames
	Why       string `json:"why"`
}

// Sink is something that reports of flows go to: an exporter, the history. Packets and bytes are those that the reports are of.
type Sink struct {
	Name        string `json:"name"`
	Reports     uint64 `json:"reports"` // taken
	Packets     uint64 `json:"packets"`
	Bytes       uint64 `json:"bytes"`
	Waiting     uint64 `json:"waiting"` // reports in its queue
	LostReports uint64 `json:"lost_reports"`
	LostPackets uint64 `json:"lost_packets"`
	LostBytes   uint64 `json:"lost_bytes"`
	Error       string `json:"error,omitempty"` // what is wrong with it at the moment
}

// ReportTotals are packets, since the flow table was made. Packets + Pending + Missed = Accounted of FlowTotals, exactly once every
// flow has been looked at again.
type ReportTotals struct {
	Reports uint64 `json:"reports"` // of flows
	Packets uint64 `json:"packets"` // that they are of
	Bytes   uint64 `json:"bytes"`
	Pending uint64 `json:"pending"` // not reported yet
	Missed  uint64 `json:"missed"`  // found no place in the flow table, or lost it before they were reported
	NoRoom  uint64 `json:"no_room"` // flows that can't be reported
}

// ReasonCounter counts the packets that left with one reason.
type ReasonCounter struct {
	Counter
	Verdict string `json:"verdict"` // pass, drop, reject, redirect, forward
}

// FilterTotals are packets. Allowed + Blocked + Health + Decided + Default = Reached, exactly.
type FilterTotals struct {
	Reached uint64 `json:"reached"`
	Allowed uint64 `json:"allowed"` // by filter.allow
	Blocked uint64 `json:"blocked"` // by a block
	Health  uint64 `json:"health"`  // answers to gardu's own health checks
	Decided uint64 `json:"decided"` // by a rule
	Default uint64 `json:"default"` // by filter.default
}

// FlowTotals is the state of the flow table. Packets in records + Unattributed = Accounted, exactly; losses of
// the LRU map behind the table, which the kernel doesn't report, excepted.
type FlowTotals struct {
	Sample            int    `json:"sample,omitempty"` // one packet of so many counts in all of these, and in flows; absent: every one
	Entries           uint64 `json:"entries"`          // records in use, each direction and CPU one
	Max               uint64 `json:"max"`              // records that fit
	Spilled           uint64 `json:"spilled"`          // entries in the LRU map behind the table
	Created           uint64 `json:"created"`
	Evicted           uint64 `json:"evicted"`            // one-packet records that gave way, packets
	Refused           uint64 `json:"refused"`            // packets that found no room
	Attributed        uint64 `json:"attributed"`         // packets of the records, those behind the table too
	Unattributed      uint64 `json:"unattributed"`       // packets without a record: evicted + refused
	UnattributedBytes uint64 `json:"unattributed_bytes"` // IP bytes
	Accounted         uint64 `json:"accounted"`          // packets that reached flow accounting
	AccountedBytes    uint64 `json:"accounted_bytes"`    // IP bytes

	Reports *ReportTotals `json:"reports,omitempty"` // absent while they go nowhere
}

// DroppedTotals are packets that were dropped or rejected, and the table that remembers their flows; absent when none are. Attributed +
// Unattributed = Packets, exactly. It is no lack that the table is full: what was dropped least gives way.
type DroppedTotals struct {
	Sample            int    `json:"sample,omitempty"` // as of FlowTotals
	Entries           uint64 `json:"entries"`          // records in use, each direction and CPU one
	Max               uint64 `json:"max"`              // records that fit
	Packets           uint64 `json:"packets"`
	Bytes             uint64 `json:"bytes"`              // IP bytes
	Attributed        uint64 `json:"attributed"`         // packets of the records
	Unattributed      uint64 `json:"unattributed"`       // packets of records that gave way, and of what is no flow's
	UnattributedBytes uint64 `json:"unattributed_bytes"` // IP bytes
}

// StateTotals is the table of connections behind the field state; absent while no rule matches on it.
type StateTotals struct {
	Entries uint64 `json:"entries"` // connections known
	Max     uint64 `json:"max"`
	Created uint64 `json:"created"`
	Evicted uint64 `json:"evicted"` // that gave way to a new one, none of them confirmed
	Refused uint64 `json:"refused"` // packets whose connection found no room: their answers count as new
}

// FlowsFill is the name of the flow table's, whose entries are records of flows that were seen within flows.idle.
const FlowsFill = "flows"

// FlowTable is how full the flow table is; false: there is none, for flows aren't counted.
func (s *Status) FlowTable() (Fill, bool) {
	i := slices.IndexFunc(s.Tables, func(f Fill) bool { return f.Name == FlowsFill })
	if i < 0 {
		return Fill{}, false
	}
	return s.Tables[i], true
}

// Fill is how full one table is.
type Fill struct {
	Name    string `json:"name"`
	Entries uint64 `json:"entries"`
	Max     uint64 `json:"max"`
}

// Ratio returns the part in use, 0 to 1.
func (f Fill) Ratio() float64 {
	if f.Max == 0 {
		return 0
	}
	return float64(f.Entries) / float64(f.Max)
}

// Rule is one rule and its counters.
type Rule struct {
	Name   string       `json:"name"`
	Match  string       `json:"match"` // as rule.FormatCondition writes it, joined by commas; empty matches everything
	Action model.Action `json:"action"`
	To     string       `json:"to,omitempty"` // reject: what is answered; redirect, mirror: the interface

	Direction  model.Direction `json:"direction"`             // in: received packets; out: sent ones
	ShadowRule bool            `json:"shadow_rule,omitempty"` // decides nothing
	Limit      *Limit          `json:"limit,omitempty"`       // concerns only what is over it
	Log        uint32          `json:"log,omitempty"`         // one of so many packets becomes an event
	Sample     uint32          `json:"sample,omitempty"`      // likewise

	Packets uint64         `json:"packets"` // matched
	Bytes   uint64         `json:"bytes"`   // matched
	Decided uint64         `json:"decided"` // packets whose verdict it decided
	Shadow  uint64         `json:"shadow"`  // packets that it would have decided, were it not a shadow
	Pos     model.Position `json:"position,omitzero"`
}

// Limit is one as a configuration has it.
type Limit struct {
	Rate  string `json:"rate"`
	Burst string `json:"burst"`
	Per   string `json:"per"`
}

// Set is one named set. Wanted and Kernel count entries after duplicates, nested and adjacent ones are merged: the fewest
// prefixes that hold the same addresses, the single ports, or the pairs. Wanted is counted from the entries, Kernel from what is read
// back of the table in the kernel. They are equal, or Difference says why.
type Set struct {
	Name       string    `json:"name"`
	Kind       string    `json:"kind"`    // addresses, ports, pairs
	Entries    int       `json:"entries"` // prefixes or port ranges as written
	Wanted     int       `json:"wanted"`
	Kernel     int       `json:"kernel"`
	Difference string    `json:"difference,omitempty"` // why Kernel isn't Wanted
	State      string    `json:"state"`                // ok; kept: its file was not taken, see Error; unused: no rule asks for it
	File       string    `json:"file,omitempty"`       // absent: inline
	Loaded     time.Time `json:"loaded,omitzero"`      // when what is in force was read
	Age        Duration  `json:"age"`                  // since then
	Error      string    `json:"error,omitempty"`      // why the file was not taken; the entries before it are in force
	Packets    uint64    `json:"packets"`              // hits: matched by a rule for being in the set, or passed by filter.allow
	Bytes      uint64    `json:"bytes"`
}

// Service is one balanced service and the sums of its backends.
type Service struct {
	Name       string         `json:"name"`
	Address    string         `json:"address"` // or a prefix
	Port       string         `json:"port"`    // 443, 8000-8099, any
	Proto      string         `json:"proto"`   // tcp, udp, sctp, any
	Forward    model.Mode     `json:"forward"`
	Affinity   model.Affinity `json:"affinity"`
	Backends   int            `json:"backends"`
	BackendsUp int            `json:"backends_up"`
	Packets    uint64         `json:"packets"`
	Bytes      uint64         `json:"bytes"`
	Flows      uint64         `json:"flows"`  // ever assigned to a backend
	Active     uint64         `json:"active"` // flows that are on a backend and haven't ended
	Rates      Rates          `json:"rates"`
}

// Rates are what counters grow by a second, on average over the last five to ten; 0 in a daemon's first moments.
type Rates struct {
	Packets float64 `json:"packets"`
	Bytes   float64 `json:"bytes"`
	Flows   float64 `json:"flows"` // new ones
}

// Backend is one backend of one service. A server behind two services is two backends.
type Backend struct {
	Service    string     `json:"service"`
	Name       string     `json:"name"`
	Address    netip.Addr `json:"address"`
	Weight     int        `json:"weight"`               // in force
	Configured int        `json:"configured_weight"`    // what Weight is unless another one was ordered
	State      string     `json:"state"`                // up, down, checking (not known yet), draining, drained (its time is over)
	Why        string     `json:"why,omitempty"`        // what the last health check said
	Since      time.Time  `json:"since,omitzero"`       // of the state
	Until      time.Time  `json:"drain_until,omitzero"` // draining: when the flows that are left go elsewhere; absent: never
	NextHop    string     `json:"next_hop,omitempty"`   // "eth1 02:00:00:00:00:01"; absent while not resolved
	Packets    uint64     `json:"packets"`
	Bytes      uint64     `json:"bytes"`
	Flows      uint64     `json:"flows"`  // ever assigned to it
	Active     uint64     `json:"active"` // flows that are on it and haven't ended
	Rates      Rates      `json:"rates"`
	QUIC       uint64     `json:"quic_packets,omitempty"` // packets whose QUIC connection ID named it
}

// States of a backend beside those of its health check.
const (
	StateUp       = "up"
	StateDown     = "down"
	StateDraining = "draining"
	StateDrained  = "drained"
)

// TakesNew says whether new flows may go there.
func (b *Backend) TakesNew() bool {
	switch b.State {
	case StateDown, StateDraining, StateDrained:
		return false
	}
	return b.Weight > 0
}

// DrainRequest asks that new flows go elsewhere. The server has checked that the time isn't negative.
type DrainRequest struct {
	Service string   `json:"service"`
	Backend string   `json:"backend"`
	Timeout Duration `json:"timeout,omitempty"` // then the flows that are left go elsewhere; 0: never
}

// WeightRequest gives a backend another weight until the next request, 0 to 65535; nil: that of the configuration.
type WeightRequest struct {
	Service string `json:"service"`
	Backend string `json:"backend"`
	Weight  *int   `json:"weight"`
}

// Ordered is a backend after somebody wanted something of it.
type Ordered struct {
	Backend Backend `json:"backend"`
	Warning string  `json:"warning,omitempty"`
}

// Block drops everything from a prefix until it expires.
type Block struct {
	Prefix  netip.Prefix `json:"prefix"`
	Created time.Time    `json:"created"`
	Expires time.Time    `json:"expires,omitzero"` // absent: never
	Packets uint64       `json:"packets"`
	Bytes   uint64       `json:"bytes"`
	Origin  string       `json:"origin"` // who added it: cli, api, ...
	Why     string       `json:"why,omitempty"`
}

// BlockRequest asks for one block.
type BlockRequest struct {
	Prefix netip.Prefix `json:"prefix"`
	For    Duration     `json:"for,omitempty"` // 0: until it is removed
	Why    string       `json:"why,omitempty"`
	Origin string       `json:"origin,omitempty"` // "api" when not given
}

// Unblocked is what became of a request to remove blocks.
type Unblocked struct {
	Removed []netip.Prefix `json:"removed"`
	Missing []netip.Prefix `json:"missing"` // were not blocked
}

// Flow is one flow, both directions joined: the first columns are those of the direction that opened it.
type Flow struct {
	Src            netip.Addr `json:"src"`
	Dst            netip.Addr `json:"dst"`
	Sport          uint16     `json:"sport"` // 0 where the protocol has none
	Dport          uint16     `json:"dport"`
	Proto          string     `json:"proto"` // tcp, udp, icmp, icmpv6, else the number
	Packets        uint64     `json:"packets"`
	Bytes          uint64     `json:"bytes"` // IP bytes
	PacketsReply   uint64     `json:"packets_reply"`
	BytesReply     uint64     `json:"bytes_reply"`
	Sample         int        `json:"sample,omitempty"` // one packet of so many was counted; absent: every one
	First          time.Time  `json:"first"`
	Last           time.Time  `json:"last"`
	Verdict        string     `json:"verdict"` // of the last packet: pass, drop, reject, redirect, forward
	Reason         string     `json:"reason"`
	Rule           string     `json:"rule"` // that decided; empty: none
	Service        string     `json:"service"`
	Backend        string     `json:"backend"`
	State          string     `json:"state"`         // new, established, closed
	End            string     `json:"end,omitempty"` // of TCP: fin, rst; empty: it goes on
	Flags          string     `json:"flags"`         // TCP flags of the opener, as letters: SA, SAF
	FlagsReply     string     `json:"flags_reply,omitempty"`
	Interface      string     `json:"interface"`                 // where the opener's packets came in, or left
	InterfaceReply string     `json:"interface_reply,omitempty"` // where the replies did
	Vlan           uint16     `json:"vlan,omitempty"`

	// TCP. Seconds from SYN to SYN+ACK, the way to the server and back, and from there to the ACK, the way to the client and back;
	// 0 where the handshake wasn't seen. Retransmits is an estimate: segments whose sequence numbers had been seen.
	ServerRTT        Duration `json:"server_rtt,omitempty"`
	ClientRTT        Duration `json:"client_rtt,omitempty"`
	Retransmits      uint32   `json:"retransmits,omitempty"`
	RetransmitsReply uint32   `json:"retransmits_reply,omitempty"`

	TTLMin      uint8 `json:"ttl_min"` // IPv6: hop limit
	TTLMax      uint8 `json:"ttl_max"`
	TTLMinReply uint8 `json:"ttl_min_reply,omitempty"`
	TTLMaxReply uint8 `json:"ttl_max_reply,omitempty"`
	DSCP        uint8 `json:"dscp,omitempty"` // of the first packet
	DSCPReply   uint8 `json:"dscp_reply,omitempty"`
}

// Event is something that happened: to a packet that a rule logged or sampled, or to gardu. Parts that don't apply are left out.
type Event struct {
	ID   string    `json:"id,omitempty"` // of those that are kept: others can be asked for that came after it
	Time time.Time `json:"time"`
	Kind string    `json:"kind"` // log, sample, shadow, drop; apply, block, unblock, expire, up, down, drain, drained, undrain, weight; token, interface, fault, mended; lost

	// Of packets.
	Verdict   string     `json:"verdict,omitempty"` // what became of it
	Reason    string     `json:"reason,omitempty"`
	Rule      string     `json:"rule,omitempty"`    // that noted it; drop: that decided
	Would     string     `json:"would,omitempty"`   // shadow: what the rule would have decided
	Decided   string     `json:"decided,omitempty"` // rule that decided
	Service   string     `json:"service,omitempty"`
	Backend   string     `json:"backend,omitempty"`
	Interface string     `json:"interface,omitempty"`
	Direction string     `json:"direction,omitempty"` // in: received, out: sent
	Src       netip.Addr `json:"src,omitzero"`
	Dst       netip.Addr `json:"dst,omitzero"`
	Sport     uint16     `json:"sport,omitempty"`
	Dport     uint16     `json:"dport,omitempty"`
	Proto     string     `json:"proto,omitempty"`
	Vlan      uint16     `json:"vlan,omitempty"`
	Length    int        `json:"length,omitempty"`  // of the frame, or of a bundle of several
	Packets   int        `json:"packets,omitempty"` // on the wire
	Packet    string     `json:"packet,omitempty"`  // as text, as it came
	Head      Hex        `json:"head,omitempty"`    // its first bytes

	Text  string `json:"text,omitempty"`  // what happened, where it was not a packet
	Count uint64 `json:"count,omitempty"` // lost: how many events; block, unblock: how many prefixes
}

// EventKinds are the values of Kind.
const (
	EventLog     = "log"
	EventSample  = "sample"
	EventShadow  = "shadow"
	EventDrop    = "drop"    // a dropped or rejected packet that no rule noted, told to who follows, and not kept
	EventApply   = "apply"   // a configuration is in force
	EventBlock   = "block"   // prefixes were blocked
	EventUnblock = "unblock" // by a request
	EventExpire  = "expire"  // a block's time is over
	EventUp      = "up"      // a backend
	EventDown    = "down"
	EventDrain   = "drain"   // a backend gets no new flows
	EventDrained = "drained" // its time is over, and the flows that were left go elsewhere
	EventUndrain = "undrain"
	EventWeight  = "weight" // a backend's weight is another one
	EventLost    = "lost"   // events that were not told

	EventToken     = "token"     // one was made or revoked
	EventLevel     = "level"     // the log's is another one
	EventInterface = "interface" // it went, came, or is called otherwise
	EventFault     = "fault"     // something fails that the daemon does by itself; status warns as long as it does
	EventMended    = "mended"    // it works again
)

// EventTotals say how many packets became events, and how many could not.
type EventTotals struct {
	Sent    uint64 `json:"sent"`
	Lost    uint64 `json:"lost"`    // because nobody took them out of the ring in time
	Unnoted uint64 `json:"unnoted"` // notes of further rules on a packet that four rules had noted

	Unwatched uint64 `json:"unwatched"` // dropped packets that weren't told to who followed events: more than 1000 in a second
}

// LimitTotals say how exact limits were, in packets.
type LimitTotals struct {
	Shared    uint64 `json:"shared"`    // took tokens of another bucket, for want of a free one
	Contended uint64 `json:"contended"` // found over a limit because all CPUs took tokens of one bucket at once
}

// ApplyRequest is a whole configuration.
type ApplyRequest struct {
	Name  string `json:"name"`            // of the file, for messages
	Dir   string `json:"dir,omitempty"`   // absolute; set files are relative to it
	YAML  string `json:"yaml"`            // its text
	Check bool   `json:"check,omitempty"` // only validate

	Comment string   `json:"comment,omitempty"`
	Confirm Duration `json:"confirm,omitempty"` // go back by itself unless confirmed within that time; 0: it stays

	// What SSH_CONNECTION says where the request comes from: when that would be cut off, it is refused (CodeCutOff).
	SSHConnection string `json:"ssh_connection,omitempty"`
	Force         bool   `json:"force,omitempty"` // it is not, but warned of

	// IfMatch, when not empty, is the Tag of what must be in force, or the request is refused (CodeStale). It travels as the header If-Match.
	IfMatch string `json:"-"`
}

// ApplyResult says what is in force now, or with Check would be.
type ApplyResult struct {
	Revision uint64    `json:"revision"`
	Tag      string    `json:"tag,omitempty"` // of what is in force now, for IfMatch
	Changed  bool      `json:"changed"`       // false: the same snapshot was in force already
	Warnings []Warning `json:"warnings,omitempty"`
	Rules    int       `json:"rules"`
	Sets     int       `json:"sets"`
	Services int       `json:"services"`
	Waiting  *Waiting  `json:"waiting,omitempty"` // for confirmation
	Changes  []string  `json:"changes,omitempty"` // what is another thing than before, in a few lines for people
}

// ExplainRequest asks what would become of one frame that arrives on an interface, or leaves by it.
type ExplainRequest struct {
	Packet    string `json:"packet,omitempty"`    // as text; either this or Frame
	Frame     Hex    `json:"frame,omitempty"`     // from the Ethernet header on
	Interface string `json:"interface,omitempty"` // default: the first of the snapshot

	Out       bool      `json:"out,omitempty"`         // the kernel sends it, it wasn't received
	AsNewFlow bool      `json:"as_new_flow,omitempty"` // nothing is known of connections and translations
	WithFlow  bool      `json:"with_flow,omitempty"`   // both sides have opened its flow
	Backend   string    `json:"backend,omitempty"`     // the flow is on that one; with WithFlow
	At        time.Time `json:"at,omitzero"`           // it comes at that time, not before now
}

// Explanation is the way of one packet. Parts that don't apply are left out.
type Explanation struct {
	Verdict   string     `json:"verdict,omitempty"` // pass, drop, reject, redirect, forward; "", like the reason: not judged
	Reason    string     `json:"reason,omitempty"`
	Help      string     `json:"help,omitempty"` // what the reason means
	Rule      string     `json:"rule,omitempty"` // that decided
	Service   string     `json:"service,omitempty"`
	Backend   string     `json:"backend,omitempty"`
	Interface string     `json:"interface,omitempty"` // that received it, or was to send it
	Flow      *KnownFlow `json:"flow,omitempty"`      // what was known of its flow before
	Steps     []Step     `json:"steps"`

	Rules        []TriedRule `json:"rules,omitempty"`       // that were asked, up to the one that decided: those that came nearest to matching
	OtherRules   int         `json:"other_rules,omitempty"` // asked as well
	Block        *Block      `json:"block,omitempty"`       // that covers the source
	Allow        *SetEntry   `json:"allow,omitempty"`       // by which the source is allowed
	Ring         *RingSlot   `json:"ring,omitempty"`        // where the service's ring was asked for a backend; absent: it wasn't
	Cost         *PacketCost `json:"cost,omitempty"`
	Disagreement string      `json:"disagreement,omitempty"` // between the programs and the reference model, which is a fault of gardu

	Out []OutFrame `json:"out,omitempty"` // what gardu sends
}

// TriedRule is how a rule fared with an explained packet.
type TriedRule struct {
	Rule    string         `json:"rule"`
	Pos     model.Position `json:"position,omitzero"`
	Matched bool           `json:"matched"`
	Why     string         `json:"why,omitempty"` // the first condition that doesn't hold; of one that matches: by which entry of a set, and why it went on
	Entries []SetEntry     `json:"entries,omitempty"`
}

// SetEntry is the entry of a set that a packet is found by.
type SetEntry struct {
	Field  string `json:"field"`
	Set    string `json:"set"`
	Entry  string `json:"entry"`
	File   string `json:"file,omitempty"`    // that the set is read from
	Line   int    `json:"line,omitempty"`    // of the file
	NoLine string `json:"no_line,omitempty"` // why that can't be told: the file has changed since it was read
}

// PacketCost is what a packet takes in the program, without trace and beside the live one.
type PacketCost struct {
	Ns    float64 `json:"ns"`    // more than an empty program
	Empty float64 `json:"empty"` // what such a one takes, in ns
	Runs  int     `json:"runs"`
	How   string  `json:"how,omitempty"` // it was measured, in words; why it wasn't, when there are no runs
}

// RingSlot is a place in the ring of a service, from 0.
type RingSlot struct {
	Slot  int `json:"slot"`
	Slots int `json:"slots"`
}

// KnownFlow is what the data plane knows of the flow of an explained packet, in the packet's direction.
type KnownFlow struct {
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Packets uint64    `json:"packets"`
	Bytes   uint64    `json:"bytes"`
	State   string    `json:"state"` // new, established, closed
	Verdict string    `json:"verdict"`
	Rule    string    `json:"rule,omitempty"`
	Service string    `json:"service,omitempty"`
	Backend string    `json:"backend,omitempty"` // that it is on
}

// Step is one step of the packet path and what came of it.
type Step struct {
	Step   string `json:"step"` // parse, flow, allow, block, limit, rule, default, service, backend, next-hop, leave
	Result string `json:"result"`
}

// OutFrame is a frame as it leaves.
type OutFrame struct {
	Interface string `json:"interface"`
	Hex       Hex    `json:"hex"`
	Text      string `json:"text"` // decoded, for people
}
