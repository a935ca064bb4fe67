// Package export brings reports of flows to IPFIX collectors and into files. What takes them blocks until a batch is sent, written
// or lost, and it counts what is lost; a queue before it is the caller's.
package export
