package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// checkGone expects no trace of gardu in the kernel.
func (w *world) checkGone() {
	w.Helper()
	if err := w.answers("192.0.2.10"); err == nil {
		w.Error("a service is still balanced")
	}
	if _, err := os.Stat(w.bpffs); !errors.Is(err, os.ErrNotExist) {
		w.Errorf("%s is still there: %v", w.bpffs, err)
	}
	links, err := w.box.Output(w.Context(), "ip", "-d", "link")
	w.must(err)
	filters, err := w.box.Output(w.Context(), "tc", "qdisc", "show")
	w.must(err)
	if text := string(links) + string(filters); strings.Contains(text, "xdp") || strings.Contains(text, "clsact") {
		w.Errorf("something is still attached:\n%s", text)
	}
	neighbours, err := w.box.Output(w.Context(), "ip", "neigh")
	w.must(err)
	if strings.Contains(string(neighbours), "managed") {
		w.Errorf("the kernel still refreshes neighbours for gardu:\n%s", neighbours)
	}
}

// TestDetach removes what a killed daemon left, on every path.
func TestDetach(t *testing.T) {
	for _, path := range []string{"tc", "xdp", "xdp-generic"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, 1)
			w.prepareXDP()
			w.startWeb()
			w.decap()
			w.start(allForwards(path, len(w.backends)))
			w.ready()
			if err := w.answers("192.0.2.10"); err != nil {
				t.Fatal(err)
			}
			if _, err := w.gardu("detach", "--bpffs", w.bpffs); err == nil {
				t.Error("detach succeeded while a daemon runs")
			}
			w.daemon.Kill()
			w.daemon = nil
			for range 2 { // the second time there is nothing to do
				if out, err := w.gardu("detach", "--bpffs", w.bpffs); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			w.checkGone()
		})
	}
}

// TestInterfaceReturns removes an interface and brings it back.
func TestInterfaceReturns(t *testing.T) {
	w := newWorld(t, 1)
	w.startWeb()
	w.decap()
	w.start(allForwards("auto", len(w.backends)))
	w.ready()
	attached := func(want bool) func() error {
		return func() error {
			status, err := w.api.Status(w.Context())
			if err != nil {
				return err
			}
			for _, i := range status.Interfaces {
				if i.Name == "client0" && i.Attached != want {
					return fmt.Errorf("attached is %t: %s", i.Attached, i.Error)
				}
			}
			return nil
		}
	}
	for range 2 {
		w.until("client0 attached", attached(true))
		if err := w.answers("192.0.2.10"); err != nil {
			t.Error(err)
		}
		w.must(w.box.DeleteLink("client0"))
		w.until("client0 gone", attached(false))
		w.connectClient()
	}
	w.until("client0 attached", attached(true))
	if err := w.answers("192.0.2.10"); err != nil {
		t.Error(err)
	}
}
