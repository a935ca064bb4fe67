// Command bench measures what a packet costs, in ns, case by case, and writes the table to bench/results.
//
// A generator program stands in front of the program under test, which runs unmodified by tail call: BPF_PROG_TEST_RUN
// repeats in the kernel, the generator restores the frame and writes the next packet. Time is the CPU time of the one
// pinned thread; cases are interleaved round by round, so that a slow second of the machine meets all of them; the median
// of the rounds counts. Each figure is checked: the last action is the expected one, and the program's own counters grew
// by exactly the number of packets sent.
package main

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package main -output-stem bench -type packet -type packet6 bench bpf/bench.c -- -O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu
