/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* Reading the tables of a generation: lines, words and static hash buckets. */
#pragma once
#include "hash.h"
#include "maps.h"

/* generation % GENERATION_SLOTS. BPF's own division takes longer than all else that finds a table: here it is a multiplication by
 * 2^33 / 3, rounded up, exact for 32 bits (Granlund and Montgomery, 1994). */
static __always_inline __u32 slot_of(__u32 generation)
{
	return generation - (__u32)(generation * 0xAAAAAAABull >> 33) * GENERATION_SLOTS;
}
_Static_assert(GENERATION_SLOTS == 3, "slot_of() divides by 3");

/* The table of a generation; NULL cannot be once something was applied. */
static __always_inline void *table_of(__u32 generation, enum table table)
{
	__u32 slot = slot_of(generation);

	switch (table) {
	case TABLE_SETS:
		return bpf_map_lookup_elem(&tables_sets, &slot);
	case TABLE_RULES:
		return bpf_map_lookup_elem(&tables_rules, &slot);
	default:
		return bpf_map_lookup_elem(&tables_services, &slot);
	}
}

static __always_inline void *line_at(void *table, __u32 index)
{
	return bpf_map_lookup_elem(table, &index);
}

/* Word `index` of an area of u64s that begins at line `off`. */
static __always_inline __u64 word_at(void *table, __u32 off, __u32 index)
{
	struct line *line = line_at(table, off + index / 8);

	return line ? line->w[index % 8] : 0;
}

static __always_inline __u32 u32_at(void *table, __u32 off, __u32 index)
{
	return word_at(table, off, index / 2) >> index % 2 * 32;
}

static __always_inline __u16 u16_at(void *table, __u32 off, __u32 index)
{
	return word_at(table, off, index / 4) >> index % 4 * 16;
}

/* Position of the lowest bit of a word that isn't 0: BPF has no instruction for it (de Bruijn sequence, Leiserson et al. 1998). */
static __always_inline __u32 lowest_bit(__u64 word)
{
	static const __u8 position[64] = {
		0,  1,  2,  53, 3,  7,  54, 27, 4,  38, 41, 8,  34, 55, 48, 28, 62, 5,  39, 46, 44, 42,
		22, 9,  24, 35, 59, 56, 49, 18, 29, 11, 63, 52, 6,  26, 37, 40, 33, 47, 61, 45, 43, 21,
		23, 58, 17, 10, 51, 25, 36, 32, 60, 20, 57, 16, 50, 31, 19, 15, 30, 14, 13, 12,
	};

	return position[(word & -word) * 0x022fdd63cc95386dull >> 58];
}
