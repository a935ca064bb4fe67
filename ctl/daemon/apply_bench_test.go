package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
)

// twoFields is a configuration of n rules of two fields, as scripts write them, with ports from `first` on.
func twoFields(n, first int) string {
	var b strings.Builder
	b.WriteString("filter:\n  rules:\n")
	for i := range n {
		field := []string{"src", "dst"}[i%2]
		fmt.Fprintf(&b, "    - {name: rule-%d, match: {%s: %d.%d.%d.0/%d, dport: %d}, action: drop}\n",
			i, field, 1+i>>16, i>>8&255, i&255, 24+i/2%3, 1+(first+i*7919)%65535)
	}
	return b.String()
}

// processTime is the CPU time of this process, daemon and client.
func processTime(b *testing.B) time.Duration {
	b.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

const nothing = "filter: {default: pass}\n"

// BenchmarkApply measures what `gardu apply` takes: from the text of a configuration to packets that are judged by it.
func BenchmarkApply(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root: loads BPF programs")
	}
	dir, err := os.MkdirTemp("", "gardu-apply-*")
	if err != nil {
		b.Fatal(err)
	}
	options := Options{
		Config: filepath.Join(dir, "gardu.yaml"), BPFDir: "/sys/fs/bpf/" + filepath.Base(dir), StateDir: filepath.Join(dir, "state"),
		Socket: filepath.Join(dir, "sock"), Log: slog.New(slog.DiscardHandler),
	}
	write := func(name string, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	for _, family := range []string{"v4", "v6", "mixed"} {
		write(family+".netset", feed(family, 1))
	}
	write("gardu.yaml", []byte(nothing))
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, options) }()
	b.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			b.Error(err)
		}
		os.RemoveAll(dir)
	})
	gardu := client.New(options.Socket)
	defer gardu.Close()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if _, err := gardu.Status(ctx); err == nil {
			break
		} else if time.Now().After(deadline) {
			b.Fatal(err)
		}
	}
	apply := func(b *testing.B, text string) {
		b.Helper()
		if _, err := gardu.Apply(ctx, api.ApplyRequest{Name: "gardu.yaml", Dir: dir, YAML: text}); err != nil {
			b.Fatal(err)
		}
	}
	feed := func(family string) string {
		return "sets: {listed: {file: " + family + ".netset}}\nfilter: {rules: [{name: listed, match: {src: \"@listed\"}, action: drop}]}\n"
	}
	for _, bench := range []struct{ name, before, after string }{
		{"10000 rules", nothing, twoFields(10_000, 0)},
		{"10000 rules that change", twoFields(10_000, 1), twoFields(10_000, 0)},
		{"100000 rules", nothing, twoFields(100_000, 0)},
		{"100000 rules that change", twoFields(100_000, 1), twoFields(100_000, 0)},
		{"backend added to 1000", manyBackends(1000), manyBackends(1001)},
		{"set of a million IPv4", nothing, feed("v4")},
		{"set of a million IPv6", nothing, feed("v6")},
		{"set of a million of both", nothing, feed("mixed")},
	} {
		b.Run(bench.name, func(b *testing.B) {
			var used time.Duration
			for range b.N {
				b.StopTimer()
				apply(b, bench.before)
				before := processTime(b)
				b.StartTimer()
				apply(b, bench.after)
				used += processTime(b) - before
			}
			b.ReportMetric(float64(used.Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}

// manyBackends is a service with n backends.
func manyBackends(n int) string {
	var b strings.Builder
	b.WriteString("services:\n  big:\n    address: 192.0.2.10\n    port: 80\n    proto: tcp\n    forward: ipip\n    backends:\n")
	for i := range n {
		fmt.Fprintf(&b, "      - {name: b%d, address: 10.1.%d.%d}\n", i, i>>8, i&255)
	}
	return b.String()
}
