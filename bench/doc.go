// Command bench measures gardu beside what people use today, in one run, and writes a page with plots and the data to
// bench/results. Its parts:
//
// Cost is ns a packet by test runs. A generator program stands in front of the program under test, which runs unmodified by
// tail call: BPF_PROG_TEST_RUN repeats in the kernel, the generator restores the frame and writes the next packet. Time is the
// CPU time of the one pinned thread; cases are interleaved round by round, so that a slow second of the machine meets all of
// them; the median of the rounds counts. Each figure is checked: the last action is the expected one, and the program's own
// counters grew by exactly the number of packets sent. Cases come in batches, each with the same baselines.
//
// Live is packets that travel: live frames over veth pairs, through gardu, bare programs, the kernel's bridge and router, nft
// and tc, counted where they arrive.
//
// Latency is round trips through a box that routes, with a CPU idle and half loaded. Transfers are iperf3 and wrk against nginx
// by every mode, at XDP and at tc, by both families, by HAProxy and no balancer. Control is what the daemon takes, beside
// nft -f and ipset restore.
//
// From all of it come aims reached or missed, and where it is known why (why.go), fits of cost against size, and a plan for
// 100 Gb/s that says what is extrapolated.
//
// What can't be measured, for want of a peer or otherwise, is a row that says why, and doesn't stop the others. All numbers
// that are to be reached are in aims.go.
package main

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package main -output-stem bench -type packet -type packet6 bench bpf/bench.c -- -O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -go-package main -output-stem parse parse bpf/parse.c -- -O2 -g -Wall -Werror -mcpu=v3 -I../bpf -I../xdp -I/usr/include/x86_64-linux-gnu
