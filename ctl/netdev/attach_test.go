package netdev_test

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"gardu/ctl/netdev"
)

func TestOwnFilter(t *testing.T) {
	l := newLab(t)
	link, err := l.handle.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{netdev.IngressFilter, netdev.EgressFilter, netdev.CheckFilter} {
		if err := l.handle.AttachFilter(link.Index, name, classifier(t)); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := l.handle.Filters(link.Index); err != nil || len(list) != 3 {
		t.Errorf("got %+v, %v", list, err)
	}
	for _, name := range []string{netdev.IngressFilter, netdev.EgressFilter, netdev.CheckFilter} {
		if err := l.handle.DetachFilter(link.Index, name); err != nil {
			t.Fatal(err)
		}
	}
	if l.hasQdisc(t) {
		t.Error("the qdisc stayed")
	}
}

func TestForeignXDP(t *testing.T) {
	l := newLab(t)
	link, err := l.handle.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	program := load(t, unix.BPF_PROG_TYPE_XDP)
	for mode, flags := range map[string]int{"native": nl.XDP_FLAGS_DRV_MODE, "generic": nl.XDP_FLAGS_SKB_MODE} {
		t.Run(mode, func(t *testing.T) {
			if id, err := l.handle.XDPProgram(link.Index); err != nil || id != 0 {
				t.Errorf("got program %d, %v, want none", id, err)
			}
			err := l.box.Do(func() error {
				return netlink.LinkSetXdpFdWithFlags(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: link.Index}}, program, flags)
			})
			if err != nil {
				t.Fatal(err)
			}
			if id, err := l.handle.XDPProgram(link.Index); err != nil || id == 0 {
				t.Errorf("got program %d, %v, want one", id, err)
			}
			for range 2 { // the second time there is nothing to do
				if err := l.handle.DetachXDP(link.Index); err != nil {
					t.Fatal(err)
				}
			}
			if id, err := l.handle.XDPProgram(link.Index); err != nil || id != 0 {
				t.Errorf("got program %d, %v, want none", id, err)
			}
		})
	}
	if _, err := l.handle.XDPProgram(4711); !errors.Is(err, netdev.ErrNoLink) {
		t.Errorf("got %v, want ErrNoLink", err)
	}
}
