// Package model holds what the user wants as plain values: rules, sets, services, backends, interfaces and the
// snapshot that binds them. It does no I/O and imports nothing of gardu. Snapshots are immutable once built.
package model
