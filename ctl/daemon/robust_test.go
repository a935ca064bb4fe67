package daemon

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"gardu/ctl/api"
)

// smallState puts the state directory on a file system of its own. full fills it, and room makes room again.
func (w *world) smallState() (full, room func()) {
	w.Helper()
	w.must(os.Mkdir(w.options.StateDir, 0o700))
	w.must(syscall.Mount("tmpfs", w.options.StateDir, "tmpfs", 0, "size=256k"))
	w.Cleanup(func() { w.must(syscall.Unmount(w.options.StateDir, syscall.MNT_DETACH)) })
	filler := filepath.Join(w.options.StateDir, "filler")
	full = func() {
		w.Helper()
		file, err := os.Create(filler)
		w.must(err)
		for err == nil {
			_, err = file.Write(make([]byte, 4096))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			w.Fatal(err)
		}
		w.must(file.Close())
	}
	return full, func() { w.must(os.Remove(filler)) }
}

// warned waits for a warning; told looks for an event of that kind.
func (w *world) warned(text string) {
	w.Helper()
	w.until("status warns: "+text, func() error {
		if warnings := strings.Join(w.status().Warnings, "\n"); !strings.Contains(warnings, text) {
			return fmt.Errorf("warnings: %s", warnings)
		}
		return nil
	})
}

func (w *world) notWarned() {
	w.Helper()
	w.until("no warning", func() error {
		if warnings := w.status().Warnings; len(warnings) > 0 {
			return fmt.Errorf("warnings: %q", warnings)
		}
		return nil
	})
}

func (w *world) told(kind, text string) {
	w.Helper()
	w.until("event "+kind+": "+text, func() error {
		var seen []string
		err := w.api.Events(w.Context(), api.EventQuery{Filter: "kind " + kind}, func(e api.Event) error {
			seen = append(seen, e.Text)
			return nil
		})
		w.must(err)
		if !strings.Contains(strings.Join(seen, "\n"), text) {
			return fmt.Errorf("told: %q", seen)
		}
		return nil
	})
}

// A disk without room keeps no daemon from starting with what was applied last, also after the machine booted; only what is new is
// refused.
func TestStartsWithoutRoom(t *testing.T) {
	w := newWorld(t)
	full, room := w.smallState()
	w.write("gardu.yaml", served)
	w.start()
	w.process.Kill()
	for _, booted := range []bool{false, true} {
		full()
		if booted {
			w.must(os.RemoveAll(w.options.BPFDir))
		}
		w.start()
		w.warned("save what the next daemon must know: ")
		w.told(api.EventFault, "no space left on device")
		room()
		w.notWarned()
		w.told(api.EventMended, "save what the next daemon must know")
		if status := w.status(); status.Revision != 1 || booted != (status.Generation == 1) {
			t.Errorf("booted %t: revision %d, generation %d", booted, status.Revision, status.Generation)
		}
		w.process.Kill()
	}
	full()
	w.write("gardu.yaml", served+"# another\nfilter: {default: drop}\n")
	w.launch()
	w.wantEnd("exit status 1")
	if log := w.log(); !strings.Contains(log, "no space left on device") {
		t.Errorf("log:\n%s", log)
	}
	w.wantPassing(true, "as before")
	room()
	w.start()
	w.wantPassing(false, "with room")
}

const served = base + `
services:
  echo:
    address: 192.0.2.10
    port: 7
    proto: udp
    forward: dsr
    backends: [{name: b1, address: 10.0.0.11}]
`

