/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Tells user space what jiffies are now: flow records are stamped in them. Run by BPF_PROG_TEST_RUN. */
#include "../bpf/types.h"
#include "../bpf/abi.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("syscall")
int gardu_clock(struct clock *now)
{
	now->jiffies = bpf_jiffies64();
	now->monotonic = bpf_ktime_get_ns();
	return 0;
}
