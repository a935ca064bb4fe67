package explain

import (
	"fmt"
	"slices"
	"strings"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/compile"
	"gardu/ctl/dataplane"
	"gardu/ctl/pkt"
)

// Names are what users call the things that the data plane knows by id.
type Names struct {
	rules    map[uint32]string
	services map[uint16]string
	backends map[uint16]string
}

// NewNames turns ids around. backends are those of the snapshot in force.
func NewNames(ids compile.IDs, backends []compile.Backend) Names {
	names := Names{map[uint32]string{}, map[uint16]string{}, map[uint16]string{}}
	for name, id := range ids.Rules {
		names.rules[id] = name
	}
	for name, id := range ids.Services {
		names.services[id] = name
	}
	for _, b := range backends {
		names.backends[b.ID] = b.Name
	}
	return names
}

// Explain tells a packet's way from what a traced program did with it on the interface with index ifindex. interfaces
// names that interface and the ones that packets may leave by; what it doesn't name is called by its index.
func Explain(result dataplane.Result, names Names, ifindex int, interfaces map[int]string) api.Explanation {
	trace := result.Trace
	reason := abi.Reason(trace.Reason)
	e := api.Explanation{
		Verdict:   reason.Verdict().String(),
		Reason:    reason.String(),
		Help:      reason.Help(),
		Service:   names.services[trace.Service],
		Backend:   names.backends[trace.Backend],
		Interface: interfaceName(interfaces, ifindex),
	}
	if trace.Rule >= uint32(abi.FirstRuleId) {
		e.Rule = names.rules[trace.Rule]
	}
	steps := min(trace.Steps, uint32(len(trace.Step)))
	for _, step := range trace.Step[:steps] {
		e.Steps = append(e.Steps, api.Step{Step: abi.Step(step.Step).String(), Result: names.result(step, interfaces)})
	}
	if left := reason.Verdict(); left == abi.VerdictForward || left == abi.VerdictRedirect || left == abi.VerdictReject {
		e.Out = []api.OutFrame{{
			Interface: interfaceName(interfaces, int(trace.Ifindex)),
			Hex:       slices.Clone(result.Frame),
			Text:      pkt.Summary(result.Frame),
		}}
	}
	return e
}

// result is what came of a step, in words.
func (n Names) result(step abi.TraceStep, interfaces map[int]string) string {
	if abi.Step(step.Step) == abi.StepLeave {
		left := abi.Reason(step.Result).String()
		if step.Arg != 0 {
			left += " by " + interfaceName(interfaces, int(step.Arg))
		}
		return left
	}
	switch abi.Step(step.Step) {
	case abi.StepParse:
		if step.Result == 0 {
			return "not judged: " + abi.Reason(step.Arg).String()
		}
		return "understood"
	case abi.StepFlow:
		return yes(step, "known", "new")
	case abi.StepState:
		return [...]string{"none", "new", "established", "invalid"}[step.Result&3]
	case abi.StepRemembered:
		return n.decider(step.Arg) + " decided that of its flow, and still does"
	case abi.StepAllow:
		return yes(step, "the source is allowed", "the source is not in the set")
	case abi.StepBlock:
		return yes(step, "a block covers the source", "no block covers the source")
	case abi.StepRule:
		return yes(step, "rule "+n.rules[step.Arg], "rule "+n.rules[step.Arg]+" matches; the next one is asked")
	case abi.StepLimit:
		return yes(step, "over that of rule "+n.rules[step.Arg], "within that of rule "+n.rules[step.Arg])
	case abi.StepDefault:
		return abi.Verdict(step.Result).String()
	case abi.StepService:
		return yes(step, "service "+n.services[uint16(step.Arg)], "for no service")
	case abi.StepBackend:
		return yes(step, "backend "+n.backends[uint16(step.Arg)], "none is up")
	case abi.StepCid:
		return cidText(abi.Cid(step.Result), n.backends[uint16(step.Arg)])
	case abi.StepNat:
		return yes(step, fmt.Sprintf("translated, port %d", step.Arg), "no port is free")
	case abi.StepNextHop:
		return yes(step, "by "+interfaceName(interfaces, int(step.Arg)), "not known")
	}
	return strings.TrimSpace(fmt.Sprintf("%d %d", step.Result, step.Arg))
}

// decider is who decides about a packet, in words.
func (n Names) decider(id uint32) string {
	switch id {
	case uint32(abi.DeciderDefault):
		return "the default"
	case uint32(abi.DeciderAllow):
		return "the set of allowed sources"
	}
	return "rule " + n.rules[id]
}

func cidText(said abi.Cid, backend string) string {
	switch said {
	case abi.CidNamed:
		return "of backend " + backend
	case abi.CidDown:
		return "of backend " + backend + ", which is down"
	case abi.CidOfClient:
		return "an Initial or 0-RTT packet, which may have one of the client's"
	case abi.CidOtherConfig:
		return "not of this configuration"
	case abi.CidUnknown:
		return "of a server ID that no backend has"
	}
	return "none that could name a server"
}

func yes(step abi.TraceStep, yes, no string) string {
	if step.Result != 0 {
		return yes
	}
	return no
}

func interfaceName(names map[int]string, ifindex int) string {
	if name, ok := names[ifindex]; ok {
		return name
	}
	return fmt.Sprintf("if%d", ifindex)
}
