// Package compile turns a snapshot into what the data plane reads: three tables of 64-byte lines laid out as
// bpf/abi.h says, the members of the rings, the backends, and the features to load. It is pure and
// deterministic: the same snapshot and ids give the same bytes, and no table says more than it must, so that
// a table that a new snapshot doesn't change compares equal to the old one and can be shared.
//
// IDs holds the numbers that outlive a snapshot. Everything else is numbered afresh each time.
package compile
