package health

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"gardu/ctl/model"
)

func TestHTTPAnswers(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	})
	words := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "all is well") })
	for _, c := range []struct {
		address string
		check   model.Health
		why     string
		ok      bool
	}{
		{address, model.Health{HTTP: "/", Status: model.Range{Lo: 204, Hi: 204}}, "HTTP 204", true},
		{address, model.Health{HTTP: "/", Status: model.Range{Lo: 200, Hi: 203}}, "HTTP 204 No Content", false},
		{words, model.Health{HTTP: "/", Body: "is well"}, "HTTP 200", true},
		{words, model.Health{HTTP: "/", Body: "is ill"}, `HTTP 200, but "is ill" is not in the answer`, false},
	} {
		if why, ok := probeBy(t, prober{}, c.address, c.check); why != c.why || ok != c.ok {
			t.Errorf("%+v: got %q, %t, want %q, %t", c.check, why, ok, c.why, c.ok)
		}
	}
}

func TestHTTPS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	t.Cleanup(server.Close)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it complains of the client below
	address := server.Listener.Addr().String()
	if why, ok := probeBy(t, prober{}, address, model.Health{HTTPS: "/"}); !ok || why != "HTTP 200" {
		t.Errorf("any certificate: got %q, %t", why, ok)
	}
	// Nobody vouches for the test server's.
	if why, ok := probeBy(t, prober{}, address, model.Health{HTTPS: "/", TLSName: "example.com"}); ok {
		t.Errorf("a certificate of example.com that nobody vouches for was taken: %q", why)
	}
	if why, ok := probeBy(t, prober{}, address, model.Health{HTTP: "/"}); ok {
		t.Errorf("HTTP without TLS: %q", why)
	}
}

// answering is a UDP server on the loopback that answers each packet as told; nil is no answer.
func answering(t *testing.T, network string, answer func(packet []byte) [][]byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", network)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		packet := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFrom(packet)
			if err != nil {
				return
			}
			for _, reply := range answer(packet[:n]) {
				_, _ = conn.WriteTo(reply, from)
			}
		}
	}()
	return conn.LocalAddr().String()
}

func TestUDP(t *testing.T) {
	for _, network := range []string{"127.0.0.1:0", "[::1]:0"} {
		echo := answering(t, network, func(packet []byte) [][]byte { return [][]byte{packet} })
		var registered Conn
		p := prober{register: func(c Conn) (func(), error) { registered = c; return func() {}, nil }}
		if why, ok := probeBy(t, p, echo, model.Health{UDP: "hello"}); !ok || why != "answered, 5 bytes" {
			t.Errorf("got %q, %t", why, ok)
		}
		if registered.Proto != unix.IPPROTO_UDP || registered.Remote.String() != echo || registered.Local.Port() == 0 {
			t.Errorf("registered %+v", registered)
		}
	}
	silent := answering(t, "127.0.0.1:0", func([]byte) [][]byte { return nil })
	if why, ok := probeBy(t, prober{}, silent, model.Health{UDP: "hello"}); ok || why != "no answer within 300ms" {
		t.Errorf("silence: got %q, %t", why, ok)
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := conn.LocalAddr().String()
	conn.Close()
	if why, ok := probeBy(t, prober{}, closed, model.Health{UDP: "hello"}); ok || why != "connection refused" {
		t.Errorf("closed: got %q, %t", why, ok)
	}
}

func TestDNS(t *testing.T) {
	reply := func(code dnsmessage.RCode, id uint16) func([]byte) [][]byte {
		return func(packet []byte) [][]byte {
			var message dnsmessage.Message
			if message.Unpack(packet) != nil || len(message.Questions) != 1 || message.Questions[0].Name.String() != "www.example.org." {
				return nil
			}
			message.Response, message.RCode = true, code
			right, _ := message.Pack()
			message.ID ^= id
			other, _ := message.Pack()
			if id == 0 {
				return [][]byte{[]byte("nonsense"), packet, right}
			}
			return [][]byte{other}
		}
	}
	check := model.Health{DNS: "www.example.org"}
	for _, c := range []struct {
		answer func([]byte) [][]byte
		why    string
		ok     bool
	}{
		{reply(dnsmessage.RCodeSuccess, 0), "DNS answered", true},
		{reply(dnsmessage.RCodeServerFailure, 0), "DNS SERVFAIL", false},
		{reply(dnsmessage.RCodeNameError, 0), "DNS NXDOMAIN", false},
		{reply(dnsmessage.RCodeSuccess, 1), "no answer within 300ms", false}, // to another question
	} {
		if why, ok := probeBy(t, prober{}, answering(t, "127.0.0.1:0", c.answer), check); why != c.why || ok != c.ok {
			t.Errorf("got %q, %t, want %q, %t", why, ok, c.why, c.ok)
		}
	}
}

func TestPing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a raw socket")
	}
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		var registered Conn
		released := false
		p := prober{register: func(c Conn) (func(), error) { registered = c; return func() { released = true }, nil }}
		if why, ok := probeBy(t, p, address, model.Health{ICMP: true}); !ok || why != "answered the ping" {
			t.Errorf("%s: got %q, %t", address, why, ok)
		}
		at := netip.MustParseAddrPort(address).Addr()
		if registered.Remote.Addr() != at || registered.Remote.Port() == 0 || registered.Local.Port() != registered.Remote.Port() || !released {
			t.Errorf("registered %+v, released %t", registered, released)
		}
	}
	if why, ok := probeBy(t, prober{}, "192.0.2.255:0", model.Health{ICMP: true}); ok {
		t.Errorf("nobody: %q", why)
	}
}
