// Package dataplane is the part of gardu that lives in the kernel, as Go sees it: programs loaded with their
// constants, maps created or taken over, links on interfaces, and typed access to every map.
//
// Everything is pinned under one bpffs directory, so that packets go on while no daemon runs:
//
//	DIR/<map>                  the maps of bpf/maps.h, by name
//	DIR/generations/<slot>-<table>  inner maps of the generations
//	DIR/flows/<slot>-table     inner maps of the flow tables, and <slot>-lru
//	DIR/links/<if>-<hook>      links; for a clsact filter the program itself, as a mark that the filter is ours
//	DIR/decap/<if>-<hook>      the same for `gardu decap`
//
// Open creates what is missing or takes over what is there, without detaching anything. Close leaves it in
// place, Remove takes it all off. OpenPrivate makes an instance that is pinned nowhere and attached nowhere, for
// Run: packet tests, and `gardu explain` without a daemon. Sibling makes one that shares what the live one has.
//
// All methods of a Dataplane are safe for concurrent use.
package dataplane
