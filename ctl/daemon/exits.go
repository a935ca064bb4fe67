package daemon

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/model"
	"gardu/ctl/netdev"
)

// exits is what was told to the data plane of the interfaces that rules redirect or mirror to.
type exits struct {
	mu     sync.Mutex
	byName map[string]exit
}

type exit struct {
	abi.Exit
	err error // why nothing leaves by it
}

var errDown = errors.New("interface is down")

// syncExits looks at interfaces that rules redirect or mirror to, and tells the data plane what changed. What fails is tried
// again with the next look.
func (d *Daemon) syncExits(ids map[string]uint16) {
	d.exits.mu.Lock()
	defer d.exits.mu.Unlock()
	next := make(map[string]exit, len(ids))
	for name, id := range ids {
		now := d.findExit(name)
		before, known := d.exits.byName[name]
		if !known || before.Exit != now.Exit {
			err := d.plane.PutExit(id, now.Exit)
			d.fault("exit "+name, err)
			if err != nil {
				continue
			}
		}
		if known && (before.err == nil) != (now.err == nil) {
			d.log.Info("interface that rules send packets to changed", "interface", name, "usable", now.err == nil, "error", now.err)
		}
		next[name] = now
	}
	d.exits.byName = next
}

func (d *Daemon) findExit(name string) exit {
	link, err := d.netdev.Link(name)
	switch {
	case errors.Is(err, netdev.ErrNoLink):
		return exit{err: netdev.ErrNoLink}
	case err != nil:
		return exit{err: err}
	case !link.Up:
		return exit{err: errDown}
	}
	return exit{Exit: abi.Exit{Ifindex: uint32(link.Index), Mtu: uint32(link.MTU)}}
}

// exitStatus is how it stands with the interfaces that rules of the snapshot redirect or mirror to, in the order of the rules.
func (d *Daemon) exitStatus(now *applied) ([]api.Exit, error) {
	counters, err := d.plane.ExitCounters()
	if err != nil {
		return nil, err
	}
	d.exits.mu.Lock()
	defer d.exits.mu.Unlock()
	var list []api.Exit
	listed := map[string]bool{}
	for _, rule := range now.snapshot.Filter.Rules {
		name := rule.Interface
		if name == "" || listed[name] {
			continue
		}
		listed[name] = true
		state, c := d.exits.byName[name], counters[now.ids.Exits[name]]
		one := api.Exit{Name: name, Ifindex: int(state.Ifindex), Redirected: c.Redirected, Mirrored: c.Mirrored, Failed: c.Failed}
		if state.err != nil {
			one.Error = state.err.Error()
		}
		list = append(list, one)
	}
	return list, nil
}

// onlyTC says why an interface can't be anywhere but at tc; "" when it can.
func onlyTC(want model.Interface) string {
	if want.Copies == "" {
		return ""
	}
	return "rule " + want.Copies + " mirrors, and XDP can't copy packets"
}

// lossStatus is what the kernel lost after XDP sent it.
func (d *Daemon) lossStatus() ([]api.Loss, error) {
	losses, err := d.plane.Losses()
	if err != nil || len(losses) == 0 {
		return nil, err
	}
	names := d.linkNames()
	list := make([]api.Loss, len(losses))
	for i, loss := range losses {
		list[i] = api.Loss{Interface: names[loss.Ifindex], Packets: loss.Packets, Why: whyLost(loss.Err)}
		if list[i].Interface == "" {
			list[i].Interface = fmt.Sprintf("if%d", loss.Ifindex)
		}
	}
	return list, nil
}

// whyLost is what a driver's error means, and what to do.
func whyLost(err error) string {
	switch {
	case err == nil:
		return "its queue was full"
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.EOPNOTSUPP): // a veth says one or the other, by kernel
		return "it sends nothing for XDP: if it is a veth, turn gro on at its peer, else use path tc where the packets come in"
	case errors.Is(err, unix.EMSGSIZE):
		return "longer than its MTU"
	case errors.Is(err, unix.ENETDOWN):
		return "it is down"
	}
	return err.Error()
}
