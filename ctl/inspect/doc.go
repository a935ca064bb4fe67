// Package inspect tells what the kernel really holds of a gardu: programs and maps, found by what is pinned and by what uses that,
// whether or not the daemon lives. It reads; the one thing that it switches, statistics of run times, it switches off again.
package inspect
