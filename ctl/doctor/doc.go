// Package doctor tells whether this machine can do what a snapshot asks of it, and what to do where it can't. Gather looks at
// the machine and changes nothing that stays: programs are loaded and thrown away, a connection to a backend is opened and
// closed, and probes are sent as the data plane would send them. Judge turns what was seen into findings and is pure.
package doctor
