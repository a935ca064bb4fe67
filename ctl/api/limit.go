package api

import (
	"net/netip"
	"sync"
	"time"
)

// pace is how many requests a client may make: some at once, and then some a second.
type pace struct{ burst, rate float64 }

// By the socket it is what keeps a script that went wild from taking the daemon's time; by TCP also who guesses tokens.
var (
	socketPace = pace{burst: 5000, rate: 1000}
	tcpPace    = pace{burst: 200, rate: 50}
)

// wrongToken is how many requests one with a token that is none counts for.
const wrongToken = 20

// maxClients bounds those whose requests are counted by client.
const maxClients = 10_000

// limiter counts requests by client.
type limiter struct {
	pace
	mu      sync.Mutex
	clients map[any]*bucket
	forgot  time.Time
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newLimiter(p pace) *limiter { return &limiter{pace: p, clients: map[any]*bucket{}} }

// take counts a request that is as much as cost others. When it is too much, it returns how long the client has to wait.
func (l *limiter) take(client any, cost float64, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.clients[client]
	if b == nil {
		if len(l.clients) >= maxClients && now.Sub(l.forgot) >= time.Second {
			l.forget(now) // it takes its time
		}
		if len(l.clients) >= maxClients {
			client = nil // all further ones count as one
			b = l.clients[nil]
		}
		if b == nil {
			b = &bucket{l.burst, now}
			l.clients[client] = b
		}
	}
	b.tokens = min(l.burst, b.tokens+l.rate*now.Sub(b.at).Seconds())
	b.at = now
	if b.tokens < 1 {
		return time.Duration((1 - b.tokens) / l.rate * float64(time.Second))
	}
	b.tokens -= cost // may be less than nothing: that is to be waited for
	return 0
}

// forget drops clients whose buckets are full again.
func (l *limiter) forget(now time.Time) {
	l.forgot = now
	for client, b := range l.clients {
		if b.tokens+l.rate*now.Sub(b.at).Seconds() >= l.burst {
			delete(l.clients, client)
		}
	}
}

// clientOf is what an address counts as: who has one of IPv6 has 2^64.
func clientOf(addr netip.Addr) any {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		prefix, _ := addr.Prefix(64) // can't fail
		return prefix
	}
	return addr
}
