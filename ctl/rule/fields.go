package rule

import (
	"slices"

	"gardu/ctl/model"
)

// Kind is the kind of values that a field takes.
type Kind uint8

const (
	Address Kind = iota // prefixes and addresses of both families: Condition.Prefixes
	Number              // numbers from 0 to Max: Condition.Ranges
	Flags               // bits with names, some of which must be set and some not: Condition.Masks
	MAC                 // Ethernet addresses and prefixes of them: Condition.Masks
	Thing               // names of what the configuration defines elsewhere: Condition.Names
)

// SetKind is the kind of sets that a field takes as @NAME.
type SetKind uint8

const (
	NoSet SetKind = iota
	AddressSet
	PortSet
	PairSet // goes where an AddressSet does: the address and its port
)

// Takes tells whether a field that takes sets of kind k takes one of kind other.
func (k SetKind) Takes(other SetKind) bool {
	return k == other || k == AddressSet && other == PairSet
}

func (k SetKind) String() string {
	return [...]string{"no set", "a set of addresses", "a set of ports", "a set of pairs"}[k]
}

// IP protocol numbers that fields depend on.
const (
	ProtoICMP   = 1
	ProtoICMPv6 = 58
	ProtoSCTP   = 132
)

// FieldInfo is a row of Fields.
type FieldInfo struct {
	Name model.Field
	Help string // one line, with the unit
	Kind Kind
	Sets SetKind

	Max   uint32 // largest number; 0 for what isn't one
	Names []Name // words that stand for numbers, or for the bits of flags; nil when there are none
	Spans []Span // words that stand for several numbers
	Words bool   // the words alone may be written, not the numbers
	Hex   bool   // numbers are commonly written in hexadecimal
	Refer string // things: the key of the configuration that defines them

	// Key tells that the flow's key determines the value, so that a verdict may be remembered with the flow.
	Key bool
	// Protocols are the IP protocols whose packets have the field; nil means all packets have it.
	Protocols []uint32
	// Link tells that frames that are neither IPv4 nor IPv6 have the field as well.
	Link bool
	// Judges tells that a rule with the field is asked about such frames. Others are not: a rule that only says where
	// packets come from would else be the end of ARP.
	Judges bool
}

// Name is a word that stands for a number.
type Name struct {
	Text  string
	Value uint32
}

// Span is a word that stands for a range of numbers.
type Span struct {
	Text   string
	Values model.Range
}

// Fields holds a row for each field, in the order of bpf/fields.h: the index is the field's number on the border.
// It is read-only.
var Fields = []FieldInfo{
	{Name: "src", Kind: Address, Sets: AddressSet, Key: true, Help: "source address"},
	{Name: "dst", Kind: Address, Sets: AddressSet, Key: true, Help: "destination address"},
	{Name: "proto", Kind: Number, Max: 255, Names: protocols, Key: true,
		Help: "IP protocol, the one behind IPv6 extension headers"},
	{Name: "sport", Kind: Number, Max: 65535, Sets: PortSet, Protocols: withPorts, Key: true, Help: "source port"},
	{Name: "dport", Kind: Number, Max: 65535, Sets: PortSet, Protocols: withPorts, Key: true, Help: "destination port"},
	{Name: "icmp-type", Kind: Number, Max: 255, Protocols: withICMP, Key: true, Help: "ICMP or ICMPv6 type"},
	{Name: "icmp-code", Kind: Number, Max: 255, Protocols: withICMP, Key: true, Help: "ICMP or ICMPv6 code"},
	{Name: "ttl", Kind: Number, Max: 255, Help: "IPv4 time to live or IPv6 hop limit"},
	{Name: "dscp", Kind: Number, Max: 63, Names: codePoints, Help: "differentiated services code point (RFC 2474)"},
	{Name: "length", Kind: Number, Max: 65535, Help: "bytes of the IP packet, header included"},
	{Name: "state", Kind: Number, Max: 3, Names: states, Words: true, Key: true,
		Help: "what it is to the packets that passed before it: new, established or invalid"},
	{Name: "tcp-flags", Kind: Flags, Max: 255, Names: tcpFlags, Protocols: []uint32{model.ProtoTCP}, Help: "TCP flags"},
	{Name: "fragment", Kind: Number, Max: 2, Names: fragments, Spans: anyFragments, Words: true, Key: true,
		Help: "whether it is a fragment, the first one of its packet or a later one"},
	{Name: "src-mac", Kind: MAC, Link: true, Judges: true, Help: "source MAC address"},
	{Name: "dst-mac", Kind: MAC, Link: true, Judges: true, Help: "destination MAC address"},
	{Name: "ethertype", Kind: Number, Max: 65535, Names: etherTypes, Hex: true, Key: true, Link: true, Judges: true,
		Help: "Ethernet type, the one behind VLAN tags"},
	{Name: "vlan", Kind: Number, Max: 4095, Names: vlans, Key: true, Link: true,
		Help: "VLAN id, of the outermost tag that has one"},
	{Name: "interface", Kind: Thing, Refer: "interfaces", Key: true, Link: true, Help: "interface that it came in by"},
	{Name: "service", Kind: Thing, Refer: "services", Key: true,
		Help: "service that it is for, by destination address, protocol and port"},
}

