// Package flow reads the flow table while the programs go on writing it: records of one direction swept from the
// mapped array and from the LRU map behind it, both directions joined into flows, and totals that add up to the
// packet. It never writes a map and never stops a packet; what it costs is the memory bandwidth of one sweep.
package flow
