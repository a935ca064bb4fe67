/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* The kernel's UAPI types and libbpf's helper declarations, from linux-libc-dev and libbpf-dev. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
