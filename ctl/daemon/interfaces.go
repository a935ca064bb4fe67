package daemon

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/compile"
	"gardu/ctl/dataplane"
	"gardu/ctl/lb/health"
	"gardu/ctl/model"
	"gardu/ctl/netdev"
)

// interfaces is what is known of the interfaces that gardu sits on, or would if they were there.
type interfaces struct {
	mu     sync.Mutex
	byName map[string]attached
}

// attached is one interface.
type attached struct {
	want    model.Interface
	number  uint16 // by which rules name it
	ifindex int    // 0: it is not there
	mac     [6]byte
	why     string // the path was chosen
	err     error  // why gardu is not on it
}

func (i *interfaces) get(name string) (attached, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	a, ok := i.byName[name]
	return a, ok
}

func (i *interfaces) put(a attached) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.byName == nil {
		i.byName = map[string]attached{}
	}
	i.byName[a.want.Name] = a
}

func (i *interfaces) forget(name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.byName, name)
}

func (i *interfaces) names() map[string]bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	names := map[string]bool{}
	for name := range i.byName {
		names[name] = true
	}
	return names
}

// takeOverLinks learns where the daemon before this one was attached.
func (d *Daemon) takeOverLinks() {
	for _, a := range d.plane.Attachments() {
		d.links.put(attached{want: model.Interface{Name: a.Name, Path: a.Want, Egress: a.Egress}, number: d.saved.IDs.Interfaces[a.Name], ifindex: a.Ifindex})
	}
}

// exists says whether there is an interface of that name.
func (d *Daemon) exists(name string) error {
	_, err := d.netdev.Link(name)
	if errors.Is(err, netdev.ErrNoLink) {
		return netdev.ErrNoLink
	}
	return err
}

// interfaceNames are those that exist, for people; "" when they can't be listed.
func (d *Daemon) interfaceNames() string {
	links, err := d.netdev.Links()
	if err != nil {
		return ""
	}
	var names []string
	for _, link := range links {
		names = append(names, link.Name)
	}
	return strings.Join(names, ", ")
}

// attachAll attaches to every interface, or changes how gardu sits there. restore undoes what was done, and is never nil.
// An interface that is away is no error: it is attached when it comes back. numbers are those by which rules name interfaces.
func (d *Daemon) attachAll(wants []model.Interface, numbers map[string]uint16) (restore func() error, err error) {
	var undo []func() error
	restore = func() error {
		var errs []error
		for _, step := range slices.Backward(undo) {
			errs = append(errs, step())
		}
		return errors.Join(errs...)
	}
	for _, want := range wants {
		before, known := d.links.get(want.Name)
		undo = append(undo, func() error {
			if !known {
				return d.detach(want.Name)
			}
			if before.ifindex == 0 {
				d.links.put(before)
				return nil
			}
			return d.attach(before.want, before.number)
		})
		err := d.attach(want, numbers[want.Name])
		if errors.Is(err, netdev.ErrNoLink) {
			d.log.Warn("interface is away; gardu attaches when it is back", "interface", want.Name)
			continue
		}
		if err != nil {
			return restore, err
		}
	}
	return restore, nil
}

// attach puts the programs on one interface, and remembers how that went.
func (d *Daemon) attach(want model.Interface, number uint16) error {
	state := attached{want: want, number: number}
	state.err = d.tryAttach(&state)
	d.links.put(state)
	return state.err
}

func (d *Daemon) tryAttach(state *attached) error {
	link, err := d.netdev.Link(state.want.Name)
	if err != nil {
		return err
	}
	path, why := choosePath(state.want, link)
	state.why = why
	if err := d.describeInterface(link, state.number); err != nil {
		return err
	}
	a, err := d.plane.Attach(dataplane.AttachOptions{
		Name:    link.Name,
		Ifindex: link.Index,
		Path:    path,
		Egress:  state.want.Egress,
		Replace: d.options.Replace,
	})
	if err != nil {
		return err
	}
	state.ifindex, state.mac = link.Index, link.MAC
	if a.Why != "" {
		state.why = strings.TrimPrefix(state.why+"; "+a.Why, "; ")
	}
	if path == model.PathXDP && a.Path == model.PathXDPGeneric {
		d.log.Warn("generic XDP instead of native: slower", "interface", link.Name, "why", a.Why)
	}
	return nil
}

// choosePath says which path an interface gets, and why, if there is something to say.
func choosePath(want model.Interface, link netdev.Link) (path model.Path, why string) {
	switch path = want.Path; path {
	case model.PathTC:
	case model.PathAuto:
		if path, why = netdev.ChoosePath(link); onlyTC(want) != "" {
			path, why = model.PathTC, onlyTC(want)
		}
		if better, because := netdev.PathForTags(link, path, want.Tags); because != "" {
			path, why = better, because
		}
	default:
		_, why = netdev.PathForTags(link, model.PathXDP, want.Tags)
	}
	return path, why
}

