package netdev

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// EventKind says what changed.
type EventKind uint8

const (
	LinkChanged EventKind = iota
	LinkGone
	AddressChanged
	RouteChanged
	NeighbourChanged
	Overrun // some events were lost: read everything again
)

func (k EventKind) String() string {
	return [...]string{"link changed", "link gone", "address changed", "route changed", "neighbour changed", "overrun"}[k]
}

// Event is one change. It says where to look again, not what is there now.
type Event struct {
	Kind    EventKind
	Ifindex int        // 0 for routes and Overrun
	Name    string     // of the interface, for links
	Address netip.Addr // the neighbour's
}

// watchBacklog bounds the events that wait for a slow reader; more become one Overrun.
const watchBacklog = 256

// receiveBuffer holds the kernel's notifications while we are not scheduled, in bytes.
const receiveBuffer = 4 << 20

// Watch reports changes of links, addresses, routes and neighbours in the network namespace of the calling thread
// until ctx ends, then closes the channel. Nothing is lost unnoticed: what the kernel or a slow reader of the channel
// could not hold becomes an Overrun.
func Watch(ctx context.Context) (<-chan Event, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("watch the kernel's network settings: %w", err)
	}
	// Without CAP_NET_ADMIN the buffer stays at the system's default, which only makes an Overrun likelier.
	if socket.SetReceiveBufferSize(receiveBuffer, true) != nil {
		_ = socket.SetReceiveBufferSize(receiveBuffer, false)
	}
	events := make(chan Event, watchBacklog)
	stop := context.AfterFunc(ctx, socket.Close)
	go func() {
		defer close(events)
		defer func() {
			if stop() {
				socket.Close()
			}
		}()
		for {
			messages, from, err := socket.Receive()
			switch {
			case errors.Is(err, unix.ENOBUFS):
				report(events, Event{Kind: Overrun})
			case err != nil:
				return // closed
			case from.Pid != 0:
				continue // not from the kernel
			}
			for _, m := range messages {
				if event, ok := parseEvent(m.Header.Type, m.Data); ok {
					report(events, event)
				}
			}
		}
	}()
	return events, nil
}

// report hands an event on without ever waiting for the reader. The last place in the channel is kept for an Overrun,
// which covers everything that finds the channel full.
func report(events chan<- Event, e Event) {
	switch room := cap(events) - len(events); {
	case room > 1:
		events <- e
	case room == 1:
		events <- Event{Kind: Overrun}
	}
}

func parseEvent(kind uint16, data []byte) (Event, bool) {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return parseLink(kind, data)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if len(data) < unix.SizeofIfAddrmsg {
			return Event{}, false
		}
		return Event{Kind: AddressChanged, Ifindex: int(nl.DeserializeIfAddrmsg(data).Index)}, true
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return Event{Kind: RouteChanged}, true
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		neigh, err := netlink.NeighDeserialize(data)
		if err != nil || neigh.Family != unix.AF_INET && neigh.Family != unix.AF_INET6 {
			return Event{}, false // bridge forwarding entries
		}
		addr, _ := netip.AddrFromSlice(neigh.IP)
		return Event{Kind: NeighbourChanged, Ifindex: neigh.LinkIndex, Address: addr.Unmap()}, true
	}
	return Event{}, false
}

func parseLink(kind uint16, data []byte) (Event, bool) {
	if len(data) < unix.SizeofIfInfomsg {
		return Event{}, false
	}
	info := nl.DeserializeIfInfomsg(data)
	if info.Family != unix.AF_UNSPEC {
		return Event{}, false // a bridge's view of its port: a port that leaves is no link that vanishes
	}
	event := Event{Kind: LinkChanged, Ifindex: int(info.Index)}
	if kind == unix.RTM_DELLINK {
		event.Kind = LinkGone
	}
	attrs, err := nl.ParseRouteAttr(data[info.Len():])
	if err != nil {
		return Event{}, false
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.IFLA_IFNAME {
			event.Name = unix.ByteSliceToString(a.Value)
		}
	}
	return event, true
}
