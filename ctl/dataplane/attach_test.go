package dataplane

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/model"
)

func TestAttachOnEveryPath(t *testing.T) {
	w := newWires(t)
	d := w.open(t, testDir(t))
	defer closeIt(t, d)
	tcx := hasTCX(t, d)
	for _, want := range []Attachment{
		{Want: model.PathXDP, Path: model.PathXDP},
		{Want: model.PathAuto, Path: model.PathXDP},
		{Want: model.PathXDPGeneric, Path: model.PathXDPGeneric},
		{Want: model.PathTC, Path: model.PathTC},
		{Want: model.PathTC, Path: model.PathTC, Egress: true},
		{Want: model.PathXDP, Path: model.PathXDP, Egress: true},
	} {
		t.Run(string(want.Want), func(t *testing.T) {
			want.Name, want.Ifindex = "eth0", w.ifindex
			got := w.attach(t, d, AttachOptions{Path: want.Want, Egress: want.Egress})
			if want.Egress || want.Path == model.PathTC {
				want.TCX = tcx
			}
			if !want.TCX && want.Path == model.PathTC {
				want.Why = clsactWhy
			}
			if got != want {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
			if all := d.Attachments(); !slices.Equal(all, []Attachment{got}) {
				t.Errorf("Attachments: %+v", all)
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
	d := w.open(t, testDir(t))
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
	d := w.open(t, dir)
	var first Attachment
	w.do(t, func() (err error) {
		first, err = d.Attach(AttachOptions{Name: "lo", Ifindex: 1, Path: model.PathXDP})
		return err
	})
	if first.Path != model.PathXDPGeneric || !strings.Contains(first.Why, "refused native XDP") {
		t.Errorf("got %+v", first)
	}
	id := xdpLink(t, d, "lo").ID
	closeIt(t, d)

	d = w.open(t, dir)
	defer closeIt(t, d)
	w.do(t, func() error {
		again, err := d.Attach(AttachOptions{Name: "lo", Ifindex: 1, Path: model.PathXDP})
		if again.Path != model.PathXDPGeneric || again.Why == "" {
			t.Errorf("taken over: %+v", again)
		}
		return err
	})
	if xdpLink(t, d, "lo").ID != id {
		t.Error("a fall-back that was taken over was attached anew")
	}
}

func TestAttachRefusesAForeignProgramUnlessToldOtherwise(t *testing.T) {
	w := newWires(t)
	foreigner := w.open(t, testDir(t))
	defer closeIt(t, foreigner)
	w.attach(t, foreigner, AttachOptions{Path: model.PathXDP})
	id := xdpLink(t, foreigner, "eth0").Program

	d := w.open(t, testDir(t))
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
	dir := testDir(t)
	d := w.open(t, dir)
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
	d = w.open(t, dir)
	if got := d.Attachments(); len(got) != 1 || got[0].Path != model.PathTC || !got[0].Egress || got[0].Ifindex != w.ifindex {
		t.Errorf("taken over: %+v", got)
	}
	closeIt(t, d)

	w.do(t, func() error { return Remove(dir, w.netlink) })
	filters, err := w.netlink.Filters(w.ifindex)
	if err != nil || len(filters) != 0 {
		t.Errorf("after Remove: %v, %v", filters, err)
	}
}

func TestAttachToAnInterfaceThatCameBack(t *testing.T) {
	w := newWires(t)
	d := w.open(t, testDir(t))
	defer closeIt(t, d)
	for _, noTCX := range []bool{false, true} {
		d.noTCX = noTCX
		w.attach(t, d, AttachOptions{Path: model.PathXDP, Egress: true})
		w.recreate(t)
		if err := d.SetFeatures(compile.Features{Blocks: true}); err != nil {
			t.Errorf("swap while the interface is gone: %v", err)
		}
		if a := d.Attachments(); len(a) != 1 || a[0].Ifindex != 0 {
			t.Errorf("while the interface is gone: %+v", a)
		}
		a := w.attach(t, d, AttachOptions{Path: model.PathXDP, Egress: true})
		if a.Ifindex != w.ifindex || a.Path != model.PathXDP || !a.Egress {
			t.Errorf("got %+v", a)
		}
		before := packets(t, d)
		w.send(t, 10)
		eventually(t, "packets counted", func() bool { return packets(t, d) >= before+10 })
		if err := d.Detach("eth0"); err != nil {
			t.Fatal(err)
		}
		if err := d.SetFeatures(allOff()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTakeOverDetachesNothing(t *testing.T) {
	w := newWires(t)
	dir := testDir(t)
	d := w.open(t, dir)
	w.attach(t, d, AttachOptions{Path: model.PathXDP, Egress: true})
	want := d.Attachments()
	id, program := xdpLink(t, d, "eth0").ID, xdpLink(t, d, "eth0").Program
	closeIt(t, d)

	counted := pinnedPackets(t, dir)
	w.send(t, 100)
	eventually(t, "100 packets counted without a daemon", func() bool { return pinnedPackets(t, dir) >= counted+100 })

	counted = pinnedPackets(t, dir)
	stop, sent := w.sendOn(t)
	for range 3 {
		d = w.open(t, dir)
		if got := d.Attachments(); !slices.Equal(got, want) {
			t.Errorf("taken over: %+v\nwant %+v", got, want)
		}
		if xdpLink(t, d, "eth0").ID != id {
			t.Error("another link than before")
		}
		next := xdpLink(t, d, "eth0").Program
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
	d := w.open(t, testDir(t), allOn())
	defer closeIt(t, d)
	w.attach(t, d, AttachOptions{Path: model.PathXDP, Egress: true})
	before := xdpLink(t, d, "eth0").Program
	if err := d.SetFeatures(allOff()); err != nil {
		t.Fatal(err)
	}
	if d.Features() != allOff() || xdpLink(t, d, "eth0").Program == before {
		t.Errorf("features %+v, program %d", d.Features(), xdpLink(t, d, "eth0").Program)
	}
	count := packets(t, d)
	w.send(t, 10)
	eventually(t, "packets counted", func() bool { return packets(t, d) >= count+10 })
}

// The verifier takes long: it sees only what sits on an interface, and sees that once for features and longer tables together.
func TestProgramsAreLoadedOnceAndWhereTheySit(t *testing.T) {
	w := newWires(t)
	d := w.open(t, testDir(t), allOff())
	defer closeIt(t, d)
	loaded := func() (hooks []Hook) {
		for hook, program := range d.programs.loaded {
			if program != nil {
				hooks = append(hooks, Hook(hook))
			}
		}
		return hooks
	}
	if got := loaded(); got != nil {
		t.Errorf("attached nowhere, but programs %v are loaded", got)
	}
	w.attach(t, d, AttachOptions{Path: model.PathXDP})
	if got := loaded(); !slices.Equal(got, []Hook{HookXDP}) {
		t.Errorf("attached to XDP, and programs %v are loaded", got)
	}
	long := make([]abi.Line, 1000)
	var tables Tables
	for which := range abi.TableServices {
		var err error
		if tables[which], err = d.NewTable(which, long); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Prepare(compile.Features{Rules: true}, tables); err != nil {
		t.Fatal(err)
	}
	prepared := d.programs
	if got := loaded(); !slices.Equal(got, []Hook{HookXDP}) {
		t.Errorf("after a swap programs %v are loaded", got)
	}
	if err := d.Commit(1, tables); err != nil {
		t.Fatal(err)
	}
	if d.programs != prepared {
		t.Error("programs were swapped once more for tables that they were loaded with")
	}

	soon := w.openWith(t, Options{Dir: testDir(t), FlowsMax: 1000, Hooks: []Hook{HookIngress, HookCheck}})
	defer closeIt(t, soon)
	names := fmt.Sprint(soon.programs.loaded)
	if !strings.Contains(names, "gardu_ingress") || !strings.Contains(names, "gardu_check") || strings.Contains(names, "gardu_xdp") || strings.Contains(names, "gardu_egress") {
		t.Errorf("opened for tc ingress and checks, %s are loaded", names)
	}
	if err := soon.Prepare(compile.Features{Rules: true}, Tables{}); err != nil {
		t.Fatal(err)
	}
	if names := fmt.Sprint(soon.programs.loaded); strings.Contains(names, "gardu_") {
		t.Errorf("attached nowhere, and after a swap %s are loaded", names)
	}
}

// Programs that were begun before somebody asked for them are those that run, or leave no trace.
func TestForesee(t *testing.T) {
	w := newWires(t)
	d := w.open(t, testDir(t), allOff())
	defer closeIt(t, d)
	w.attach(t, d, AttachOptions{Path: model.PathXDP, Egress: true})
	rules := compile.Features{Rules: true}
	foresee := func(features compile.Features, lines int) *programs {
		t.Helper()
		d.Foresee(features, [abi.TableCount]int{abi.TableRules: lines})
		return d.foreseen
	}
	// gone tells that a load was given up; begun is over then.
	gone := func(p *programs) {
		t.Helper()
		if d.foreseen != nil {
			t.Error("it is still foreseen")
		}
		for hook, program := range p.loaded {
			if program == nil {
				continue
			}
			if _, err := program.Info(); err == nil {
				t.Errorf("hook %d: the program is still there", hook)
			}
		}
		for name, outer := range p.outers {
			if _, err := outer.Info(); err == nil {
				t.Errorf("map %s is still there", name)
			}
		}
	}
	prepare := func(features compile.Features, lines int) (tables Tables, err error) {
		t.Helper()
		if tables[abi.TableRules], err = d.NewTable(abi.TableRules, make([]abi.Line, lines)); err != nil {
			t.Fatal(err)
		}
		return tables, d.Prepare(features, tables)
	}

	if p := foresee(allOff(), 10); p != nil {
		t.Error("programs are loaded that nobody will ask for")
	}
	p := foresee(rules, 1000)
	if d.Features() != allOff() {
		t.Errorf("what is foreseen is in force: %s", d.Features())
	}
	tables, err := prepare(rules, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if d.programs != p || d.foreseen != nil {
		t.Error("what was foreseen doesn't run")
	}
	info, err := p.loaded[HookXDP].Info()
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := info.ID(); id != xdpLink(t, d, "eth0").Program || p.loaded[HookEgress] == nil || p.loaded[HookIngress] != nil {
		t.Errorf("programs %v", p.loaded)
	}
	if err := d.Commit(1, tables); err != nil {
		t.Fatal(err)
	}
	programsHave(t, d, tables)

	for name, other := range map[string]func() error{
		"forgotten":      d.Forget,
		"other features": func() error { return d.SetFeatures(allOff()) },
		"other lengths": func() error {
			tables, err := prepare(compile.Features{Rules: true, Sets: true}, 100_000)
			closeIt(t, tables[abi.TableRules]) // it is for the next generation, which doesn't come
			return err
		},
		"a capture began": func() error { return errors.Join(d.BeginCapture(&abi.CaptureFilter{}, 1), d.EndCapture()) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := d.SetFeatures(rules); err != nil {
				t.Fatal(err)
			}
			p := foresee(compile.Features{Rules: true, Sets: true}, 10)
			if err := other(); err != nil {
				t.Fatal(err)
			}
			gone(p)
			count := packets(t, d)
			w.send(t, 10)
			eventually(t, "packets counted", func() bool { return packets(t, d) >= count+10 })
		})
	}

	sample := compile.Features{Flows: true, Sample: true} // which none of them left behind
	failed := foresee(sample, 0)
	<-failed.begun
	failed.begun <- errors.New("broken")
	before := d.programs
	if err := d.SetFeatures(sample); err == nil || !strings.Contains(err.Error(), "broken") || d.programs != before {
		t.Errorf("what went wrong with what was foreseen is not told: %v", err)
	}
	gone(failed)
	if err := d.SetFeatures(sample); err != nil {
		t.Error(err)
	}
	foresee(rules, 0) // Close is to follow
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

// hasTCX probes for it, on the loopback.
func hasTCX(t *testing.T, d *Dataplane) bool {
	t.Helper()
	h, err := attachHook("", "lo", 1, kindIngress, program(t, d, HookIngress), nil)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := h.detach(); err != nil {
		t.Fatal(err)
	}
	return true
}

// xdpLink tells about the link of an interface's XDP program.
func xdpLink(t *testing.T, d *Dataplane, name string) *link.Info {
	t.Helper()
	for _, h := range d.attachments[name].hooks {
		if !h.kind.isXDP() {
			continue
		}
		info, err := h.link.Info()
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	t.Fatalf("no XDP program on %s", name)
	return nil
}

// pinnedPackets counts packets where no daemon runs.
func pinnedPackets(t *testing.T, dir string) (sum uint64) {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, abi.AbiMapInterfaceCounters), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	all, err := counters[abi.InterfaceCounter](m, firstIDs(int(abi.InterfaceIds)))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		for _, c := range i.Reason {
			sum += c.Packets
		}
	}
	return sum
}
