// Package lb turns the backends of a service into a ring, the table that maps a flow's hash to a backend, and
// lists the ways in which packets reach a backend. It is pure: the kernel side is bpf/abi.h and xdp/lb.h, the
// health checkers are in lb/health.
package lb
