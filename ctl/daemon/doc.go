// Package daemon is `gardu run`: it wires every other package together and answers the API.
//
// A change of the snapshot (start, apply, SIGHUP, a set file) goes through one place, change, one at a time and all
// or nothing. What happens while running goes past it: health checks, next hops and blocks change the data plane
// at once.
//
// Everything that must outlive the process is either pinned in the kernel or in the state directory, which says what
// the numbers in the kernel mean. So a daemon that dies is replaced by one that goes on where it stopped.
package daemon
