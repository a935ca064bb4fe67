package api

import "time"

// Fate is what became of a packet of a replay.
type Fate struct {
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
	Rule    string `json:"rule,omitempty"` // that decided
	Service string `json:"service,omitempty"`
	Backend string `json:"backend,omitempty"`
}

// Replay is what became of the packets of a capture. Packets and bytes are frames, and bytes as they were on the wire.
type Replay struct {
	Packets uint64      `json:"packets"`
	Bytes   uint64      `json:"bytes"`
	First   time.Time   `json:"first,omitzero"`
	Last    time.Time   `json:"last,omitzero"`
	Fates   []FateCount `json:"fates"` // by verdict, reason, rule, service and backend, the most frequent first

	Unjudged     uint64 `json:"unjudged"`     // frames that the kernel doesn't run programs with: too short, or longer than a page
	Cut          uint64 `json:"cut"`          // the capture has only their beginning: judged with zeros for the rest of the payload
	Bare         uint64 `json:"bare"`         // the capture hasn't even all of their headers: not judged
	Back         uint64 `json:"back"`         // older than the one before
	Unattributed uint64 `json:"unattributed"` // found no place in the replay's flow table

	Against []FateChange `json:"against,omitempty"` // with another configuration

	Broken string `json:"broken,omitempty"` // why these aren't all packets of the capture
}

// FateCount is how many packets had one fate.
type FateCount struct {
	Fate
	Counter
}

// FateChange is what another configuration would have done with packets.
type FateChange struct {
	From    Fate   `json:"from"`
	To      Fate   `json:"to"`
	Flows   uint64 `json:"flows"` // both directions are one
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	First   uint64 `json:"first"`   // number of the first such packet, from 1
	Example string `json:"example"` // that packet
}
