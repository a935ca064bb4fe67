package demo

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gardu/ctl/api"
)

// finding is what became of a step.
type finding struct {
	claim, seen string
	err         error
}

func (f finding) String() string {
	if f.err != nil {
		return "✗ " + f.err.Error()
	}
	return "✓ " + f.seen
}

func (d *demo) printf(format string, args ...any) {
	fmt.Fprintf(d.out, format, args...)
}

// say prints one line of what happens.
func (d *demo) say(format string, args ...any) {
	d.printf("   "+format+"\n", args...)
}

func (d *demo) introduce() {
	d.printf(`gardu demo: a small data centre on this machine alone.

   client  198.51.100.10 ──┐                            ┌── b1  10.0.1.11  weight 100
                           ├── gardu ── 192.0.2.10:80 ──┼── b2  10.0.2.11  weight 100
   hostile 203.0.113.66  ──┘      2001:db8:10::10:80    └── b3  10.0.3.11  weight 50

`)
}

// sayPaths says where each interface is handled, and why there.
func (d *demo) sayPaths(interfaces []api.Interface) {
	names := make(map[string][]string)
	for _, i := range interfaces {
		how := fmt.Sprintf("at %s: %s", i.Path, i.Why)
		names[how] = append(names[how], i.Name)
	}
	for _, how := range slices.Sorted(maps.Keys(names)) {
		d.say("%s: packets are handled %s", strings.Join(names[how], ", "), how)
	}
}

// command runs a gardu command in front of the reader, as they would type it.
func (d *demo) command(ctx context.Context, args ...string) error {
	var typed []string
	for _, arg := range args {
		if strings.ContainsAny(arg, " ()@>") {
			arg = "'" + arg + "'"
		}
		typed = append(typed, arg)
	}
	d.say("$ gardu %s", strings.Join(typed, " "))
	out, err := d.box.Output(ctx, d.binary, append([]string{"--socket", socketPath}, args...)...)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(out)) {
		d.printf("     %s", line)
	}
	return nil
}

// report prints what was observed, and returns the claims that were not.
func (d *demo) report(findings []finding) (missing []string) {
	d.printf("\nWhat was observed, in %s\n\n", time.Since(d.begin).Round(100*time.Millisecond))
	for _, f := range findings {
		d.say("%-18s %s", f.claim, f)
		if f.err != nil {
			missing = append(missing, f.claim)
		}
	}
	if len(missing) == 0 {
		d.printf(`
Where to go next
   gardu check FILE            is my own configuration right? examples: configs/
   gardu run -c FILE           filter, balance and count on this machine
   gardu explain PACKET        what would become of a packet, step by step, and why
   gardu help                  everything else; README.md and ARCHITECTURE.md tell how it works
`)
	}
	return missing
}

// invite tells how to look around in a demo that stays.
func (d *demo) invite() {
	d.printf(`
The demo stays until you press Ctrl-C. In another terminal, as root:

   export GARDU_SOCKET=%s
   gardu status; gardu backends; gardu flows; gardu blocks
   gardu explain 'tcp %s:40000 > %s:80 syn'
   gardu unblock %s
   ip netns exec %s curl http://%s/
   ip netns exec %s curl http://%s/

   %s    the daemon's log
`, socketPath, hostileKnown, services[0].address, hostileNew, d.client.Namespace(), services[0].address,
		d.hostile.Namespace(), services[0].address, logPath)
}

// size writes a number of bytes for people.
func size(bytes uint64) string {
	const unit = 1000
	if bytes < unit {
		return fmt.Sprintf("%d B", bytes)
	}
	value, prefix := float64(bytes), ""
	for _, prefix = range []string{"k", "M", "G", "T"} {
		if value /= unit; value < unit {
			break
		}
	}
	return fmt.Sprintf("%.1f %sB", value, prefix)
}