// Pins that somebody removed are made again; a bpffs that is unmounted is told of, and packets and changes go on.
func TestPinsAreGone(t *testing.T) {
	w := newWorld(t)
	w.mounts = true
	w.write("gardu.yaml", dropping)
	w.write("bad.set", "203.0.113.0/24\n")
	w.start()
	w.wantPassing(true, "at first")
	reached := w.status().Filter.Reached
	w.must(os.RemoveAll(w.options.BPFDir))
	w.mustTry(closed, 0)
	w.told(api.EventMended, "it is pinned again")
	w.notWarned()
	w.wantPassing(false, "closed")
	w.process.Kill()
	w.wantPassing(false, "without a daemon")
	w.write("gardu.yaml", base)
	w.start()
	if status := w.status(); status.Generation != 3 || status.Filter.Reached <= reached {
		t.Errorf("generation %d, %d packets, %d before", status.Generation, status.Filter.Reached, reached)
	}
	w.wantPassing(true, "again")

	inside := func(args ...string) {
		t.Helper()
		_, err := w.box.Output(t.Context(), "nsenter", append([]string{"-t", fmt.Sprint(w.process.Pid()), "-m"}, args...)...)
		w.must(err)
	}
	inside("umount", "-l", "/sys/fs/bpf")
	w.mustTry(closed, 0)
	w.warned("what is pinned is gone: no bpffs is mounted at")
	w.told(api.EventFault, "what is pinned is gone")
	w.wantPassing(false, "closed")
	inside("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
	w.mustTry(base, 0)
	w.warned("start gardu again")
	w.wantPassing(true, "opened")
	if n := strings.Count(w.log(), "what is pinned is gone"); n != 1 {
		t.Errorf("it is logged %d times:\n%s", n, w.log())
	}
	w.must(w.process.Signal(syscall.SIGTERM))
	w.wantEnd("<nil>")
	w.must(os.RemoveAll(w.options.BPFDir)) // what it could not reach
}

// wantReady asks /readyz.
func (w *world) wantReady(want string) {
	w.Helper()
	out, err := w.box.Output(w.Context(), "curl", "-s", "http://127.0.0.1:9180/readyz")
	w.must(err)
	if !strings.Contains(string(out), want) {
		w.Errorf("/readyz says %q, want %q", out, want)
	}
}

// What the kernel doesn't hold as it is wanted makes a daemon not ready; other faults don't.
func TestReady(t *testing.T) {
	var f faults
	f.set("save what the next daemon must know", errors.New("no room"))
	if out := outOfSync(&f); len(out) != 0 {
		t.Errorf("out of sync: %q", out)
	}
	f.set("state of web/b1", errors.New("no memory"))
	if out := outOfSync(&f); len(out) != 1 || out[0] != "state of web/b1: no memory" {
		t.Errorf("out of sync: %q", out)
	}
}

// An interface is whoever has its name.
func TestInterfaceIsRenamed(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base+"api: {listen: \"127.0.0.1:9180\"}\n")
	w.start()
	rename := func(pairs ...string) {
		t.Helper()
		for i := 0; i < len(pairs); i += 2 {
			for _, args := range [][]string{{pairs[i], "down"}, {pairs[i], "name", pairs[i+1]}, {pairs[i+1], "up"}} {
				_, err := w.box.Output(t.Context(), "ip", append([]string{"link", "set"}, args...)...)
				w.must(err)
			}
		}
	}
	attached := func(want ...bool) {
		t.Helper()
		w.until("attached", func() error {
			for i, one := range w.status().Interfaces {
				if one.Attached != want[i] {
					return fmt.Errorf("%+v", one)
				}
			}
			return nil
		})
	}
	judged := func(want bool) {
		t.Helper()
		before := w.status().Filter.Reached
		w.wantPassing(true, "whatever the name")
		if after := w.status().Filter.Reached; (after > before) != want {
			t.Errorf("%d packets were judged, then %d", before, after)
		}
	}
	rename("in0", "other0")
	attached(false, true)
	w.told(api.EventInterface, "it is called other0 now")
	judged(false)
	w.wantReady("not attached to in0: ")
	rename("other0", "in0")
	attached(true, true)
	w.wantReady("ok")
	w.told(api.EventInterface, "attached")
	judged(true)

	before := w.status().Interfaces
	rename("in0", "swap0", "out0", "in0", "swap0", "out0")
	w.until("places changed", func() error {
		now := w.status().Interfaces
		if now[0].Ifindex != before[1].Ifindex || now[1].Ifindex != before[0].Ifindex || !now[0].Attached || !now[1].Attached {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	judged(true)
}

// While the daemon is kept from reading, the kernel tells of more than it can keep. What happened meanwhile is found all the same.
func TestNetworkOverrun(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	before := w.status()
	w.must(w.process.Signal(syscall.SIGSTOP))
	w.must(w.box.DeleteLink("in0"))
	var batch strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&batch, "link set dev out0 alias a%d\n", i)
	}
	w.write("batch", batch.String())
	_, err := w.box.Output(t.Context(), "ip", "-batch", w.path("batch"))
	w.must(err)
	w.connect(w.client, "198.51.100.10/24", "in0", "198.51.100.1/24")
	w.must(w.client.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("198.51.100.1")))
	w.must(w.process.Signal(syscall.SIGCONT))
	w.until("the new interface is found", func() error {
		if now := w.status().Interfaces[0]; !now.Attached || now.Ifindex == before.Interfaces[0].Ifindex {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	w.told(api.EventInterface, "changes of the network were lost; all of it is read again")
	if now := w.status(); now.Overruns == 0 || before.Overruns != 0 {
		t.Errorf("%d overruns, then %d", before.Overruns, now.Overruns)
	}
	w.wantPassing(true, "by the new interface")
}

// A table that the machine has no memory for changes nothing.
func TestOutOfMemory(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	// The kernel finds the memory, but the process no place to see it in.
	var was unix.Rlimit
	pid := w.process.Pid()
	w.must(unix.Prlimit(pid, unix.RLIMIT_AS, nil, &was))
	w.must(unix.Prlimit(pid, unix.RLIMIT_AS, &unix.Rlimit{Cur: w.addressSpace(pid) + 256<<20, Max: was.Max}, nil))
	_, err := w.try(strings.Replace(base, "max: 1000", "max: 2000000", 1), 0)
	if err == nil || !strings.Contains(err.Error(), "cannot allocate memory") {
		t.Fatalf("apply: %v", err)
	}
	w.told(api.EventFault, "was not applied: ")
	if status := w.status(); status.Revision != 1 || status.Generation != 1 || status.Flows.Max > 100_000 || len(status.Warnings) > 0 {
		t.Errorf("%+v", status)
	}
	w.wantPassing(true, "as before")
	w.must(unix.Prlimit(pid, unix.RLIMIT_AS, &was, nil))
	w.mustTry(closed, 0)
	w.wantPassing(false, "closed")
}

// A snapshot that the kernel doesn't take, whichever map or program is the first that it refuses, changes nothing and is not in the history;
// the daemon that comes after a crash has what was in force. What refuses here is the number of files that the process may have open.
func TestDoesNotLoad(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", base)
	w.start()
	w.wantPassing(true, "at first")
	var was unix.Rlimit
	w.must(unix.Prlimit(w.process.Pid(), unix.RLIMIT_NOFILE, nil, &was))
	try := func(more int) error {
		t.Helper()
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.process.Pid()))
		w.must(err)
		w.must(unix.Prlimit(w.process.Pid(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(len(open) + more), Max: was.Max}, nil))
		_, failed := w.try(closed, 0)
		w.must(unix.Prlimit(w.process.Pid(), unix.RLIMIT_NOFILE, &was, nil))
		return failed
	}
	unchanged := func(when string) {
		t.Helper()
		if status := w.status(); status.Revision != 1 || status.Waiting != nil || len(status.Warnings) > 0 {
			t.Fatalf("%s: revision %d, waiting %+v, warnings %q", when, status.Revision, status.Waiting, status.Warnings)
		}
		if got := w.revisionList(); got != "1:start:0:in-force" {
			t.Fatalf("%s: history %s", when, got)
		}
		w.wantPassing(true, when)
	}
	refused := map[string]bool{}
	more := 1
	for ; more < 300; more += 5 {
		err := try(more)
		if err == nil {
			break
		}
		refused[err.Error()] = true // the library that creates maps may take it for a kernel that lacks a feature
		unchanged(fmt.Sprintf("with %d more files", more))
	}
	t.Logf("it takes %d more files; refused as %q", more, slices.Collect(maps.Keys(refused)))
	if len(refused) < 3 || !strings.Contains(fmt.Sprint(refused), "too many open files") {
		t.Errorf("it was refused in %d ways: %v", len(refused), refused)
	}
	w.told(api.EventFault, "was not applied: ")
	w.wantPassing(false, "applied")

	w.mustTry(base, 0)
	w.process.Kill()
	w.start()
	w.wantPassing(true, "after a start")
	before := w.revisionList()
	if err := try(1); err == nil {
		t.Fatal("it was applied")
	}
	w.process.Kill()
	w.wantPassing(true, "without a daemon")
	w.start()
	w.wantPassing(true, "with the next daemon")
	if now := w.revisionList(); now != before {
		t.Errorf("history %s, before %s", now, before)
	}
}

// A state directory that can't be written refuses a start that would keep something new, and nothing is left of that; what was applied last
// comes up, after a crash and after the machine booted.
func TestStateDirectoryIsReadOnly(t *testing.T) {
	w := newWorld(t)
	w.smallState()
	remount := func(flags uintptr) {
		w.must(syscall.Mount("", w.options.StateDir, "", syscall.MS_REMOUNT|flags, "size=256k"))
	}
	remount(syscall.MS_RDONLY)
	w.write("gardu.yaml", closed)
	w.launch()
	w.wantEnd("exit status 1")
	if log := w.log(); !strings.Contains(log, "keep revision 1 in the history: ") || !strings.Contains(log, "read-only file system") {
		t.Errorf("log:\n%s", log)
	}
	if w.pinned() {
		t.Errorf("%s is there", w.options.BPFDir)
	}
	w.wantPassing(true, "refused")
	remount(0)
	w.start()
	w.wantPassing(false, "applied")
	for _, booted := range []bool{false, true} {
		w.process.Kill()
		remount(syscall.MS_RDONLY)
		if booted {
			w.must(os.RemoveAll(w.options.BPFDir))
		}
		w.start()
		w.wantPassing(false, "as before")
		w.warned("save what the next daemon must know: ")
		w.told(api.EventFault, "read-only file system")
		if _, err := w.try(base, 0); err == nil || !strings.Contains(err.Error(), "read-only file system") {
			t.Errorf("apply: %v", err)
		}
		if blocks, err := w.api.Block(t.Context(), []api.BlockRequest{{Prefix: netip.MustParsePrefix("203.0.113.7/32")}}); err != nil || len(blocks) != 1 {
			t.Errorf("a block needs no disk: %v, %v", blocks, err)
		}
		w.wantPassing(false, "refused")
		remount(0)
		w.notWarned()
		w.told(api.EventMended, "save what the next daemon must know")
	}
	w.mustTry(base, 0)
	w.wantPassing(true, "opened")
}

// A flow table that there is no memory for keeps a daemon from starting, which says how much it takes, and leaves nothing. One that finds
// what was in force doesn't touch it.
func TestNoMemoryAtStart(t *testing.T) {
	w := newWorld(t)
	large := strings.Replace(closed, "max: 1000}", "max: 4000000}", 1)
	refused := func() {
		t.Helper()
		w.addressSpaceMax = 2 << 30 // as in TestOutOfMemory
		w.launch()
		w.addressSpaceMax = 0
		w.wantEnd("exit status 1")
		if log := w.log(); !strings.Contains(log, "make a table for 4000000 flows, which takes 976 MiB of memory (choose a smaller flows.max, or make room): ") ||
			!strings.Contains(log, "cannot allocate memory") {
			t.Errorf("log:\n%s", log)
		}
		w.wantPassing(true, "as before")
	}
	w.write("gardu.yaml", large)
	refused()
	if w.pinned() {
		t.Errorf("%s is there", w.options.BPFDir)
	}
	w.write("gardu.yaml", base)
	w.start()
	reached := w.status().Filter.Reached
	w.process.Kill()
	w.write("gardu.yaml", large)
	refused()
	w.write("gardu.yaml", base)
	w.start()
	if status := w.status(); status.Revision != 1 || status.Filter.Reached <= reached || status.Flows.Max > 100_000 {
		t.Errorf("revision %d, %d packets, then %d, %d flows", status.Revision, reached, status.Filter.Reached, status.Flows.Max)
	}
}

// addressSpace is how much memory a process sees.
func (w *world) addressSpace(pid int) uint64 {
	w.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	w.must(err)
	var pages uint64
	_, err = fmt.Sscan(string(text), &pages)
	w.must(err)
	return pages * uint64(os.Getpagesize())
}

// TestEndsAsSoonAsItBegan: a daemon that is told to end while parts of it only begin waits for these before it lets go of its maps.
func TestEndsAsSoonAsItBegan(t *testing.T) {
	w := newWorld(t)
	w.write("gardu.yaml", "interfaces: {in0: {path: tc}}\n")
	for range 15 {
		w.start()
		if err := w.process.Stop(patience); err != nil {
			t.Fatalf("it ended badly: %v", err)
		}
	}
}
