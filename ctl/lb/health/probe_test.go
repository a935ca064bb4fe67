package health

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"gardu/ctl/model"
)

// probeOnce does one check and returns what would be shown of it.
func probeOnce(t *testing.T, p prober, address, path string) (why string, ok bool) {
	t.Helper()
	return probeBy(t, p, address, model.Health{TCP: path == "", HTTP: path})
}

// probeBy does one check of a kind.
func probeBy(t *testing.T, p prober, address string, check model.Health) (why string, ok bool) {
	t.Helper()
	check.Timeout = 300 * time.Millisecond
	if check.Status.Hi == 0 {
		check.Status = model.Range{Lo: 200, Hi: 399}
	}
	ctx, cancel := context.WithTimeout(t.Context(), check.Timeout)
	defer cancel()
	seen, err := p.probe(ctx, Target{Address: netip.MustParseAddrPort(address), Host: "192.0.2.10:8080", Check: check})
	if err != nil {
		return explain(err, check.Timeout), false
	}
	return seen, true
}

func serve(t *testing.T, handler http.HandlerFunc) (address string) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestHTTP(t *testing.T) {
	var followed atomic.Bool
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			if r.Host != "192.0.2.10:8080" || r.Method != http.MethodGet || r.URL.RawQuery != "deep=1" {
				w.WriteHeader(http.StatusTeapot)
			}
		case "/moved":
			http.Redirect(w, r, "/followed", http.StatusFound)
		case "/followed":
			followed.Store(true)
		case "/sick":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/endless":
			for {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		case "/slow":
			<-r.Context().Done()
		case "/short":
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("x"))
		}
	})
	for _, c := range []struct {
		path, why string
		ok        bool
	}{
		{"/ok?deep=1", "HTTP 200", true},
		{"/moved", "HTTP 302", true},
		{"/endless", "HTTP 200", true},
		{"/sick", "HTTP 503 Service Unavailable", false},
		{"/slow", "no answer within 300ms", false},
		{"/short", "the answer was cut short", false},
	} {
		if why, ok := probeOnce(t, prober{}, address, c.path); why != c.why || ok != c.ok {
			t.Errorf("%s: got %q, %t, want %q, %t", c.path, why, ok, c.why, c.ok)
		}
	}
	if followed.Load() {
		t.Error("a redirect was followed")
	}
}

func TestTCP(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if why, ok := probeOnce(t, prober{}, listener.Addr().String(), ""); !ok || why != "connected" {
			t.Errorf("%s: got %q, %t", address, why, ok)
		}
		listener.Close()
		if why, ok := probeOnce(t, prober{}, listener.Addr().String(), ""); ok || why != "connection refused" {
			t.Errorf("%s, closed: got %q, %t", address, why, ok)
		}
	}
}

func TestRegister(t *testing.T) {
	for _, network := range []string{"127.0.0.1:0", "[::1]:0"} {
		listener, err := net.Listen("tcp", network)
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan netip.AddrPort, 1)
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn.RemoteAddr().(*net.TCPAddr).AddrPort()
			conn.Close()
		}()
		var registered Conn
		released := false
		p := prober{register: func(c Conn) (func(), error) {
			registered = c
			select {
			case <-accepted:
				t.Error("connected before it was registered")
			default:
			}
			return func() { released = true }, nil
		}}
		if why, ok := probeOnce(t, p, listener.Addr().String(), ""); !ok {
			t.Error(why)
		}
		if from := <-accepted; from != registered.Local || registered.Remote.String() != listener.Addr().String() {
			t.Errorf("connected from %s, registered %+v", from, registered)
		}
		if !released {
			t.Error("not released")
		}
		listener.Close()
	}
}

func TestRegisterFails(t *testing.T) {
	p := prober{register: func(Conn) (func(), error) { return nil, errors.New("table full") }}
	address := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
		}
	})
	if why, ok := probeOnce(t, p, address, "/"); !ok {
		t.Errorf("the check didn't go on: %s", why)
	}
	want := "no answer within 300ms (the filter may have dropped the answer: table full)"
	if why, _ := probeOnce(t, p, address, "/slow"); why != want {
		t.Errorf("got %q, want %q", why, want)
	}
}

// TestThrough: a check goes to the service's address from the address that it is told, or, when that can't be, to the backend's own.
func TestThrough(t *testing.T) {
	address := serve(t, func(http.ResponseWriter, *http.Request) {})
	for _, c := range []struct {
		through error
		at      string
		source  string
	}{{nil, address, "127.0.0.9"}, {errors.New("no way"), "192.0.2.200:9", ""}} {
		var registered Conn
		p := prober{
			register: func(conn Conn) (func(), error) { registered = conn; return func() {}, nil },
			through:  func(Target) (netip.Addr, error) { return netip.MustParseAddr("127.0.0.9"), c.through },
		}
		backend, service := netip.MustParseAddrPort("192.0.2.200:9"), netip.MustParseAddrPort(address)
		if c.through != nil {
			backend, service = service, backend
		}
		seen, err := p.probe(t.Context(), Target{Service: "web", Backend: "b1", Address: backend, Through: service,
			Check: model.Health{HTTP: "/", Status: model.Range{Lo: 200, Hi: 200}}})
		if err != nil || seen != "HTTP 200" {
			t.Errorf("%v: got %q, %v", c.through, seen, err)
		}
		through := c.through == nil
		if registered.Through != through || registered.Remote.String() != address || registered.Service != "web" || registered.Backend != "b1" {
			t.Errorf("%v: registered %+v", c.through, registered)
		}
		if through && registered.Local.Addr().String() != c.source {
			t.Errorf("sent from %s, not %s", registered.Local, c.source)
		}
	}
}

// TestThroughUnregistered: what isn't registered would be lost on the way, so it isn't sent.
func TestThroughUnregistered(t *testing.T) {
	for _, check := range []model.Health{{TCP: true}, {UDP: "x"}, {ICMP: true}} {
		p := prober{
			register: func(Conn) (func(), error) { return nil, errors.New("table full") },
			through:  func(Target) (netip.Addr, error) { return netip.MustParseAddr("127.0.0.1"), nil },
		}
		at := netip.MustParseAddrPort("127.0.0.1:9")
		_, err := p.probe(t.Context(), Target{Address: at, Through: at, Check: check})
		if err == nil || explain(err, time.Second) != "table full, through the service's address" {
			t.Errorf("%+v: got %v", check, err)
		}
	}
}

// BenchmarkCheck is one HTTP check, its server's part included.
func BenchmarkCheck(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	p := prober{register: func(Conn) (func(), error) { return func() {}, nil }}
	target := Target{Address: netip.MustParseAddrPort(server.Listener.Addr().String()), Check: model.Health{HTTP: "/", Status: model.Range{Lo: 200, Hi: 200}}}
	for b.Loop() {
		if _, err := p.probe(b.Context(), target); err != nil {
			b.Fatal(err)
		}
	}
}
