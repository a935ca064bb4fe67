package expr

import (
	"net/netip"
	"time"
)

// Flow is what an expression can see of a flow, or of an event. Absent parts are zero.
type Flow struct {
	Src, Dst     netip.Addr
	Sport, Dport uint16
	Proto        uint8
	Vlan         uint16
	Packets      uint64        // of both directions
	Bytes        uint64        // of both directions
	Age          time.Duration // since its last packet
	Duration     time.Duration // from its first packet to its last
	Verdict      string
	Reason       string
	Rule         string
	Service      string
	Backend      string
	State        string
	End          string
	Interface    string // of the opener's packets

	InterfaceReply                string
	ServerRTT, ClientRTT          time.Duration // 0: not known
	Retransmits, RetransmitsReply uint32
	TTLMin, TTLMax, DSCP          uint8 // of the opener

	// Names of keys that aren't known of a flow, which stands for several; see Expr.Possible.
	Unknown []string
	assume  bool // what a test of one of those is taken to say

	// Of events alone.
	Kind      string
	Direction string
	Length    uint64 // bytes of the frame
}
