// Package testnet builds small networks on one machine: network namespaces joined by veth pairs, with processes and
// sockets inside them. Tests and `gardu demo` run in such networks; nothing they send leaves the machine. It needs root.
package testnet