var (
	withPorts = []uint32{model.ProtoTCP, model.ProtoUDP, ProtoSCTP}
	withICMP  = []uint32{ProtoICMP, ProtoICMPv6}
)

var protocols = []Name{
	{"icmp", ProtoICMP}, {"igmp", 2}, {"ipip", 4}, {"tcp", model.ProtoTCP}, {"udp", model.ProtoUDP}, {"dccp", 33},
	{"ipv6", 41}, {"gre", 47}, {"esp", 50}, {"ah", 51}, {"icmpv6", ProtoICMPv6}, {"ospf", 89}, {"vrrp", 112},
	{"sctp", ProtoSCTP}, {"udplite", 136},
}

// states are those of enum state in bpf/abi.h. A flow's record remembers the state beside the verdict.
var states = []Name{{"new", 1}, {"established", 2}, {"invalid", 3}}

// codePoints are the registered names of RFC 2474, 2597, 3246, 5865 and 8622.
var codePoints = []Name{
	{"cs0", 0}, {"le", 1}, {"cs1", 8}, {"af11", 10}, {"af12", 12}, {"af13", 14}, {"cs2", 16}, {"af21", 18},
	{"af22", 20}, {"af23", 22}, {"cs3", 24}, {"af31", 26}, {"af32", 28}, {"af33", 30}, {"cs4", 32}, {"af41", 34},
	{"af42", 36}, {"af43", 38}, {"cs5", 40}, {"va", 44}, {"ef", 46}, {"cs6", 48}, {"cs7", 56},
}

// tcpFlags are the bits of a TCP header's flags (RFC 9293, section 3.1; RFC 3168).
var tcpFlags = []Name{
	{"fin", 1}, {"syn", 2}, {"rst", 4}, {"psh", 8}, {"ack", 16}, {"urg", 32}, {"ece", 64}, {"cwr", 128},
}

// usualFlags are those that a value of tcp-flags without a mask says all of.
const usualFlags = 1 | 2 | 4 | 16

// Values of `fragment`.
const (
	FragmentNone  = 0
	FragmentFirst = 1
	FragmentLater = 2
)

var (
	fragments    = []Name{{"none", FragmentNone}, {"first", FragmentFirst}, {"later", FragmentLater}}
	anyFragments = []Span{{"any", model.Range{Lo: FragmentFirst, Hi: FragmentLater}}}
)

// Ethernet types of the families.
const (
	EtherIPv4 = 0x0800
	EtherIPv6 = 0x86dd
)

// etherTypes are registered by IEEE; those of tags are missing, because behind tags there is another type.
var etherTypes = []Name{
	{"ipv4", EtherIPv4}, {"arp", 0x0806}, {"wol", 0x0842}, {"rarp", 0x8035}, {"ipv6", EtherIPv6},
	{"flow-control", 0x8808}, {"lacp", 0x8809}, {"mpls", 0x8847}, {"pppoe-discovery", 0x8863}, {"pppoe", 0x8864},
	{"eapol", 0x888e}, {"lldp", 0x88cc}, {"macsec", 0x88e5}, {"ptp", 0x88f7},
}

var vlans = []Name{{"none", 0}}

// Lookup returns the row of a field.
func Lookup(name model.Field) (FieldInfo, bool) {
	for _, field := range Fields {
		if field.Name == name {
			return field, true
		}
	}
	return FieldInfo{}, false
}

// Protocol returns the number of an IP protocol's name ("tcp").
func Protocol(name string) (uint8, bool) {
	value, ok := number(protocols, name)
	return uint8(value), ok
}

// ProtocolName returns the name of an IP protocol, or its number as text when it has none here.
func ProtocolName(proto uint8) string {
	return formatNumber(protocols, uint32(proto))
}

// ServiceProtocol returns what a configuration calls the protocol of a service.
func ServiceProtocol(proto uint8) string {
	if proto == model.ProtoAny {
		return "any"
	}
	return ProtocolName(proto)
}

func number(names []Name, text string) (uint32, bool) {
	i := slices.IndexFunc(names, func(n Name) bool { return n.Text == text })
	if i < 0 {
		return 0, false
	}
	return names[i].Value, true
}

// JudgesLink tells whether a rule is asked about frames that are neither IPv4 nor IPv6.
func JudgesLink(r model.Rule) bool {
	judges := false
	for _, c := range r.Match {
		field, _ := Lookup(c.Field)
		if !field.Link {
			return false // such a frame lacks the field
		}
		judges = judges || field.Judges
	}
	return judges
}
