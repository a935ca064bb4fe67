package dataplane

import (
	"testing"

	"github.com/cilium/ebpf"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
)

// takeAll is a filter that picks every packet (reader 0), or none.
func takeAll(all bool, snap uint32) *abi.CaptureFilter {
	f := &abi.CaptureFilter{Snap: snap}
	f.Test[0] = abi.CaptureTest{Kind: uint8(abi.CaptureEnd)}
	if all {
		f.Test[0] = abi.CaptureTest{Kind: uint8(abi.CaptureTake), Yes: 1}
		f.Test[1] = abi.CaptureTest{Kind: uint8(abi.CaptureEnd)}
	}
	return f
}

var captureFrame = append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 198, 51, 100, 7, 192, 0, 2, 1}, make([]byte, 20)...)

// TestNothingIsLeftOfCapture: what runs after a capture is what ran before it, to the instruction, and a change of features meanwhile doesn't
// end it.
func TestNothingIsLeftOfCapture(t *testing.T) {
	d := private(t, compile.Features{Blocks: true})
	insns := func() (all [2]uint32) {
		t.Helper()
		for i, hook := range []Hook{HookXDP, HookIngress} {
			info, err := program(t, d, hook).Info()
			if err != nil {
				t.Fatal(err)
			}
			size, err := info.TranslatedSize()
			if err != nil {
				t.Fatal(err)
			}
			all[i] = uint32(size)
		}
		return all
	}
	run := func() {
		t.Helper()
		if _, err := program(t, d, HookXDP).Run(&ebpf.RunOptions{Data: captureFrame}); err != nil {
			t.Fatal(err)
		}
	}
	hold := func() {
		t.Helper()
		program(t, d, HookXDP) // an emulated machine takes longer to load it than a capture is held
		if err := d.HoldCapture(); err != nil {
			t.Fatal(err)
		}
	}
	sent := func() uint64 {
		t.Helper()
		totals, err := d.CaptureTotals()
		if err != nil {
			t.Fatal(err)
		}
		return totals.Sent
	}
	before := insns()
	if err := d.BeginCapture(takeAll(true, 64), 0); err != nil {
		t.Fatal(err)
	}
	hold()
	run()
	if err := d.SetFeatures(compile.Features{Blocks: true, Flows: true}); err != nil {
		t.Fatal(err)
	}
	hold()
	run()
	if n := sent(); n != 2 || !d.Features().Capture {
		t.Errorf("%d packets were captured around a change of features", n)
	}
	d.capture.until = 1 // the daemon was killed
	if err := d.capture.write(); err != nil {
		t.Fatal(err)
	}
	run()
	if n := sent(); n != 2 {
		t.Errorf("%d packets were captured, and nobody lets programs go on", n)
	}
	if err := d.SetFeatures(compile.Features{Blocks: true}); err != nil {
		t.Fatal(err)
	}
	if err := d.EndCapture(); err != nil {
		t.Fatal(err)
	}
	if after := insns(); after != before {
		t.Errorf("instructions: %v bytes before, %v after", before, after)
	}
	if _, err := d.CaptureTotals(); err == nil {
		t.Error("a capture is on")
	}
	for _, m := range []struct {
		object string
		load   func() (*ebpf.CollectionSpec, error)
	}{{"xdp", loadXdp}, {"tc", loadTc}} {
		spec, err := m.load()
		if err != nil {
			t.Fatal(err)
		}
		d.captureSizes(spec.Maps, compile.Features{})
		for _, name := range []string{capturePlaces, captureFilters} {
			if bytes := spec.Maps[name].MaxEntries * spec.Maps[name].ValueSize; bytes > 64 {
				t.Errorf("%s: %s takes %d bytes without a capture", m.object, name, bytes)
			}
		}
	}
}

// BenchmarkCapture is what a packet of 54 bytes costs that passes by default, with nobody capturing, somebody who wants none of them, and
// somebody who wants all: told of, and lost because the ring is full.
func BenchmarkCapture(b *testing.B) {
	d, err := OpenPrivate(compile.Features{Blocks: true}, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	run := func(b *testing.B) {
		b.Helper()
		_, took, err := program(b, d, HookXDP).Benchmark(captureFrame, 1_000_000, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(took.Nanoseconds()), "ns/packet")
	}
	b.Run("off", run)
	for name, all := range map[string]bool{"none": false, "all": true} {
		b.Run(name, func(b *testing.B) {
			if err := d.BeginCapture(takeAll(all, 64), 1<<29); err != nil {
				b.Fatal(err)
			}
			run(b)
			totals, err := d.CaptureTotals()
			if err != nil {
				b.Fatal(err)
			}
			b.Logf("%+v", totals)
			if err := d.EndCapture(); err != nil {
				b.Fatal(err)
			}
		})
	}
	b.Run("off-again", run)
}
