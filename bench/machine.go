package main

import (
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is what a reader needs to compare figures. Unknown facts are empty.
type machine struct {
	CPU         string `json:"cpu"`
	CPUs        int    `json:"cpus"`
	MemoryBytes uint64 `json:"memory_bytes"`
	Kernel      string `json:"kernel"`
	JIT         string `json:"bpf_jit_enable"`
	Mitigations string `json:"spectre_v2"`
	PinnedTo    int    `json:"pinned_to_cpu"`
	Realtime    bool   `json:"realtime"`
	Go          string `json:"go"`
	Commit      string `json:"commit"`
	Load        string `json:"load"` // /proc/loadavg before anything was measured
}

func describeMachine(cpu int, realtime bool) machine {
	m := machine{
		CPUs:        runtime.NumCPU(),
		JIT:         line("/proc/sys/net/core/bpf_jit_enable"),
		Mitigations: line("/sys/devices/system/cpu/vulnerabilities/spectre_v2"),
		Kernel:      line("/proc/sys/kernel/osrelease"),
		PinnedTo:    cpu,
		Realtime:    realtime,
		Go:          runtime.Version(),
		Commit:      commit(),
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemoryBytes = uint64(info.Totalram) * uint64(info.Unit)
	}
	for l := range strings.Lines(text("/proc/cpuinfo")) {
		if name, value, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	return m
}

// commit is the short hash of the tree, with "-dirty" when it has changes.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func text(path string) string {
	data, _ := os.ReadFile(path) // a fact that can't be read stays empty
	return string(data)
}

func line(path string) string { return strings.TrimSpace(text(path)) }
