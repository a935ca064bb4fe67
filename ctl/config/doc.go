// Package config reads a configuration, one YAML file and the set files that it names, into a model.Snapshot.
//
// keys.go is the one table of what can be written: each key with its help, bounds and default. The decoder, the JSON
// schema for editors and the test of configs/reference.yaml all read it. check.go holds what a key alone can't know:
// overlapping services, absent sets, rules that match nothing. Whatever is wrong is reported, all of it at once, with
// its place in the file, the line, and what is allowed there.
package config