// firstHooks are those where a snapshot has programs, as far as it can be told before they sit there.
func (d *Daemon) firstHooks(c candidate, interfaces []model.Interface) (hooks []dataplane.Hook) {
	for _, want := range interfaces {
		link, err := d.netdev.Link(want.Name)
		if err != nil {
			continue // which attaching will tell
		}
		hook := dataplane.HookXDP
		if path, _ := choosePath(want, link); path == model.PathTC {
			hook = dataplane.HookIngress
		}
		if hooks = append(hooks, hook); want.Egress {
			hooks = append(hooks, dataplane.HookEgress)
		}
	}
	if slices.ContainsFunc(health.Targets(c.snapshot), throughService) {
		hooks = append(hooks, dataplane.HookCheck)
	}
	return hooks
}

// describeInterface tells the programs what they must know of an interface.
func (d *Daemon) describeInterface(link netdev.Link, number uint16) error {
	return d.plane.SetInterface(link.Index, abi.Interface{Mac: link.MAC, Flags: uint8(abi.InterfaceIngress), Number: number})
}

// detach takes gardu off an interface and forgets it.
func (d *Daemon) detach(name string) error {
	state, _ := d.links.get(name)
	d.links.forget(name)
	err := d.plane.Detach(name)
	if errors.Is(err, dataplane.ErrNotAttached) {
		err = nil
	}
	if state.ifindex != 0 {
		err = errors.Join(err, d.plane.DeleteInterface(state.ifindex))
	}
	return err
}

// detachOthers takes gardu off the interfaces that the snapshot doesn't name any more.
func (d *Daemon) detachOthers(wants []model.Interface) {
	for name := range d.links.names() {
		if slices.ContainsFunc(wants, func(want model.Interface) bool { return want.Name == name }) {
			continue
		}
		err := d.detach(name)
		d.fault("detach from "+name, err)
		if err == nil {
			d.log.Info("detached", "interface", name)
		}
	}
}

// egressFor says what in a snapshot makes gardu look at what the kernel sends, on every interface; "" nothing does.
func egressFor(f compile.Features) string {
	switch {
	case f.State:
		return "rules match on state"
	case f.Out:
		return "rules have direction out"
	}
	return ""
}

// withEgress returns the interfaces, those with tc egress that need it.
func withEgress(wants []model.Interface, needs func(model.Interface) bool) []model.Interface {
	wants = slices.Clone(wants)
	for i := range wants {
		wants[i].Egress = wants[i].Egress || needs(wants[i])
	}
	return wants
}

// hasEgress says whether gardu is at tc egress of the interface now.
func (d *Daemon) hasEgress(i model.Interface) bool {
	state, _ := d.links.get(i.Name)
	return state.ifindex != 0 && state.want.Egress
}

// detachEgress takes gardu off tc egress where the rules that were put in force don't need it any more.
func (d *Daemon) detachEgress(wants []model.Interface) {
	for _, want := range wants {
		if want.Egress || !d.hasEgress(want) {
			continue
		}
		state, _ := d.links.get(want.Name)
		d.fault("detach from tc egress of "+want.Name, d.attach(want, state.number))
	}
}

// syncLinks follows interfaces that vanished, came back, are called otherwise, or changed their address. The configuration means names: who
// has one now is attached, who has it no more is not, and those go first, since two may have changed places.
func (d *Daemon) syncLinks() {
	d.changing.Lock()
	defer d.changing.Unlock()
	wants := d.current.Load().interfaces
	for _, want := range wants {
		state, _ := d.links.get(want.Name)
		d.leaveLink(want, state)
	}
	for _, want := range wants {
		state, _ := d.links.get(want.Name)
		d.syncLink(want, state)
	}
}

// leaveLink lets go of an interface that is gone, or has another name.
func (d *Daemon) leaveLink(want model.Interface, state attached) {
	if state.ifindex == 0 {
		return
	}
	if link, err := d.netdev.Link(want.Name); err == nil && link.Index == state.ifindex {
		return
	}
	text := "it is gone; gardu attaches when it is back"
	link, err := d.netdev.LinkByIndex(state.ifindex)
	switch {
	case err == nil:
		text = fmt.Sprintf("it is called %s now, and gardu leaves it; gardu attaches to the next that is called %s", link.Name, want.Name)
		err = d.plane.Detach(want.Name)
	case errors.Is(err, netdev.ErrNoLink):
		err = nil
	default:
		d.fault("look at interface "+want.Name, err)
		return
	}
	err = errors.Join(err, d.plane.DeleteInterface(state.ifindex))
	d.fault("leave interface "+want.Name, err)
	d.links.put(attached{want: want, number: state.number, err: fmt.Errorf("interface %s: %w", want.Name, netdev.ErrNoLink)})
	d.log.Warn("interface vanished", "interface", want.Name, "ifindex", state.ifindex, "what", text)
	d.happened(api.Event{Kind: api.EventInterface, Interface: want.Name, Text: text})
}

