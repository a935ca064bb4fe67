// Package reconcile changes the data plane from what it has to what is wanted: it plans ordered operations, carries
// them out, and takes them back when one fails. It is the only place that orders map writes.
//
// Plan is pure. A new generation is built beside the one in force: programs that serve both, tables, backends, rings.
// None of it is visible to a packet until the commit, which is one store, and a failure before it leaves nothing
// behind. What only the old generation needed goes afterwards, save what the previous generation needs to return to.
//
// Health and next hops are runtime state: SetUp and SetHop change the data plane at once, in whichever generation.
//
// A backend that is removed stays in the data plane as it was, so that its established flows end in peace. Its
// entry is written over when compile gives its id to another backend.
package reconcile
