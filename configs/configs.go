// Package configs holds the configurations that the binary carries.
package configs

import _ "embed"

// Demo is examples/demo.yaml, the snapshot of `gardu demo`.
//
//go:embed examples/demo.yaml
var Demo []byte

// Installed is what a package installs as /etc/gardu/gardu.yaml.
//
//go:embed package/gardu.yaml
var Installed []byte
