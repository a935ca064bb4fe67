package flow

import "time"

// Report says what a flow did since its last report: what exporters send and history adds up. Of each flow, the deltas of
// all its reports are its totals.
type Report struct {
	Flow                   // as it stands at Until
	Since, Until time.Time // what Delta is of; Since of a flow's first report is Flow.First
	Delta        Count     // by the side that opened the flow
	DeltaReply   Count     // what came back
	End          End
	Sample       int // one packet of so many was counted; 0 and 1: every one
}

// End is why a report is the last one of a flow.
type End uint8

const (
	EndNone    End = iota // it isn't: the flow goes on
	EndIdle               // nothing came for flows.idle
	EndFIN                // both sides closed it
	EndRST                // one side reset it
	EndEvicted            // its record gave way to another flow's
	EndForced             // gardu stops counting it
	ends
)

// Ends is how many there are.
const Ends = int(ends)

// String is the word for it in the API; empty for EndNone.
func (e End) String() string {
	return [...]string{"", "idle", "fin", "rst", "evicted", "forced"}[e]
}

// Names tells what the ids in records stand for, as far as that is known; "" for what is not.
type Names interface {
	Rule(id uint32) string // also of what decides without being a rule
	Service(id uint16) string
	Backend(id uint16) string
	Interface(ifindex uint32) string
}

const (
	tcpFIN = 0x01
	tcpRST = 0x04
	tcpACK = 0x10
)
