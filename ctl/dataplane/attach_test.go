package dataplane

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"gardu/ctl/abi"
	"gardu/ctl/model"
	"gardu/ctl/netdev"
)

func TestAttachOnEveryPath(t *testing.T) {
	w := newWires(t)
	for _, want := range []Attachment{
		{Want: model.PathXDP, Path: model.PathXDP},
		{Want: model.PathAuto, Path: model.PathXDP},
		{Want: model.PathXDPGeneric, Path: model.PathXDPGeneric},
		{Want: model.PathTC, Path: model.PathTC, TCX: true},
		{Want: model.PathTC, Path: model.PathTC, TCX: true, Egress: true},
		{Want: model.PathXDP, Path: model.PathXDP, TCX: true, Egress: true},
	} {
		t.Run(string(want.Want), func(t *testing.T) {
			want.Name, want.Ifindex = "eth0", w.ifindex
			d := open(t, testDir(t))
			defer closeIt(t, d)
			if got := w.attach(t, d, AttachOptions{Path: want.Want, Egress: want.Egress}); got != want {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
			if got := d.Attachments(); !slices.Equal(got, []Attachment{want}) {
				t.Errorf("Attachments: %+v", got)
			}
			before := packets(t, d)
			w.send(t, 100)
			eventually(t, "100 packets counted", func() bool { return packets(t, d) >= before+100 })
			if err := d.Detach("eth0"); err != nil {
				t.Fatal(err)
			}
			if err := d.Detach("eth0"); !errors.Is(err, ErrNotAttached) {
				t.Errorf("second Detach: %v", err)
			}
			before = packets(t, d)
			w.send(t, 100)
			if after := packets(t, d); after != before {
				t.Errorf("%d packets counted after Detach", after-before)
			}
		})
	}
}

func TestAttachChangesThePath(t *testing.T) {
	w := newWires(t)
	d := open(t, testDir(t))
	defer closeIt(t, d)
	for _, path := range []model.Path{model.PathXDP, model.PathTC, model.PathXDPGeneric, model.PathXDP, model.PathXDP, model.PathTC} {
		if a := w.attach(t, d, AttachOptions{Path: path}); a.Path != path {
			t.Errorf("want %s, got %+v", path, a)
		}
		if n := len(d.attachments["eth0"].hooks); n != 1 {
			t.Errorf("%s: %d hooks", path, n)
		}
	}
	if err := d.DetachAll(); err != nil {
		t.Fatal(err)
	}
	if all := d.Attachments(); len(all) != 0 {
		t.Errorf("after DetachAll: %+v", all)
	}
}

// The loopback has no driver that could run XDP.
func TestAttachFallsBackToGenericAloud(t *testing.T) {
	w := newWires(t)
	dir := testDir(t)
	d := open(t, dir)
	var first Attachment
	w.do(t, func() (err error) {
		first, err = d.Attach(AttachOptions{Name: "lo", Ifindex: 1, Path: model.PathXDP})
		return err
	})
	if first.Path != model.PathXDPGeneric || !strings.Contains(first.Why, "refused native XDP") {
		t.Errorf("got %+v", first)
	}
	id := linkID(t, d, "lo")
	closeIt(t, d)

	d = open(t, dir)
	defer closeIt(t, d)
	w.do(t, func() error {
		again, err := d.Attach(AttachOptions{Name: "lo", Ifindex: 1, Path: model.PathXDP})
		if again.Path != model.PathXDPGeneric || again.Why == "" {
			t.Errorf("taken over: %+v", again)
		}
		return err
	})
	if linkID(t, d, "lo") != id {
		t.Error("a fall-back that was taken over was attached anew")
	}
}

func TestAttachRefusesAForeignProgramUnlessToldOtherwise(t *testing.T) {
	w := newWires(t)
	rtnetlink := w.netlink(t)
	foreigner := open(t, testDir(t))
	defer closeIt(t, foreigner)
	w.attach(t, foreigner, AttachOptions{Path: model.PathXDP})
	id := programID(t, foreigner)

	d, err := Open(Options{Dir: testDir(t), Features: allOn(), Netlink: rtnetlink})
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, d)
	for _, path := range []model.Path{model.PathXDP, model.PathXDPGeneric} {
		w.do(t, func() error {
			_, err := d.Attach(AttachOptions{Name: "eth0", Ifindex: w.ifindex, Path: path})
			var busy *BusyError
			if !errors.Is(err, ErrBusy) || !errors.As(err, &busy) || busy.Program != uint32(id) {
				t.Errorf("%s: %v, want program %d named", path, err, id)
			}
			return nil
		})
	}
	if all := d.Attachments(); len(all) != 0 {
		t.Errorf("after the refusal: %+v", all)
	}
	if a := w.attach(t, d, AttachOptions{Path: model.PathXDP, Replace: true}); a.Path != model.PathXDP {
		t.Errorf("replaced: %+v", a)
	}
}

