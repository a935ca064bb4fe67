package model

import (
	"net/netip"
	"time"
)

// Position is where a value stands in a configuration file. The zero value means "not from a file".
type Position struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`   // from 1
	Column int    `json:"column,omitempty"` // from 1, in bytes
}

// Snapshot is everything wanted. A revision is a snapshot that was applied.
type Snapshot struct {
	Interfaces []Interface
	Sets       []Set
	Filter     Filter
	Services   []Service
	NAT        NATTable
	Flows      Flows
	API        API
}

// Path is where received packets of an interface are handled.
type Path string

const (
	PathAuto       Path = "auto" // XDP where it is safe, else tc; status says which and why
	PathXDP        Path = "xdp"
	PathXDPGeneric Path = "xdp-generic"
	PathTC         Path = "tc"
)

type Interface struct {
	Name   string
	Path   Path
	Egress bool   // also attach at tc egress: flows that the box itself sends
	Copies string // a rule that mirrors what comes in here, which XDP can't; "": none
	Tags   string // a rule that matches on vlan, for which the tag must be seen; "": none
	Pos    Position
}

// Set is a named group of things of one kind: only the member of that kind is in use.
type Set struct {
	Name      string
	Kind      SetKind
	File      string         // absolute or relative to the configuration; "" when inline
	Format    SetFormat      // of the file
	MaxShrink int            // percent that the file may lose of its entries at once; 100: all
	Read      Stamp          // the file as it was when it was read
	Prefixes  []netip.Prefix // masked; may hold duplicates and nested prefixes
	Ports     []Range
	Pairs     []netip.AddrPort
	Pos       Position
}

// SetKind is what a set holds.
type SetKind uint8

const (
	Addresses SetKind = iota // prefixes and addresses of both families
	Ports                    // ports and ranges of ports
	Pairs                    // an address and a port together
)

// SetFormat is how a set file is written.
type SetFormat string

const (
	FormatAuto      SetFormat = "auto" // by its first entry
	FormatPlain     SetFormat = "plain"
	FormatCSV       SetFormat = "csv"
	FormatJSONLines SetFormat = "jsonl"
)

// Stamp tells whether a file may have changed.
type Stamp struct {
	Inode, Size uint64
	Modified    int64 // ns since 1970
}

// Range is lo to hi, both included.
type Range struct{ Lo, Hi uint32 }

// Action is what a rule or the default does. A rule with none, or with Mirror, decides nothing: the next rule is asked.
type Action string

const (
	Pass     Action = "pass"
	Drop     Action = "drop"
	Reject   Action = "reject"   // drop and tell the sender: Rule.Reject says how
	Redirect Action = "redirect" // send out of Rule.Interface, as it is
	Mirror   Action = "mirror"   // send a copy out of Rule.Interface
)

type Filter struct {
	Default Action // Pass when empty
	Allow   string // name of an address set whose sources win over every block and rule; "" = none
	Rules   []Rule // first match decides
	Pos     Position
}

type Rule struct {
	Name      string // unique; counters follow it
	Match     []Condition
	Direction Direction  // In when empty
	Action    Action     // empty: counts, and does what the fields below say
	Reject    RejectCode // with Reject: what the sender is told; empty: what suits the packet
	Interface string     // with Redirect, Mirror
	Shadow    bool       // decides nothing, counts what it would have done
	Log       uint32     // one of so many packets becomes an event; 0: none
	Sample    uint32     // likewise
	Limit     *Limit     // nil: none. Else the rule concerns only what is over the limit; the rest goes on to the next rule
	Pos       Position
}

// Direction says which packets a rule judges.
type Direction string

const (
	In  Direction = "in"  // received
	Out Direction = "out" // sent by the kernel: by this machine itself, or routed
)

// RejectCode is an answer to a packet that is refused: a row of rule.Rejects.
type RejectCode string

const (
	RejectDefault RejectCode = "" // to TCP a reset, else port unreachable
	RejectReset   RejectCode = "tcp-reset"
	RejectPort    RejectCode = "port-unreachable"
	RejectHost    RejectCode = "host-unreachable"
	RejectNet     RejectCode = "net-unreachable"
	RejectAdmin   RejectCode = "admin-prohibited"
)

// Limit is a token bucket, or one for each value of what Per names.
type Limit struct {
	Rate  uint64 // packets, or bytes of IP, in a period of Every; > 0
	Every time.Duration
	Bytes bool
	Burst uint64 // that may come at once; > 0
	Per   Per
	Pos   Position
}

// Per says what has a bucket of its own.
type Per struct {
	What PerWhat
	Bits [2]int // PerSource, PerDest: leading bits of an IPv4 and of an IPv6 address that are looked at
}

type PerWhat string

const (
	PerAll     PerWhat = "all"     // one bucket for all rules that say so with the same rate and burst
	PerRule    PerWhat = "rule"    // one bucket
	PerSource  PerWhat = "src"     // source address or prefix
	PerDest    PerWhat = "dst"     // destination address or prefix
	PerService PerWhat = "service" // service; what is for none shares a bucket
	PerFlow    PerWhat = "flow"    // addresses, protocol, ports
)

// Field names what a condition looks at: a row of rule.Fields ("src", "dport", ...).
type Field string

// Condition is one key of `match`. Conditions of a rule are ANDed, the values of one are ORed, Not negates it. A
// packet without the field never matches, negated or not. Exactly one of Prefixes, Ranges, Masks, Names, Set is in use.
type Condition struct {
	Field    Field
	Not      bool
	Prefixes []netip.Prefix // address fields; both families may be mixed
	Ranges   []Range        // number fields; a single value has Lo == Hi
	Masks    []Mask         // flags and MAC addresses
	Names    []string       // of interfaces or services
	Set      string         // name of a set of the field's kind
	Pos      Position
}

// Mask is what of a value must be what: value & Bits == Value. A MAC address has its first byte in bits 40 to 47.
type Mask struct{ Value, Bits uint64 }

// Mode is how packets reach a backend: a row of lb.Modes ("dsr", "ipip", "gue", "nat").
type Mode string

type Service struct {
	Name     string
	Address  netip.Addr   // of a prefix the first one that a host may have: what health checks ask
	Prefix   netip.Prefix // all its addresses, when there are several; zero: Address alone
	Port     Range        // 0-65535 for any
	Proto    uint8        // IP protocol number; ProtoTCP, ProtoUDP, ProtoSCTP or ProtoAny
	Forward  Mode
	Affinity Affinity
	ARP      bool // answer ARP and neighbour solicitations for its addresses
	NAT      NAT
	QUIC     *QUIC // nil: connection IDs say nothing
	Backends []Backend
	Health   *Health // nil: backends are always up

	Ring      int           // slots of the table that flows choose by, a prime
	OnDown    OnDown        // what becomes of the flows of a backend that is down
	SlowStart time.Duration // how long a backend that comes up takes to get its whole share of new flows; 0: none

	Pos Position
}

// NAT is what the packets of a service with mode nat come from on their way to backends.
type NAT struct {
	Pool  []netip.Addr // of the service's family; empty: the address of the way to the backend
	Ports Range
	Pos   Position
}

// NATTable is the table of translations, which all services share.
type NATTable struct {
	Max int // translations at once
	Pos Position
}

// OnDown is what becomes of TCP flows whose backend is down. Others move.
type OnDown string

const (
	DownMove  OnDown = "move"  // to another backend
	DownDrop  OnDown = "drop"  // their packets, until the connection begins anew
	DownReset OnDown = "reset" // likewise, and the client is sent a reset
)

const (
	ProtoTCP  = 6
	ProtoUDP  = 17
	ProtoSCTP = 132
	ProtoAny  = 255 // every protocol but ICMP; no packet has this number
)

// AnyPort is every port.
var AnyPort = Range{Lo: 0, Hi: 65535}

// Addresses are those of the service: a prefix, if only of one.
func (s *Service) Addresses() netip.Prefix {
	if s.Prefix.IsValid() {
		return s.Prefix
	}
	return netip.PrefixFrom(s.Address, s.Address.BitLen())
}

// Ports says how many ports the service has: of two that would take a packet, the one with fewer does.
func (s *Service) Ports() PortCount {
	switch s.Port {
	case AnyPort:
		return AllPorts
	case Range{s.Port.Lo, s.Port.Lo}:
		return OnePort
	}
	return SomePorts
}

// PortCount is how narrowly ports are named.
type PortCount int

const (
	OnePort PortCount = iota
	SomePorts
	AllPorts
)

// AddressText is the service's address as people write it: an address or a prefix.
func (s *Service) AddressText() string {
	if s.Prefix.IsValid() {
		return s.Prefix.String()
	}
	return s.Address.String()
}

// QUIC says where the connection IDs of a service's servers have the ID of the server that made them.
type QUIC struct {
	Format QUICFormat
	Config int // of quic-lb: the first three bits of a connection ID, 0 to 6
	Length int // bytes of a server ID
	Pos    Position
}

// QUICFormat is who laid down what connection IDs look like.
type QUICFormat string

const (
	QUICLB   QUICFormat = "quic-lb"   // draft-ietf-quic-load-balancers, plaintext
	KatranV2 QUICFormat = "katran-v2" // server IDs of 3 bytes
	KatranV3 QUICFormat = "katran-v3" // of 4
)

// ServerID is the server ID of a backend: what was said, or the end of its address, with zeros before one that is too short.
func (q *QUIC) ServerID(b *Backend) []byte {
	if b.ServerID != "" {
		return []byte(b.ServerID)
	}
	address := b.Address.AsSlice()
	return append(make([]byte, max(0, q.Length-len(address))), address[max(0, len(address)-q.Length):]...)
}

type Affinity string

const (
	AffinityFlow   Affinity = "flow"   // 5-tuple
	AffinitySource Affinity = "source" // source address
)

type Backend struct {
	Name     string
	Address  netip.Addr
	Port     uint16 // mode nat: where it listens; 0: at the port that the client asked for
	Weight   int    // 0 to 65535; 0 gets no new flows. 100 when not given
	Backup   bool   // gets new flows only while no other backend does
	ServerID string // bytes that its QUIC connection IDs carry; "": as QUIC.ServerID has it
	Pos      Position
}

// Health checks the backends of a service. Exactly one of TCP, HTTP, HTTPS, UDP, DNS and ICMP is set.
type Health struct {
	TCP         bool
	HTTP, HTTPS string // request path
	UDP         string // what is sent; anything that comes back is well
	DNS         string // name to ask for, over UDP
	ICMP        bool

	Status  Range  // of HTTP answers that are well
	Body    string // what an HTTP answer holds; "": anything
	Host    string // of HTTP requests; "": the service's address
	TLSName string // whose certificate the backend has to show, also SNI; "": any certificate will do

	Via     Via    // "": the service's address where the mode can do that
	Port    uint16 // 0: the service's port
	Every   time.Duration
	Timeout time.Duration
	Up      int // successes in a row before a backend is up
	Down    int // failures in a row before it is down
	Pos     Position
}

// Via is the way of a health check.
type Via string

const (
	ViaService Via = "service" // to the service's address, and to the backend as packets of clients
	ViaBackend Via = "backend" // to the backend's own address
)

// Flows is the flow table's size and time-outs.
type Flows struct {
	Enabled bool          // `flows:` is present, or a service needs it
	Max     int           // flows expected; the table has room for twice as many records
	Idle    time.Duration // a flow not seen for so long has ended
	Active  time.Duration // a longer flow is reported at least so often
	Sample  int           // one packet of so many is counted; 0 and 1: every one
	Dropped int           // flows remembered of which packets were dropped; 0: none
	Export  []Export
	History History
	Pos     Position
}

// Export is where reports of flows go. Exactly one of IPFIX, File and Kafka is set, and what belongs to it.
type Export struct {
	IPFIX     string // host and port of a collector
	Transport Transport
	Refresh   time.Duration // with UDP: how often templates are sent again
	Domain    uint32        // observation domain

	File   string // absolute or relative to the configuration
	Format LineFormat
	Rotate Rotate

	Kafka []string // hosts and ports of brokers
	Topic string
	TLS   TLS   // to the brokers
	Login Login // likewise

	Pos Position
}

// TLS is how the other side is trusted, and what is shown to it. Files are absolute or relative to the configuration.
type TLS struct {
	On        bool
	CA        string // file of the authorities that are trusted; empty: those that this machine trusts
	Cert, Key string // files of a certificate of our own; empty: none
	Name      string // that the certificate of the other side is for; empty: the host as written
}

// Login is by SASL.
type Login struct {
	Mechanism    Mechanism // empty: none
	User         string
	PasswordFile string // absolute or relative to the configuration
}

// Mechanism is one of SASL.
type Mechanism string

const (
	Plain       Mechanism = "plain"
	ScramSHA256 Mechanism = "scram-sha-256"
	ScramSHA512 Mechanism = "scram-sha-512"
)

// Transport carries IPFIX messages.
type Transport string

const (
	UDP Transport = "udp"
	TCP Transport = "tcp"
)

// LineFormat is how a report is written as a line.
type LineFormat string

const (
	NDJSON LineFormat = "ndjson"
	CSV    LineFormat = "csv"
)

// Rotate says when a file is put aside and a new one begun, and how many are kept.
type Rotate struct {
	Size uint64 // bytes
	Age  time.Duration
	Keep int // files put aside
}

// History says what is kept of flows of the past.
type History struct {
	Enabled bool
	Dir     string // empty: where the daemon keeps its state
	Keep    Keep
	MaxSize uint64 // of all its files, in bytes
	Top     int    // sources, destinations, ... of an interval that are kept by themselves
	Pos     Position
}

// Keep is how long it is kept what flows did, by the length of intervals.
type Keep struct {
	Minutes, Fives, Hours time.Duration // 1m, 5m, 1h
	Pos                   Position
}

type API struct {
	Socket string
	Listen netip.AddrPort // a loopback address, or with TLS any; the zero value: nothing is served by TCP
	Pos    Position       // of listen, if there is one
	TLS    Certificate

	Anonymous Anonymous
}

// Certificate is one that gardu shows to who connects.
type Certificate struct {
	Cert, Key string // files; empty: none
	Pos       Position
}

// Anonymous says what may be asked by TCP without a token.
type Anonymous string

const (
	AnonymousRead Anonymous = "read" // what is counted
	AnonymousNone Anonymous = "none"
)

// Service returns the service of that name.
func (s *Snapshot) Service(name string) (*Service, bool) {
	for i := range s.Services {
		if s.Services[i].Name == name {
			return &s.Services[i], true
		}
	}
	return nil, false
}

// Set returns the set of that name.
func (s *Snapshot) Set(name string) (*Set, bool) {
	for i := range s.Sets {
		if s.Sets[i].Name == name {
			return &s.Sets[i], true
		}
	}
	return nil, false
}
