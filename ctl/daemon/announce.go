package daemon

import (
	"errors"
	"math/bits"
	"net/netip"
	"slices"
	"sync"

	"gardu/ctl/model"
	"gardu/ctl/netdev"
)

// announceTimes is how often an address is told of, a second apart: frames get lost (RFC 5227, section 2.3).
const announceTimes = 2

// announcements is what neighbours were told of service addresses.
type announcements struct {
	mu    sync.Mutex
	told  map[announcement]int // how often
	again bool                 // some are to be told once more
}

// announcement is an address at an interface. When that is made anew, gets another MAC or is connected again, it is another one.
type announcement struct {
	address netip.Addr
	ifindex int
	mac     [6]byte
}

// announce tells neighbours where service addresses are that they weren't told of often enough.
func (d *Daemon) announce() {
	d.announcements.mu.Lock()
	defer d.announcements.mu.Unlock()
	links := d.announcingLinks()
	told, again := map[announcement]int{}, false
	var errs []error
	for _, address := range announced(d.current.Load().snapshot.Services) {
		for _, link := range linksFor(address, links) {
			a := announcement{address, link.Index, link.MAC}
			told[a] = d.announcements.told[a]
			if told[a] < announceTimes {
				errs = append(errs, d.netdev.Announce(link, address))
				told[a]++
				again = again || told[a] < announceTimes
			}
		}
	}
	d.announcements.told, d.announcements.again = told, again
	d.fault("announce service addresses", errors.Join(errs...))
}

// announceAgain tells once more what was told once.
func (d *Daemon) announceAgain() {
	d.announcements.mu.Lock()
	again := d.announcements.again
	d.announcements.mu.Unlock()
	if again {
		d.announce()
	}
}

// announcingLinks are the interfaces where gardu answers for service addresses.
func (d *Daemon) announcingLinks() (links []netdev.Link) {
	for name := range d.links.names() {
		state, _ := d.links.get(name)
		link, err := d.netdev.Link(name)
		if err == nil && state.err == nil && link.Index == state.ifindex && link.Running && link.Ethernet && !link.Loopback {
			links = append(links, link)
		}
	}
	return links
}

// announcedOfPrefix is how many addresses a prefix may have whose addresses are told of. Those of larger ones are found by asking.
const announcedOfPrefix = 16

func announced(services []model.Service) (addresses []netip.Addr) {
	told := map[netip.Addr]bool{}
	for _, service := range services {
		prefix := service.Addresses()
		if !service.ARP || prefix.Addr().BitLen()-prefix.Bits() > bits.Len(announcedOfPrefix-1) {
			continue
		}
		for address := prefix.Addr(); prefix.Contains(address); address = address.Next() {
			if !told[address] {
				told[address] = true
				addresses = append(addresses, address)
			}
		}
	}
	return addresses
}

// linksFor are those of the address's own network. An address of none may be sought anywhere.
func linksFor(address netip.Addr, links []netdev.Link) []netdev.Link {
	var own []netdev.Link
	for _, link := range links {
		if slices.ContainsFunc(link.Addresses, func(net netip.Prefix) bool { return net.Contains(address) }) {
			own = append(own, link)
		}
	}
	if own == nil {
		return links
	}
	return own
}
