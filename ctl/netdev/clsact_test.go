package netdev_test

import (
	"encoding/binary"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"gardu/ctl/netdev"
)

// classifier loads a program for tc.
func classifier(t *testing.T) int { return load(t, unix.BPF_PROG_TYPE_SCHED_CLS) }

// load loads the program "return 2", XDP_PASS or TC_ACT_SHOT, and returns its file descriptor.
func load(t *testing.T, kind uint32) int {
	t.Helper()
	code := binary.NativeEndian.AppendUint64(nil, 0x00000002_000000b7) // r0 = 2
	code = binary.NativeEndian.AppendUint64(code, 0x95)                // exit
	license := []byte("Dual BSD/GPL\x00")
	attr := struct { // the head of union bpf_attr for BPF_PROG_LOAD
		kind, count   uint32
		code, license unsafe.Pointer
		rest          [96]byte
	}{kind: kind, count: 2, code: unsafe.Pointer(&code[0]), license: unsafe.Pointer(&license[0])}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(&attr)
	if errno != 0 {
		t.Fatalf("load a program: %v", errno)
	}
	t.Cleanup(func() { unix.Close(int(fd)) })
	return int(fd)
}

func (l lab) hasQdisc(t *testing.T) bool {
	t.Helper()
	out, err := l.box.Output(t.Context(), "tc", "qdisc", "show", "dev", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(out), "clsact")
}

func TestFilters(t *testing.T) {
	l := newLab(t)
	link, err := l.handle.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	in := netdev.Filter{Ifindex: link.Index, Priority: 1, Name: "gardu_in", Program: classifier(t)}
	out := netdev.Filter{Ifindex: link.Index, Egress: true, Priority: 1, Name: "gardu_out", Program: in.Program}
	for _, f := range []netdev.Filter{in, out, in} { // the second `in` replaces
		if err := l.handle.AddFilter(f); err != nil {
			t.Fatal(err)
		}
	}
	list, err := l.handle.Filters(link.Index)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].Program == 0 {
		t.Errorf("got %+v, want one filter a direction, with program ids", list)
	}
	for i := range list {
		list[i].Program = in.Program
	}
	if !slices.Contains(list, in) || !slices.Contains(list, out) {
		t.Errorf("got %+v", list)
	}
	if err := l.handle.DeleteFilter(in); err != nil {
		t.Fatal(err)
	}
	if !l.hasQdisc(t) {
		t.Error("the qdisc went with the first filter")
	}
	for range 2 { // the second time there is nothing to do
		if err := l.handle.DeleteFilter(out); err != nil {
			t.Fatal(err)
		}
	}
	if l.hasQdisc(t) {
		t.Error("the qdisc stayed after the last filter")
	}
	if list, err := l.handle.Filters(link.Index); err != nil || len(list) != 0 {
		t.Errorf("got %+v, %v, want nothing", list, err)
	}
}

func TestFilterBesideOthers(t *testing.T) {
	l := newLab(t)
	link, err := l.handle.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	tc := func(args ...string) {
		t.Helper()
		if _, err := l.box.Output(t.Context(), "tc", args...); err != nil {
			t.Fatal(err)
		}
	}
	ours := netdev.Filter{Ifindex: link.Index, Priority: 1, Name: "gardu_in", Program: classifier(t)}

	t.Run("their qdisc", func(t *testing.T) {
		tc("qdisc", "add", "dev", "eth0", "clsact")
		if err := l.handle.AddFilter(ours); err != nil {
			t.Fatal(err)
		}
		if err := l.handle.DeleteFilter(ours); err != nil {
			t.Fatal(err)
		}
		if !l.hasQdisc(t) {
			t.Error("we removed a qdisc that was there before us")
		}
		tc("qdisc", "del", "dev", "eth0", "clsact")
	})
	t.Run("their filter on our qdisc", func(t *testing.T) {
		if err := l.handle.AddFilter(ours); err != nil {
			t.Fatal(err)
		}
		tc("filter", "add", "dev", "eth0", "egress", "prio", "7", "protocol", "all", "u32", "match", "u32", "0", "0")
		if err := l.handle.DeleteFilter(ours); err != nil {
			t.Fatal(err)
		}
		if !l.hasQdisc(t) {
			t.Error("another tool's filter lost its qdisc")
		}
	})
	t.Run("the interface is gone", func(t *testing.T) {
		if err := l.box.DeleteLink("eth0"); err != nil {
			t.Fatal(err)
		}
		if err := l.handle.DeleteFilter(ours); err != nil {
			t.Error(err)
		}
	})
}
