package main

import (
	"cmp"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"gardu/ctl/abi"
)

// version is what gardu calls itself. The linker sets it for a release: -ldflags "-X main.version=1.2.3".
var version string

// build is what is known of this binary.
type build struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	System  string `json:"system"`
	ABI     int    `json:"abi"` // of what is pinned in the kernel: versions with the same one take over from each other
}

func thisBuild() build {
	b := build{Version: cmp.Or(version, "development"), Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, ABI: int(abi.AbiVersion)}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			switch {
			case setting.Key == "vcs.revision":
				b.Commit = setting.Value[:min(12, len(setting.Value))] + b.Commit
			case setting.Key == "vcs.modified" && setting.Value == "true":
				b.Commit += "+changes"
			}
		}
	}
	return b
}

func (a *app) versionCommand() *cobra.Command {
	return a.outputFlag(&cobra.Command{
		Use:   "version",
		Short: "Show the version of this program",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := thisBuild()
			return printValue(a, b, func() error {
				a.printf("gardu %s", b.Version)
				if b.Commit != "" {
					a.printf(" (%s)", b.Commit)
				}
				a.printf(", %s, %s, ABI %d\n", b.Go, b.System, b.ABI)
				return nil
			})
		},
	})
}
