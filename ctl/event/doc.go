// Package event takes from the kernel what rules log and sample, and keeps the last of what happened for who wants to see it.
//
// A Reader reads the ring that the programs write to, a Packet at a time. A Log holds the last so many events of any kind and hands
// each to its followers; one that is slow loses events, and is told how many.
package event