func TestAttachByClsact(t *testing.T) {
	w := newWires(t)
	rtnetlink := w.netlink(t)
	dir := testDir(t)
	openWith := func() *Dataplane {
		t.Helper()
		var d *Dataplane
		w.do(t, func() (err error) { // the mark of a filter says only the interface's name
			d, err = Open(Options{Dir: dir, Features: allOn(), Netlink: rtnetlink})
			return err
		})
		return d
	}
	d := openWith()
	d.noTCX = true
	a := w.attach(t, d, AttachOptions{Path: model.PathTC, Egress: true})
	if a.Path != model.PathTC || a.TCX || !a.Egress || a.Why == "" {
		t.Errorf("got %+v", a)
	}
	w.send(t, 100)
	eventually(t, "100 packets counted", func() bool { return packets(t, d) >= 100 })
	closeIt(t, d)

	before := pinnedPackets(t, dir)
	w.send(t, 100)
	eventually(t, "100 packets counted without a daemon", func() bool { return pinnedPackets(t, dir) >= before+100 })
	d = openWith()
	if got := d.Attachments(); len(got) != 1 || got[0].Path != model.PathTC || !got[0].Egress || got[0].Ifindex != w.ifindex {
		t.Errorf("taken over: %+v", got)
	}
	closeIt(t, d)

	w.do(t, func() error { return Remove(dir, rtnetlink) })
	filters, err := rtnetlink.Filters(w.ifindex)
	if err != nil || len(filters) != 0 {
		t.Errorf("after Remove: %v, %v", filters, err)
	}
}

func TestAttachToAnInterfaceThatCameBack(t *testing.T) {
	w := newWires(t)
	d := open(t, testDir(t))
	defer closeIt(t, d)
	w.attach(t, d, AttachOptions{Path: model.PathXDP, Egress: true})
	w.recreate(t)
	if err := d.SetFeatures(allOff()); err != nil {
		t.Errorf("swap while the interface is gone: %v", err)
	}
	a := w.attach(t, d, AttachOptions{Path: model.PathXDP, Egress: true})
	if a.Ifindex != w.ifindex || a.Path != model.PathXDP || !a.Egress {
		t.Errorf("got %+v", a)
	}
	before := packets(t, d)
	w.send(t, 10)
	eventually(t, "packets counted", func() bool { return packets(t, d) >= before+10 })
}

func TestTakeOverDetachesNothing(t *testing.T) {
	w := newWires(t)
	dir := testDir(t)
	d := open(t, dir)
	w.attach(t, d, AttachOptions{Path: model.PathXDP, Egress: true})
	want := d.Attachments()
	id, program := linkID(t, d, "eth0"), programID(t, d)
	closeIt(t, d)

	counted := pinnedPackets(t, dir)
	w.send(t, 100)
	eventually(t, "100 packets counted without a daemon", func() bool { return pinnedPackets(t, dir) >= counted+100 })

	counted = pinnedPackets(t, dir)
	stop, sent := w.sendOn(t)
	for range 5 {
		d = open(t, dir)
		if got := d.Attachments(); !slices.Equal(got, want) {
			t.Errorf("taken over: %+v\nwant %+v", got, want)
		}
		if linkID(t, d, "eth0") != id {
			t.Error("another link than before")
		}
		next := programID(t, d)
		if next == program {
			t.Error("the program of the former daemon still runs")
		}
		program = next
		closeIt(t, d)
	}
	stop()
	eventually(t, "every packet sent during take-overs counted", func() bool { return pinnedPackets(t, dir) >= counted+sent() })
}

func TestSetFeaturesSwapsEveryHook(t *testing.T) {
	w := newWires(t)
	d := open(t, testDir(t))
	defer closeIt(t, d)
	w.attach(t, d, AttachOptions{Path: model.PathTC, Egress: true})
	before := programID(t, d)
	if err := d.SetFeatures(allOff()); err != nil {
		t.Fatal(err)
	}
	if d.Features() != allOff() || programID(t, d) == before {
		t.Errorf("features %+v, program %d", d.Features(), programID(t, d))
	}
	count := packets(t, d)
	w.send(t, 10)
	eventually(t, "packets counted", func() bool { return packets(t, d) >= count+10 })
}

func TestPinNames(t *testing.T) {
	for _, name := range []string{"eth0", "eth0.100", "a-xdp", "wg-clsact_egress"} {
		for _, k := range []kind{kindXDP, kindGeneric, kindFallback, kindIngress, kindEgress, kindClsactIngress, kindClsactEgress} {
			pin := pinName(name, k)
			if gotName, gotKind, ok := parsePinName(pin); !ok || gotName != name || gotKind != k || strings.Contains(pin, ".") {
				t.Errorf("%s %s: pin %s means %s %s", name, k, pin, gotName, gotKind)
			}
		}
	}
	if _, _, ok := parsePinName("eth0-other"); ok {
		t.Error("an unknown pin was taken for ours")
	}
}

// netlink is a handle for the box's namespace.
func (w *wires) netlink(t *testing.T) *netdev.Handle {
	t.Helper()
	var handle *netdev.Handle
	w.do(t, func() (err error) {
		handle, err = netdev.Open()
		return err
	})
	t.Cleanup(handle.Close)
	return handle
}

func linkID(t *testing.T, d *Dataplane, name string) link.ID {
	t.Helper()
	info, err := d.attachments[name].hooks[0].link.Info()
	if err != nil {
		t.Fatal(err)
	}
	return info.ID
}

// programID is that of the program on the first hook of eth0.
func programID(t *testing.T, d *Dataplane) ebpf.ProgramID {
	t.Helper()
	info, err := d.attachments["eth0"].hooks[0].link.Info()
	if err != nil {
		t.Fatal(err)
	}
	return info.Program
}

// pinnedPackets counts packets where no daemon runs.
func pinnedPackets(t *testing.T, dir string) (sum uint64) {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, abi.AbiMapReasons), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	all, err := counters[abi.Counter](m, firstIDs(int(abi.ReasonCount)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		sum += c.Packets
	}
	return sum
}
