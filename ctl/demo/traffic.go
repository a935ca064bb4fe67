package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gardu/ctl/testnet"
)

// workers is how many requests are under way at once.
const workers = 8

// requestTimeout bounds a request that should be answered. It is long, since a busy or emulated machine may be slow; the
// report tells how slow.
const requestTimeout = 20 * time.Second

// silence is how long nothing must come for a request to count as not answered.
const silence = 2 * time.Second

// spacing is how often a conversation asks, on a machine that is fast enough.
const spacing = 20 * time.Millisecond

// visitor sends HTTP requests from an address of a node.
type visitor struct {
	node   *testnet.Node
	source netip.Addr    // zero: as the kernel chooses
	pace   time.Duration // between the requests of a conversation
}

func (v visitor) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = v.node.Do(func() error {
		var dialer net.Dialer
		if v.source.IsValid() {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(v.source, 0))
		}
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// ask sends one request and returns the name of the backend that answered.
func ask(ctx context.Context, transport http.RoundTripper, address string, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(address, "80")+"/", nil)
	if err != nil {
		return "", err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	return nameIn(response)
}

// once sends one request over a connection of its own.
func (v visitor) once(ctx context.Context, address string, timeout time.Duration) (string, error) {
	transport := &http.Transport{DialContext: v.dial, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	return ask(ctx, transport, address, timeout)
}

// tally is what became of a number of requests.
type tally struct {
	served map[string]int // by backend
	failed int
	err    error         // one of the failures
	slow   time.Duration // the longest that an answer took
}

// many sends n requests, each over a connection of its own, some at once.
func (v visitor) many(ctx context.Context, address string, n int) tally {
	t := tally{served: make(map[string]int)}
	var mu sync.Mutex
	var left atomic.Int64
	left.Store(int64(n))
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for left.Add(-1) >= 0 && ctx.Err() == nil {
				start := time.Now()
				name, err := v.once(ctx, address, requestTimeout)
				mu.Lock()
				t.slow = max(t.slow, time.Since(start))
				if err != nil {
					t.failed++
					t.err = err
				} else {
					t.served[name]++
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return t
}

// conversation is one connection that is kept open, with a request at each tick of the visitor's pace.
type conversation struct {
	backend string
	stop    func()
	latest  atomic.Int64 // when the latest answer came, in Unix ns
	broken  atomic.Pointer[error]
}

// converse opens a conversation with whatever backend the balancer chooses. It speaks HTTP on the connection itself: an
// http.Transport may give one up for reasons of its own.
func (v visitor) converse(ctx context.Context, address string) (*conversation, error) {
	ctx, cancel := context.WithCancel(ctx)
	conn, err := v.dial(ctx, "tcp", net.JoinHostPort(address, "80"))
	if err != nil {
		cancel()
		return nil, err
	}
	reader := bufio.NewReader(conn)
	name, err := exchange(ctx, conn, reader, address)
	if err != nil {
		cancel()
		conn.Close()
		return nil, err
	}
	var running sync.WaitGroup
	c := &conversation{backend: name, stop: func() {
		cancel()
		running.Wait()
	}}
	c.latest.Store(time.Now().UnixNano())
	running.Go(func() {
		defer conn.Close()
		tick := time.NewTicker(v.pace)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			answer, err := exchange(ctx, conn, reader, address)
			if ctx.Err() != nil {
				return
			}
			if err == nil && answer != name {
				err = fmt.Errorf("%s answered on a connection to %s", answer, name)
			}
			if err != nil {
				c.broken.Store(&err)
				return
			}
			c.latest.Store(time.Now().UnixNano())
		}
	})
	return c, nil
}

// exchange sends one request on an open connection and returns the name of the backend that answered.
func exchange(ctx context.Context, conn net.Conn, reader *bufio.Reader, address string) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return "", err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(address, "80")+"/", nil)
	if err != nil {
		return "", err
	}
	if err := request.Write(conn); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	return nameIn(response)
}

// nameIn reads the name of a backend from its answer, to the end.
func nameIn(response *http.Response) (string, error) {
	body, err := io.ReadAll(io.LimitReader(response.Body, 64))
	return string(body), err
}

// silent says that no answer came for a while, or that none will.
func (c *conversation) silent() bool {
	return c.err() != nil || time.Since(time.Unix(0, c.latest.Load())) > silence
}

// err says why the conversation ended, if it did by itself.
func (c *conversation) err() error {
	if err := c.broken.Load(); err != nil {
		return *err
	}
	return nil
}
