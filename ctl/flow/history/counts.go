package history

import "math/bits"

// Counts is what is added up. Packets are wire packets, bytes IP bytes.
type Counts struct {
	Flows        uint64 `json:"flows"` // that began
	Packets      uint64 `json:"packets"`
	Bytes        uint64 `json:"bytes"`
	PacketsReply uint64 `json:"packets_reply"`
	BytesReply   uint64 `json:"bytes_reply"`
}

// Plus adds.
func (c Counts) Plus(other Counts) Counts {
	return Counts{c.Flows + other.Flows, c.Packets + other.Packets, c.Bytes + other.Bytes,
		c.PacketsReply + other.PacketsReply, c.BytesReply + other.BytesReply}
}

func (c Counts) minus(other Counts) Counts {
	return Counts{c.Flows - other.Flows, c.Packets - other.Packets, c.Bytes - other.Bytes,
		c.PacketsReply - other.PacketsReply, c.BytesReply - other.BytesReply}
}

func (c Counts) allBytes() uint64   { return c.Bytes + c.BytesReply }
func (c Counts) allPackets() uint64 { return c.Packets + c.PacketsReply }

// share is the part of c that falls into the first part of whole. Flows belong to where they began. The parts of a series that
// grows to whole differ by counts that add up to c.
func (c Counts) share(part, whole uint64) Counts {
	return Counts{c.Flows, proportion(c.Packets, part, whole), proportion(c.Bytes, part, whole),
		proportion(c.PacketsReply, part, whole), proportion(c.BytesReply, part, whole)}
}

// proportion is n * part / whole, for part <= whole.
func proportion(n, part, whole uint64) uint64 {
	if part >= whole {
		return n
	}
	hi, lo := bits.Mul64(n, part)
	quotient, _ := bits.Div64(hi, lo, whole)
	return quotient
}
