package daemon

import (
	"context"
	"maps"
	"slices"
	"strings"

	"gardu/ctl/api"
	"gardu/ctl/dataplane"
	"gardu/ctl/explain"
	"gardu/ctl/model"
)

// Explain puts one frame through the programs, on an instance beside the live one.
func (d *Daemon) Explain(_ context.Context, request api.ExplainRequest) (api.Explanation, error) {
	now := d.current.Load()
	in, err := d.explainOn(now, request.Interface)
	if err != nil {
		return api.Explanation{}, err
	}
	sibling, err := d.plane.Sibling()
	if err != nil {
		return api.Explanation{}, err
	}
	defer sibling.Close()
	hook := dataplane.HookXDP
	if in.Path == model.PathTC {
		hook = dataplane.HookIngress
	}
	result, err := sibling.Run(hook, request.Frame, in.Ifindex)
	if err != nil {
		return api.Explanation{}, err
	}
	backends := d.reconciler.Have().Backends
	names := explain.NewNames(now.ids, slices.Collect(maps.Values(backends)))
	return explain.Explain(result, names, in.Ifindex, d.linkNames()), nil
}

// explainOn is the interface that the packet is to come in on: the first when none is named.
func (d *Daemon) explainOn(now *applied, name string) (api.Interface, error) {
	var names []string
	for _, i := range d.interfaceStatus(now, nil) {
		names = append(names, i.Name)
		if name != "" && i.Name != name {
			continue
		}
		if !i.Attached {
			return i, api.NewProblem(api.CodeConflict, "gardu is not attached to %s: %s", i.Name, i.Error)
		}
		return i, nil
	}
	if name == "" {
		return api.Interface{}, api.NewProblem(api.CodeConflict, "the configuration has no interface for the packet to come in on")
	}
	return api.Interface{}, api.NewProblem(api.CodeNotFound, "gardu is not on an interface %s, but on %s", name, strings.Join(names, ", "))
}
