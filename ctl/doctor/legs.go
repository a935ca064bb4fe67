package doctor

import (
	"fmt"
	"strings"
)

func (l Legs) failed() bool {
	switch l.Service.Kind {
	case NotAsked:
		return false
	case Answered:
		return l.Large.Kind == Silent || l.Large.Kind == Error
	}
	return true
}

// told is the first error message that came back. Machines send only so many (icmp_ratelimit of Linux), so it may be about any of the probes.
func (l Legs) told() string {
	for _, answer := range []Answer{l.Service, l.Ping, l.Inside, l.Own} {
		if answer.Kind == Error {
			return answer.Text
		}
	}
	return ""
}

// failedLeg says which leg of a service's path fails, as far as probes can tell, and what to do.
func (b Backend) failedLeg() (found, advice string) {
	l, through := b.Legs, fmt.Sprintf("sent by %s", b.Forward)
	wraps, told := b.overhead() > 0, l.told()
	owns := fmt.Sprintf("give it the service address (ip addr add %s/%d dev lo); if it has it, look for what drops packets from %s on the way back: its firewall, or rp_filter or source checks of a router or switch between", b.For, b.For.BitLen(), b.For)
	switch {
	case l.Service.Kind == Answered:
		size := fmt.Sprintf("leg to the backend: small packets are answered, those of %d bytes aren't", b.LargestClient+b.overhead())
		if l.Large.Kind == Error {
			size += ": " + l.Large.Text
		}
		return size, fmt.Sprintf("something on the way has a smaller MTU than %d, or drops fragments: raise it, or lower the MSS on the backends (ip route change ... advmss N)", b.LargestClient+b.overhead())
	case l.Service.Kind == Refused:
		return fmt.Sprintf("leg to the process: %s port %d refuses connections", b.For, b.Port), "is the server running, and does it listen on the service address?"
	case told != "" && wraps && strings.HasPrefix(told, b.errorFrom(b.Address.String())):
		return fmt.Sprintf("leg through the tunnel: it unwraps nothing %s, and says so: %s", through, told),
			"run gardu decap on it, or give it a tunnel device"
	case told != "":
		return "leg to the backend: " + told, "look at who says so, and at the routes there"
	case l.Ping.Kind == Answered:
		return fmt.Sprintf("leg to the process: %s answers pings %s, but port %d is silent", b.For, through, b.Port), "look at its firewall, and whether the server is overloaded"
	case l.Inside.Kind == Answered:
		return fmt.Sprintf("leg back: it unwraps what is %s, but nothing comes back from %s", through, b.For), owns
	case l.Own.Kind == Answered && wraps:
		return fmt.Sprintf("leg through the tunnel: %s answers pings, but nothing %s", b.Address, through),
			"does it unwrap (gardu decap, or a tunnel device that is up), does a firewall let the tunnel through, and is rp_filter of the tunnel device 0 or 2?"
	case l.Own.Kind == Answered:
		return fmt.Sprintf("leg to the service address, or back: %s answers pings, but %s doesn't", b.Address, b.For), owns
	case b.Connected && b.Connect == nil:
		return fmt.Sprintf("leg through the service's path: port %d of %s answers, but nothing %s", b.Port, b.Address, through),
			"does it unwrap (gardu decap), and own the service address?"
	}
	return fmt.Sprintf("leg to the backend: nothing comes back from %s, whatever is sent", b.Address), "is it up, does its firewall drop everything, and does it have a route back to " + b.Hop.Source.String() + "?"
}

// errorFrom is how an ICMP error of that address begins.
func (b Backend) errorFrom(address string) string {
	if b.Address.Is4() {
		return "icmp " + address + " "
	}
	return "icmpv6 " + address + " "
}
