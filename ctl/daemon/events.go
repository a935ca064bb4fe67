package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gardu/ctl/abi"
	"gardu/ctl/api"
	"gardu/ctl/event"
	"gardu/ctl/flow"
	"gardu/ctl/pkt"
	"gardu/ctl/rule"
)

const (
	keptEvents  = 4096 // for who comes later
	eventsAhead = 4096 // that a reader may be behind before it loses some
	lookAgain   = time.Second
)

// happening is an event whose packet isn't text yet: that takes longer than all the rest, and perhaps nobody asks.
type happening struct {
	api.Event
	head   []byte
	number uint64 // of those that are kept; 0: it isn't
	// aboutDrops: matters only to followers who were told of dropped packets.
	aboutDrops bool
}

// event fills in the text, and its name.
func (h happening) event(began time.Time) api.Event {
	if h.number > 0 {
		h.Event.ID = eventID{began.UnixNano(), h.number}.String()
	}
	if h.head != nil {
		h.Event.Packet, h.Event.Head = pkt.Excerpt(h.head, h.Length), h.head
	}
	return h.Event
}

// eventID names an event that is kept: which one it is of which daemon.
type eventID struct {
	began  int64 // when the daemon did
	number uint64
}

func (id eventID) String() string {
	return strconv.FormatInt(id.began, 36) + "-" + strconv.FormatUint(id.number, 36)
}

func parseEventID(text string) (id eventID, err error) {
	began, number, found := strings.Cut(text, "-")
	id.began, err = strconv.ParseInt(began, 36, 64)
	if err == nil {
		id.number, err = strconv.ParseUint(number, 36, 64)
	}
	if err != nil || !found {
		return id, api.NewProblem(api.CodeInvalid, "%q is not the id of an event", text)
	}
	return id, nil
}

// after cuts off the events up to that of an id, and says what isn't known any more of those behind it.
func (d *Daemon) after(kept []happening, text string) ([]happening, *api.Event, error) {
	id, err := parseEventID(text)
	if err != nil {
		return nil, nil, err
	}
	if id.began != d.started.UnixNano() {
		return kept, &api.Event{Time: time.Now(), Kind: api.EventLost, Text: "perhaps events before this daemon began, which nobody remembers"}, nil
	}
	if len(kept) > 0 && id.number+1 < kept[0].number {
		lost := kept[0].number - id.number - 1
		return kept, &api.Event{Time: time.Now(), Kind: api.EventLost, Count: lost, Text: fmt.Sprintf("%d events: too long ago to be remembered", lost)}, nil
	}
	return slices.DeleteFunc(kept, func(h happening) bool { return h.number <= id.number }), nil, nil
}

// happened adds an event that is not about a packet.
func (d *Daemon) happened(e api.Event) {
	e.Time = time.Now()
	d.happenings.Add(happening{Event: e})
}

// followers are those who follow events and want dropped packets: as long as there are any, these become events.
type followers struct {
	sync.Mutex
	count int
}

// watch is called when followers come (1) or go (-1), and (0) every now and then, because programs stop by themselves
// without a daemon.
func (d *Daemon) watch(more int) {
	d.followers.Lock()
	defer d.followers.Unlock()
	d.followers.count += more
	d.fault("watch dropped packets", d.plane.WatchDrops(d.followers.count > 0))
}

// readEvents takes the packets that rules log or sample, or that are dropped, out of the ring, until ctx ends.
func (d *Daemon) readEvents(ctx context.Context) error {
	defer d.happenings.Close()
	reader, err := event.NewReader(d.plane.Events())
	if err != nil {
		return err
	}
	defer reader.Close()
	stop := context.AfterFunc(ctx, func() { reader.Close() })
	defer stop()
	var names eventNames
	for {
		packet, err := reader.Read()
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := names.refresh(d); err != nil {
			return err
		}
		for _, note := range packet.Notes {
			if h := names.happening(&packet, note); note.Kind == abi.NoteDrop {
				d.happenings.Pass(h)
			} else {
				d.happenings.Add(h)
			}
		}
	}
}

// eventNames are what the ids in events mean, looked up again now and then.
type eventNames struct {
	flowNames
	clock flow.Clock
	at    time.Time
}

func (n *eventNames) refresh(d *Daemon) (err error) {
	if n.applied != nil && n.applied.snapshot == d.current.Load().snapshot && time.Since(n.at) < lookAgain {
		return nil
	}
	n.flowNames, n.at = d.flowNames(), time.Now()
	n.clock, err = d.clock()
	return err
}

func (n *eventNames) happening(p *event.Packet, note event.Note) happening {
	e := api.Event{
		Time: n.clock.Monotonic(p.Monotonic), Kind: note.Word(), Verdict: p.Reason.Verdict().String(), Reason: p.Reason.String(),
		Rule: n.rules[note.Rule], Service: n.services[p.Service], Backend: n.backends[p.Backend],
		Interface: n.interfaceName(p.Ifindex), Direction: "in", Vlan: p.VLAN, Length: p.Length, Packets: p.Packets,
	}
	if p.Way == abi.WayOut {
		e.Direction = "out"
	}
	if p.Decider >= uint32(abi.FirstRuleId) {
		e.Decided = n.rules[p.Decider]
	}
	if note.Kind == abi.NoteDrop {
		e.Rule = e.Decided
	}
	if note.Decides {
		e.Would = note.Would.String()
	}
	if p.Src.IsValid() {
		e.Src, e.Dst, e.Sport, e.Dport, e.Proto = p.Src.Addr(), p.Dst.Addr(), p.Src.Port(), p.Dst.Port(), rule.ProtocolName(p.Proto)
	}
	return happening{Event: e, head: p.Head}
}

// Events tells what happened and, with Follow, what happens. A client that is too slow loses events, and is told.
func (d *Daemon) Events(ctx context.Context, wish api.EventWish, yield func(api.Event, bool) error) error {
	kept, follower := d.happenings.Follow(-1, eventsAhead)
	defer follower.Close()
	if wish.After != "" {
		behind, lost, err := d.after(kept, wish.After)
		if err != nil {
			return err
		}
		if kept = behind; lost != nil {
			if err := yield(*lost, len(kept) > 0); err != nil {
				return err
			}
		}
	}
	var wanted []happening
	for _, h := range kept {
		if wish.Match(&h.Event) {
			wanted = append(wanted, h)
		}
	}
	if wish.Last >= 0 && len(wanted) > wish.Last {
		wanted = wanted[len(wanted)-wish.Last:]
	}
	for i, h := range wanted {
		if err := yield(h.event(d.started), i < len(wanted)-1); err != nil {
			return err
		}
	}
	if wish.Follow && wish.Drops {
		d.watch(1)
		defer d.watch(-1)
	}
	drops := false
	for wish.Follow {
		h, lost, ok := follower.Next(ctx)
		if lost > 0 {
			text := fmt.Sprintf("%d events: they came faster than this client took them", lost)
			if err := yield(api.Event{Time: time.Now(), Kind: api.EventLost, Count: lost, Text: text}, false); err != nil {
				return err
			}
		}
		if !ok {
			return nil
		}
		matches := wish.Match(&h.Event)
		drops = drops || matches && h.Kind == api.EventDrop
		if h.aboutDrops && drops || !h.aboutDrops && h.Kind == api.EventLost || matches {
			if err := yield(h.event(d.started), follower.Waiting() > 0); err != nil {
				return err
			}
		}
	}
	return nil
}
