package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/api/apitest"
)

// serveTCP answers on a port of its own until the test ends.
func serveTCP(t *testing.T, engine api.Engine) (address string) {
	t.Helper()
	return serveAccess(t, engine, api.Access{})
}

func serveAccess(t *testing.T, engine api.Engine, access api.Access) (address string) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = free.Addr().String()
	free.Close()
	listener, err := api.ListenTCP(netip.MustParseAddrPort(address))
	if err != nil {
		t.Fatal(err)
	}
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "gardu_up 1\n") })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- api.ServeTCP(ctx, listener, func() api.Access { return access }, engine, metrics, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeTCP: %v", err)
		}
	})
	return address
}

// ask sends a request with headers and returns its status and body.
func ask(t *testing.T, method, url string, headers ...string) (int, string) {
	t.Helper()
	request, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			request.Host = headers[i+1]
		}
		request.Header.Add(headers[i], headers[i+1])
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestTCPReads(t *testing.T) {
	address := serveTCP(t, &apitest.Engine{})
	for path, want := range map[string]string{
		"/healthz":          "ok\n",
		"/readyz":           "ok\n",
		"/metrics":          "gardu_up 1\n",
		"/v1/status":        `"version":"0.1.0"`,
		"/v1/rules":         `"name":"ssh"`,
		"/v1/flows?limit=1": `"src":"198.51.100.7"`,
		"/v1/events":        `"kind":"apply"`,
	} {
		if status, body := ask(t, "GET", "http://"+address+path); status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d: %s", path, status, body)
		}
		if status, body := ask(t, "HEAD", "http://"+address+path); status != http.StatusOK || body != "" {
			t.Errorf("HEAD of %s: %d: %s", path, status, body)
		}
	}
	for _, path := range []string{"/etc/passwd", "/debug/pprof/heap", "/debug/pprof/"} {
		if status, _ := ask(t, "GET", "http://"+address+path); status != http.StatusNotFound {
			t.Errorf("%s, which isn't there: %d", path, status)
		}
	}
}

// What is in memory is told by the socket.
func TestProfiles(t *testing.T) {
	socket := serve(t, &apitest.Engine{})
	for path, want := range map[string]string{"/debug/pprof/": "goroutine", "/debug/pprof/heap?debug=1": "heap profile", "/debug/pprof/cmdline": "Unknown profile"} {
		if _, body := raw(t, socket, "GET", path, nil); !strings.Contains(string(body), want) {
			t.Errorf("%s: %.300s", path, body)
		}
	}
}

// Nothing but reading is possible, whatever the method and path.
func TestTCPChangesNothing(t *testing.T) {
	engine := &apitest.Engine{Change: func(api.ApplyRequest) (api.ApplyResult, error) {
		t.Error("a snapshot was applied")
		return api.ApplyResult{}, nil
	}}
	address := serveTCP(t, engine)
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"} {
		for _, path := range []string{"/v1/blocks?prefix=203.0.113.7/32", "/v1/snapshot", "/v1/explain", "/v1/status", "/v1/tokens", "/metrics", "/healthz"} {
			status, body := ask(t, method, "http://"+address+path)
			if status != http.StatusMethodNotAllowed && status != http.StatusUnauthorized && status != http.StatusForbidden {
				t.Errorf("%s %s: %d: %s", method, path, status, body)
			}
		}
	}
	tokens, err := engine.Tokens(t.Context())
	if len(engine.Blocked()) > 0 || len(engine.Removed()) > 0 || len(tokens) > 0 || err != nil {
		t.Errorf("blocks were changed, or tokens made: %v, %v", tokens, err)
	}
}

// A web page of somebody else neither gets at it by a name of its own for this machine, nor from its origin.
func TestTCPIsForThisMachine(t *testing.T) {
	address := serveTCP(t, &apitest.Engine{})
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		headers []string
		want    int
	}{
		{[]string{"Host", "localhost"}, 200},
		{[]string{"Host", "LOCALHOST:" + port}, 200},
		{[]string{"Host", "127.0.0.1:19180"}, 200}, // through a tunnel
		{[]string{"Host", "[::1]:" + port}, 200},
		{[]string{"Host", "[::1]"}, 200},
		{[]string{"Host", "example.com"}, 403},
		{[]string{"Host", "localhost.example.com:" + port}, 403},
		{[]string{"Host", "127.0.0.1.example.com"}, 403},
		{[]string{"Host", "192.0.2.1:" + port}, 403},
		{[]string{"Host", "0.0.0.0:" + port}, 403},
		{[]string{"Host", "[::]:" + port}, 403},
		{[]string{"Host", ":" + port}, 403},
		{[]string{"Origin", "http://" + address}, 200},
		{[]string{"Origin", "https://" + address}, 403},
		{[]string{"Origin", "http://localhost:" + port}, 403}, // not what it asks
		{[]string{"Origin", "http://example.com"}, 403},
		{[]string{"Origin", "null"}, 403},
		{[]string{"Origin", ""}, 403},
		{[]string{"Origin", "http://" + address, "Origin", "http://example.com"}, 403},
		{[]string{"Origin", "://"}, 403},
	} {
		for _, path := range []string{"/v1/status", "/metrics", "/healthz"} {
			status, body := ask(t, "GET", "http://"+address+path, c.headers...)
			if status != c.want {
				t.Errorf("%q %s: %d, want %d: %s", c.headers, path, status, c.want, body)
			}
			var problem api.Problem
			if c.want == 403 && (json.Unmarshal([]byte(body), &problem) != nil || problem.Code != api.CodeForbidden) {
				t.Errorf("%q: %s", c.headers, body)
			}
		}
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /v1/status HTTP/1.0\r\n\r\n") // without Host
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || response.StatusCode != http.StatusForbidden {
		t.Errorf("without Host: %v %v", response, err)
	}
}

func TestNotReady(t *testing.T) {
	address := serveTCP(t, &apitest.Engine{Fail: errors.New("not attached to eth0: no such interface")})
	status, body := ask(t, "GET", "http://"+address+"/readyz")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "not attached to eth0") {
		t.Errorf("%d: %s", status, body)
	}
	if status, body := ask(t, "GET", "http://"+address+"/healthz"); status != http.StatusOK {
		t.Errorf("%d: %s", status, body)
	}
}

func TestListenTCPRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	if _, err := api.ListenTCP(netip.MustParseAddrPort(address)); err == nil || err.Error() != "listen on "+address+": bind: address already in use" {
		t.Errorf("on a port that is taken: %v", err)
	}
}

// More connections than are served at once wait, and are served when others end.
func TestTCPConnections(t *testing.T) {
	const most = 128
	address := serveTCP(t, &apitest.Engine{})
	var conns []net.Conn
	for range most + 1 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	read := func(conn net.Conn, patience time.Duration) error {
		conn.SetReadDeadline(time.Now().Add(patience))
		_, err := conn.Read(make([]byte, 1))
		return err
	}
	for _, conn := range conns {
		fmt.Fprintf(conn, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
	}
	for i, conn := range conns[:most] {
		if err := read(conn, 5*time.Second); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if read(conns[most], 100*time.Millisecond) == nil {
		t.Error("one connection too many is served")
	}
	conns[0].Close()
	if err := read(conns[most], 5*time.Second); err != nil {
		t.Errorf("the one that waited isn't served: %v", err)
	}
}
