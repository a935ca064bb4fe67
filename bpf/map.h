/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0 */
/* The short form of a map definition. */
#pragma once
#include "types.h"

#define MAP(name, map_type, key_type, value_type, entries) \
	struct {                                           \
		__uint(type, map_type);                    \
		__type(key, key_type);                     \
		__type(value, value_type);                 \
		__uint(max_entries, entries);              \
	} name SEC(".maps")