// syncLink attaches to an interface that came, and tells the programs when its address is another one.
func (d *Daemon) syncLink(want model.Interface, state attached) {
	link, err := d.netdev.Link(want.Name)
	if errors.Is(err, netdev.ErrNoLink) {
		d.fault("look at interface "+want.Name, nil)
		return // leaveLink told
	}
	d.fault("look at interface "+want.Name, err)
	switch {
	case err != nil:
	case link.Index != state.ifindex:
		before := state.err
		if err := d.attach(want, state.number); err != nil {
			if before == nil || before.Error() != err.Error() {
				d.log.Error("interface not attached", "interface", want.Name, "error", err)
				d.happened(api.Event{Kind: api.EventInterface, Interface: want.Name, Text: "not attached: " + err.Error()})
			}
			return
		}
		d.log.Info("attached", "interface", want.Name)
		d.happened(api.Event{Kind: api.EventInterface, Interface: want.Name, Text: "attached"})
	case link.MAC != state.mac:
		err := d.describeInterface(link, state.number)
		if err == nil {
			state.mac = link.MAC
			d.links.put(state)
		}
		d.fault("tell programs of interface "+want.Name, err)
	}
}

// passed is what passed by interfaces, by their names; "" stands for those that have none any more.
type passed map[string]abi.InterfaceCounter

// passedInterfaces reads what passed by every interface that gardu ever was on.
func (d *Daemon) passedInterfaces() (passed, error) {
	now := d.current.Load()
	names, numbers := []string{""}, []uint32{0}
	for name, number := range now.ids.Interfaces {
		names, numbers = append(names, name), append(numbers, uint32(number))
	}
	counters, err := d.plane.InterfaceCounters(numbers)
	if err != nil {
		return nil, err
	}
	all := make(passed, len(names))
	for i, name := range names {
		all[name] = counters[i]
	}
	return all, nil
}

// reasons are those for which packets left, over all interfaces.
func (p passed) reasons() map[string]api.ReasonCounter {
	var sum abi.InterfaceCounter
	for _, c := range p {
		sum.Add(c)
	}
	reasons := map[string]api.ReasonCounter{}
	for id, c := range sum.Reason {
		if reason := abi.Reason(id); c.Packets > 0 {
			reasons[reason.String()] = api.ReasonCounter{
				Counter: api.Counter{Packets: c.Packets, Bytes: c.Bytes},
				Verdict: reason.Verdict().String(),
			}
		}
	}
	return reasons
}

// traffic tells what was received, dropped and sent by one interface.
func (p passed) traffic(name string) *api.Traffic {
	counted, ok := p[name]
	if !ok {
		return nil
	}
	var received, dropped, sentDropped abi.Counter
	for id, c := range counted.Reason {
		verdict := abi.Reason(id).Verdict()
		switch {
		case abi.Reason(id) == abi.ReasonOutPass:
			continue // what left of it is in Sent
		case abi.Reason(id) == abi.ReasonOutDrop:
			sentDropped.Add(c)
			continue
		case verdict == abi.VerdictDrop || verdict == abi.VerdictReject:
			dropped.Add(c)
		}
		received.Add(c)
	}
	counter := func(c abi.Counter) api.Counter { return api.Counter{Packets: c.Packets, Bytes: c.Bytes} }
	return &api.Traffic{Received: counter(received), Dropped: counter(dropped), Sent: counter(counted.Sent), SentDropped: counter(sentDropped)}
}

// interfaceStatus is how gardu sits on the interfaces of the snapshot, and what passed by them.
func (d *Daemon) interfaceStatus(now *applied, passed passed) []api.Interface {
	inForce := map[string]dataplane.Attachment{}
	for _, a := range d.plane.Attachments() {
		inForce[a.Name] = a
	}
	list := make([]api.Interface, 0, len(now.interfaces))
	for i, want := range now.interfaces {
		state, _ := d.links.get(want.Name)
		one := api.Interface{Name: want.Name, Want: want.Path, Ifindex: state.ifindex, Why: state.why, Traffic: passed.traffic(want.Name)}
		if a, ok := inForce[want.Name]; ok && state.ifindex != 0 && state.err == nil {
			one.Attached, one.Path, one.Egress = true, a.Path, a.Egress
			if a.Egress && !now.snapshot.Interfaces[i].Egress {
				one.Why = strings.TrimPrefix(one.Why+"; tc egress because "+now.egressFor, "; ")
			}
		} else if state.err != nil {
			one.Error = state.err.Error()
		} else {
			one.Error = fmt.Sprintf("interface %s: %v", want.Name, netdev.ErrNoLink)
		}
		list = append(list, one)
	}
	return list
}
