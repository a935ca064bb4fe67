// Package journal is the daemon's log: text for people, JSON for programs. How much is told can be changed while it runs, and
// what is told over and over again is counted instead.
package journal
