package daemon

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/dataplane"
	"gardu/ctl/explain"
	"gardu/ctl/flow"
	"gardu/ctl/model"
)

// Explain puts one frame through the programs, on an instance beside the live one.
func (d *Daemon) Explain(_ context.Context, request api.ExplainRequest) (api.Explanation, error) {
	now := d.current.Load()
	in, err := d.explainOn(now, request.Interface, request.Out)
	if err != nil {
		return api.Explanation{}, err
	}
	var later time.Duration
	if !request.At.IsZero() {
		later = max(0, time.Until(request.At))
	}
	sibling, err := d.plane.SiblingIf(dataplane.Assumption{NoFlows: request.AsNewFlow || request.WithFlow, Later: later})
	if err != nil {
		return api.Explanation{}, err
	}
	defer sibling.Close()
	hook := dataplane.HookXDP
	switch {
	case request.Out:
		hook = dataplane.HookEgress
	case in.Path == model.PathTC:
		hook = dataplane.HookIngress
	}
	backends := slices.Collect(maps.Values(d.reconciler.Have().Backends))
	names := explain.NewNames(now.ids, backends)
	question := explain.Question{
		Hook: hook, Frame: request.Frame, Ifindex: in.Ifindex, WithFlow: request.WithFlow, Backend: request.Backend, Later: later,
	}
	beside := d.loadUntraced(now, hook, later)
	defer beside.close()
	answer, err := explain.Ask(sibling, question, names, backends)
	if errors.Is(err, explain.ErrNoFlow) {
		return api.Explanation{}, api.NewProblem(api.CodeConflict, "%v", err)
	}
	if err != nil {
		return api.Explanation{}, err
	}
	told := explain.Explain(answer.Result, names, in.Ifindex, d.linkNames())
	if told.Flow, err = d.knownFlow(answer.Flow); err != nil {
		return told, err
	}
	explain.Why(&told, now.snapshot, request.Frame, answer.Result, request.Out)
	if told.Reason == abi.ReasonBlocked.String() {
		if told.Block, err = d.blockOf(request.Frame); err != nil {
			return told, err
		}
	}
	told.Cost, err = beside.cost(question, answer)
	return told, err
}

// untraced is an instance on which what a packet takes is measured.
type untraced struct {
	made  chan struct{}
	plane *dataplane.Dataplane
	err   error
}

// loadUntraced begins to make one. The kernel verifies its program as long as the one that tells the way, so both are loaded side by side.
func (d *Daemon) loadUntraced(now *applied, hook dataplane.Hook, later time.Duration) *untraced {
	wish := d.trialOf(now, now.compiled, d.reconciler.Runtimes(now.tables.Rings...))
	wish.Alone, wish.Later = true, later
	u := &untraced{made: make(chan struct{})}
	go func() {
		defer close(u.made)
		if u.plane, u.err = d.plane.Try(wish); u.err == nil {
			_, u.err = u.plane.Program(hook)
		}
	}()
	return u
}

func (u *untraced) cost(q explain.Question, answer explain.Answer) (*api.PacketCost, error) {
	if <-u.made; u.err != nil {
		return nil, u.err
	}
	return explain.Cost(u.plane, q, answer)
}

func (u *untraced) close() {
	if <-u.made; u.plane != nil {
		u.plane.Close()
	}
}

// blockOf is the narrowest block that covers the source of a packet.
func (d *Daemon) blockOf(frame []byte) (*api.Block, error) {
	blocks, err := d.plane.Blocks()
	if err != nil {
		return nil, err
	}
	src := explain.Source(frame)
	blocks = slices.DeleteFunc(blocks, func(b dataplane.Block) bool { return !b.Prefix.Contains(src) })
	if len(blocks) == 0 {
		return nil, nil // it ended meanwhile
	}
	slices.SortFunc(blocks, func(a, b dataplane.Block) int { return b.Prefix.Bits() - a.Prefix.Bits() })
	return &blockList(blocks[:1])[0], nil
}

// knownFlow tells of a flow's record.
func (d *Daemon) knownFlow(f *abi.FlowValue) (*api.KnownFlow, error) {
	if f == nil {
		return nil, nil
	}
	clock, err := d.clock()
	if err != nil {
		return nil, err
	}
	names := d.flowNames()
	known := &api.KnownFlow{First: clock.Monotonic(f.First), Last: clock.Jiffies(f.Last), Packets: f.Packets, Bytes: f.Bytes,
		State: flow.StateWord(abi.FlowState(f.State)), Verdict: abi.Verdict(f.Verdict).String(), Service: names.services[f.Service], Backend: names.backends[f.Backend]}
	if f.Rule >= uint32(abi.FirstRuleId) {
		known.Rule = names.rules[f.Rule]
	}
	return known, nil
}

// explainOn is the interface that the packet is to come in on, or leave by: the first when none is named.
func (d *Daemon) explainOn(now *applied, name string, out bool) (api.Interface, error) {
	var names []string
	all := d.interfaceStatus(now, nil)
	for _, i := range all {
		names = append(names, i.Name)
		if name != "" && i.Name != name {
			continue
		}
		if !i.Attached {
			return i, api.NewProblem(api.CodeConflict, "gardu is not attached to %s: %s", i.Name, i.Error)
		}
		if out && !i.Egress {
			if name == "" && slices.ContainsFunc(all, func(i api.Interface) bool { return i.Attached && i.Egress }) {
				continue
			}
			return i, api.NewProblem(api.CodeConflict, "what the kernel sends by %s gardu doesn't see: nothing in the configuration needs it at tc egress (egress: true, rules with direction out or state)", i.Name)
		}
		return i, nil
	}
	if name == "" {
		return api.Interface{}, api.NewProblem(api.CodeConflict, "the configuration has no interface for the packet to come in on")
	}
	return api.Interface{}, api.NewProblem(api.CodeNotFound, "gardu is not on an interface %s, but on %s", name, strings.Join(names, ", "))
}
