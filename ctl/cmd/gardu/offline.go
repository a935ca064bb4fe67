package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/compile"
	"gardu/ctl/config"
	"gardu/ctl/dataplane"
	"gardu/ctl/explain"
	"gardu/ctl/model"
	"gardu/ctl/netdev"
)

// explainOffline judges a frame by a configuration that need not be applied anywhere: the programs are loaded for this
// one packet and attached to nothing. Backends count as up, and next hops are those that this machine has now.
func (a *app) explainOffline(path string, request api.ExplainRequest) (api.Explanation, error) {
	var none api.Explanation
	snapshot, _, err := config.Load(path)
	if err != nil {
		return none, err
	}
	if err := a.needRoot(); err != nil {
		return none, err
	}
	box, err := explain.NewBox(compile.AllFeatures())
	if err != nil {
		return none, err
	}
	defer box.Close()
	at, names, err := a.furnish(box, snapshot, path, request.Interface)
	if err != nil {
		return none, err
	}
	q := explain.Question{Hook: at.hook, Frame: request.Frame, Ifindex: at.link.Index, WithFlow: request.WithFlow, Backend: request.Backend}
	if request.Out {
		q.Hook = dataplane.HookEgress
	}
	if !request.At.IsZero() {
		q.Later = max(0, time.Until(request.At))
	}
	told, err := box.Explain(q, names)
	if err != nil {
		return told, err
	}
	told.Cost, err = box.Cost(q)
	return told, err
}

// furnish puts a snapshot in force in a box, with what this machine knows of interfaces and next hops. It says where packets come
// in, and what interfaces are called.
func (a *app) furnish(box *explain.Box, snapshot *model.Snapshot, path, ifname string) (at receiver, names map[int]string, err error) {
	links, err := netdev.Open()
	if err != nil {
		return at, nil, err
	}
	defer links.Close()
	if at, err = a.receiver(links, snapshot, ifname); err != nil {
		return at, nil, err
	}
	if err := box.Apply(snapshot); err != nil {
		return at, nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := box.SetInterface(at.link.Index, at.link.Name, at.link.MAC); err != nil {
		return at, nil, err
	}
	names = map[int]string{at.link.Index: at.link.Name}
	for _, service := range snapshot.Services {
		for _, backend := range service.Backends {
			hop, err := links.NextHop(backend.Address)
			if err != nil {
				continue // the packet's way tells: the next hop is not known
			}
			key := explain.BackendKey{Service: service.Name, Name: backend.Name, Address: backend.Address, Mode: service.Forward}
			err = box.SetBackend(key, explain.BackendState{
				Hop: true, MTU: hop.MTU, Ifindex: hop.Ifindex, NextMAC: hop.DstMAC, OwnMAC: hop.SrcMAC, Source: hop.Source,
			})
			if err != nil {
				return at, nil, err
			}
			if link, err := links.LinkByIndex(hop.Ifindex); err == nil {
				names[hop.Ifindex] = link.Name
			}
		}
	}
	for _, rule := range snapshot.Filter.Rules {
		if link, err := links.Link(rule.Interface); rule.Interface != "" && err == nil && link.Up {
			names[link.Index] = link.Name
			if err := box.SetExit(rule.Interface, explain.Exit{Ifindex: link.Index, MTU: link.MTU}); err != nil {
				return at, nil, err
			}
		}
	}
	return at, names, nil
}

// receiver is where a packet comes in.
type receiver struct {
	link netdev.Link
	hook dataplane.Hook
}

// receiver finds the interface of a snapshot, its first when ifname is "". One that this machine doesn't have is no
// error: the configuration may be another machine's.
func (a *app) receiver(links *netdev.Handle, snapshot *model.Snapshot, ifname string) (receiver, error) {
	if len(snapshot.Interfaces) == 0 {
		return receiver{netdev.Link{Index: 1, Name: orElse(ifname, "lo")}, dataplane.HookIngress}, nil
	}
	wanted := snapshot.Interfaces[0]
	if ifname != "" {
		found := false
		var names []string
		for _, i := range snapshot.Interfaces {
			names = append(names, i.Name)
			if i.Name == ifname {
				wanted, found = i, true
			}
		}
		if !found {
			return receiver{}, usage("-i %s: the configuration has the interfaces %s", ifname, strings.Join(names, ", "))
		}
	}
	link, err := links.Link(wanted.Name)
	if errors.Is(err, netdev.ErrNoLink) {
		link, err = netdev.Link{Index: 1, Name: wanted.Name}, nil
		a.warnf("%s is not on this machine; the packet is judged as if it were\n", wanted.Name)
	}
	if err != nil {
		return receiver{}, err
	}
	path := wanted.Path
	if path == model.PathAuto {
		if path, _ = netdev.ChoosePath(link); wanted.Copies != "" {
			path = model.PathTC
		}
		path, _ = netdev.PathForTags(link, path, wanted.Tags)
	}
	if path == model.PathXDP || path == model.PathXDPGeneric {
		return receiver{link, dataplane.HookXDP}, nil
	}
	return receiver{link, dataplane.HookIngress}, nil
}
