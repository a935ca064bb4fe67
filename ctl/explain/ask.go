package explain

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/compile"
	"gardu/ctl/dataplane"
	"gardu/ctl/pkt"
)

// Question is a packet, and what is to be taken for true besides.
type Question struct {
	Hook     dataplane.Hook
	Frame    []byte
	Ifindex  int
	WithFlow bool          // its flow was opened by both sides
	Backend  string        // the flow is on that one; "": on the one that the ring gives it
	Later    time.Duration // it comes so much later than the flow was opened, and than now
}

// ErrNoFlow: there can't be the flow, or not on that backend, that a Question wants.
var ErrNoFlow = errors.New("the flow can't be")

// limitsRest is how much earlier limits see the packets that open a flow: none of them owes anything any more then.
const limitsRest = 24 * time.Hour

// Answer is what became of the packet of a question.
type Answer struct {
	dataplane.Result
	Flow *abi.FlowValue // what the live instance knows of the packet's flow; nil: nothing
}

// Ask puts the packet of a question through the programs of a private instance. Those of a sibling see what the live instance knows of
// its flow; for a flow that is to be taken for true they see its first packets. backends are those of the snapshot in force.
func Ask(plane *dataplane.Dataplane, q Question, names Names, backends []compile.Backend) (Answer, error) {
	release, err := dataplane.OneCPU()
	if err != nil {
		return Answer{}, err
	}
	defer release()
	now, _, err := plane.Clock()
	if err != nil {
		return Answer{}, err
	}
	clock := limitsRest + time.Duration(now.Monotonic)
	plane.SetClock(uint64(clock - limitsRest))
	if q.WithFlow || q.Later > 0 {
		if err := plane.Wait(0); err != nil {
			return Answer{}, err
		}
	}
	var answer Answer
	if q.WithFlow {
		err = (&opening{plane, q, names, backends}).play()
	} else {
		answer.Flow, err = recall(plane, q)
	}
	if err != nil {
		return Answer{}, err
	}
	plane.SetClock(uint64(clock + q.Later))
	if q.WithFlow || q.Later > 0 {
		if err := plane.Wait(min(q.Later, longestGap)); err != nil {
			return Answer{}, err
		}
	}
	answer.Result, err = plane.Run(q.Hook, q.Frame, q.Ifindex)
	return answer, err
}

// recall lets a sibling know what is known of the packet's flow. Which flow that is, the programs say themselves.
func recall(plane *dataplane.Dataplane, q Question) (*abi.FlowValue, error) {
	if !plane.Recalls() {
		return nil, nil
	}
	result, err := plane.Run(q.Hook, q.Frame, q.Ifindex)
	if err != nil {
		return nil, err
	}
	value, found, err := plane.RecallFlow(result.Trace.Flow)
	if err != nil || !found {
		return nil, err
	}
	return &value, nil
}

// opening is the beginning of a flow, played.
type opening struct {
	plane *dataplane.Dataplane
	Question
	names    Names
	backends []compile.Backend
}

// play lets the sender of the packet open its flow or, where that isn't let through, the other side.
func (o *opening) play() error {
	err := o.openBy(o.Hook, o.answers(), pkt.Begin(o.Frame, false))
	if !errors.Is(err, ErrNoFlow) || o.Backend != "" {
		return err
	}
	if other := o.openBy(o.answers(), o.Hook, pkt.Begin(o.Frame, true)); !errors.Is(other, ErrNoFlow) {
		return other
	}
	return err
}

// answers is where the packets of the other direction are seen.
func (o *opening) answers() dataplane.Hook {
	if o.Hook == dataplane.HookEgress {
		return dataplane.HookIngress
	}
	return dataplane.HookEgress
}

// openBy plays the first packet, the answer and what follows it. there is where the first is seen, back where the answer is.
func (o *opening) openBy(there, back dataplane.Hook, first []byte) error {
	if first == nil {
		return fmt.Errorf("%w: such a packet begins none, and belongs to none", ErrNoFlow)
	}
	opened, err := o.pass(there, first)
	if err != nil {
		return err
	}
	backend, forwarded := o.of(opened)
	switch {
	case o.Backend != "":
		return o.moveTo(opened, backend, forwarded, there, first)
	case !forwarded:
		_, err = o.pass(back, pkt.Answer(first))
	case backend.Mode == abi.ModeNat: // that of other modes goes past gardu
		_, err = o.pass(there, pkt.Answer(opened.Frame))
	}
	if err == nil {
		_, err = o.pass(there, pkt.Next(first))
	}
	return err
}

// pass runs a packet that must get through.
func (o *opening) pass(hook dataplane.Hook, frame []byte) (dataplane.Result, error) {
	result, err := o.plane.Run(hook, frame, o.Ifindex)
	if err != nil {
		return result, err
	}
	fate := FateOf(result)
	if verdict := fate.Reason.Verdict(); verdict == abi.VerdictDrop || verdict == abi.VerdictReject {
		told := fate.In(o.names)
		text := fmt.Sprintf("%s, %s", told.Verdict, told.Reason)
		if told.Rule != "" {
			text += ", rule " + told.Rule
		}
		return result, fmt.Errorf("%w: %s would not get through: %s", ErrNoFlow, pkt.Summary(frame), text)
	}
	return result, nil
}

// of is the backend that a packet was sent to.
func (o *opening) of(result dataplane.Result) (compile.Backend, bool) {
	i := slices.IndexFunc(o.backends, func(b compile.Backend) bool { return b.ID == result.Trace.Backend })
	if i < 0 || abi.Reason(result.Trace.Reason) != abi.ReasonForward {
		return compile.Backend{}, false
	}
	return o.backends[i], true
}

// moveTo puts the flow on the backend that the question names.
func (o *opening) moveTo(opened dataplane.Result, on compile.Backend, forwarded bool, there dataplane.Hook, first []byte) error {
	if !forwarded {
		return fmt.Errorf("%w: %s goes to no backend", ErrNoFlow, pkt.Summary(first))
	}
	if on.Mode == abi.ModeNat {
		return fmt.Errorf("%w: service %s translates, so the backend can't be chosen", ErrNoFlow, on.ServiceName)
	}
	var names []string
	for _, b := range o.backends {
		if b.Service != opened.Trace.Service {
			continue
		}
		if names = append(names, b.Name); b.Name != o.Backend {
			continue
		}
		if _, err := o.pass(there, pkt.Next(first)); err != nil {
			return err
		}
		return o.plane.MoveFlows(b.ID)
	}
	return fmt.Errorf("%w: service %s has no backend %s, but %s", ErrNoFlow, on.ServiceName, o.Backend, strings.Join(names, ", "))
}
