// Package abi holds the types that cross the border between the kernel and Go. types.go is generated from
// the BTF of bpf/abi.h: struct flow_key is FlowKey, enum reason REASON_RULE_DROP is ReasonRuleDrop.
// Byte order is stated in bpf/abi.h: fields named Be* and all addresses are in network order, the rest in
// host order. Addr and PutAddr convert addresses, Ntohs and Htons ports; nothing else in gardu swaps bytes.
package abi

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -go-package abi -output-stem abi Abi ../../bpf/abi.c -- -O2 -g -Wall -Werror -mcpu=v3 -I../../bpf -I/usr/include/x86_64-linux-gnu
//go:generate go run ./gen abi_bpfel.o types.go maps.go ../../bpf/maps.h ../../bpf/capture.h ../../bpf/event.h ../../bpf/flow.h ../../bpf/pkt.h ../../xdp/blocks.h ../../xdp/nat.h ../../xdp/reject.h ../../xdp/rules.h
