package api_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/api/apitest"
	"gardu/ctl/api/client"
)

// withToken sends a request that shows a token.
func withToken(t *testing.T, address, method, path, body, secret string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequest(method, "http://"+address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+secret)
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(text)
}

// Every operation is open to tokens of its scope and of those above, and to nobody else.
func TestScopes(t *testing.T) {
	document, err := apitest.LoadDocument()
	if err != nil {
		t.Fatal(err)
	}
	engine := &apitest.Engine{}
	for _, scope := range api.Scopes() {
		if _, err := engine.CreateToken(t.Context(), api.TokenRequest{Name: string(scope), Scope: scope}); err != nil {
			t.Fatal(err)
		}
	}
	open := serveTCP(t, engine)
	tokensOnly := serveAccess(t, engine, api.Access{TokensOnly: true})
	seen := map[api.Scope]int{}
	for _, r := range requests {
		path, _, _ := strings.Cut(r.path, "?")
		needed := api.Scope(document.Paths.Value(path).GetOperation(r.method).Tags[0])
		seen[needed]++
		for _, scope := range api.Scopes() {
			want := http.StatusOK
			if !scope.Allows(needed) {
				want = http.StatusForbidden
			}
			response, body := withToken(t, tokensOnly, r.method, r.path, r.body, "gardu_"+string(scope))
			if response.StatusCode != want {
				t.Errorf("%s %s takes %s; with %s it is %d: %s", r.method, r.path, needed, scope, response.StatusCode, body)
			}
		}
		want := map[api.Scope]int{api.ScopePublic: http.StatusOK, api.ScopeSocket: http.StatusForbidden}[needed]
		if want == 0 {
			want = http.StatusUnauthorized
		}
		if status, body := ask(t, r.method, "http://"+open+r.path); status != want {
			t.Errorf("%s %s without a token: %d: %s", r.method, r.path, status, body)
		}
		if status, body := ask(t, r.method, "http://"+tokensOnly+r.path); status == http.StatusOK {
			t.Errorf("%s %s where a token is asked for: %d: %s", r.method, r.path, status, body)
		}
	}
	if len(seen) != 5 {
		t.Errorf("scopes %v", seen)
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 401} {
		if status, body := ask(t, "GET", "http://"+tokensOnly+path); status != want {
			t.Errorf("%s where a token is asked for: %d: %s", path, status, body)
		}
	}
	if response, _ := withToken(t, tokensOnly, "GET", "/metrics", "", "gardu_read"); response.StatusCode != http.StatusOK {
		t.Errorf("/metrics with a token: %s", response.Status)
	}
}

// A token that is none is refused where nobody would need one, too, and who tries many has to wait.
func TestWrongTokens(t *testing.T) {
	engine := &apitest.Engine{}
	if _, err := engine.CreateToken(t.Context(), api.TokenRequest{Name: "ci", Scope: api.ScopeRead}); err != nil {
		t.Fatal(err)
	}
	address := serveTCP(t, engine)
	tried := 0
	for ; tried < 100; tried++ {
		response, body := withToken(t, address, "GET", "/v1/status", "", "gardu_guess")
		if response.StatusCode == http.StatusTooManyRequests {
			if response.Header.Get("Retry-After") == "" || !strings.Contains(body, "too-many") {
				t.Errorf("%v: %s", response.Header, body)
			}
			break
		}
		if response.StatusCode != http.StatusUnauthorized || !strings.Contains(response.Header.Get("WWW-Authenticate"), "invalid_token") {
			t.Fatalf("%s: %s", response.Status, body)
		}
	}
	if tried < 5 || tried > 30 {
		t.Errorf("%d wrong tokens before it was too much", tried)
	}
}

// What is asked for too often has to wait; what others ask for doesn't.
func TestTooManyRequests(t *testing.T) {
	address := serveTCP(t, &apitest.Engine{})
	refused := 0
	for range 400 {
		if status, _ := ask(t, "GET", "http://"+address+"/healthz"); status == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 {
		t.Error("400 requests at once, and none too many")
	}
}

// logged gathers log lines.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Whoever changes something, or tries to, is in the log by what the kernel says; secrets never are.
func TestChangesAreLogged(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "gardu.sock")
	listener, err := api.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	var log logged
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- api.Serve(ctx, listener, &apitest.Engine{}, slog.New(slog.NewTextHandler(&log, nil))) }()
	c := client.New(socket)
	if _, err := c.Status(t.Context()); err != nil || log.String() != "" {
		t.Errorf("%v; looking is logged: %s", err, log.String())
	}
	token, err := c.CreateToken(t.Context(), api.TokenRequest{Name: "ci", Scope: api.ScopeRead})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Drain(t.Context(), api.DrainRequest{Service: "web", Backend: "b9"}); err == nil {
		t.Error("drained")
	}
	c.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	who := fmt.Sprintf("uid=%d gid=%d pid=%d", os.Getuid(), os.Getgid(), os.Getpid())
	for _, want := range []string{"method=POST path=/v1/tokens outcome=done by=", "method=POST path=/v1/drains outcome=not-found by=", who} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in\n%s", want, log.String())
		}
	}
	if strings.Contains(log.String(), token.Secret) {
		t.Errorf("the secret is in\n%s", log.String())
	}
}

// makeCertificate writes one of its own for a name, and returns a client that trusts it.
func makeCertificate(t *testing.T, dir, name string) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: bytes}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return cert, key, pool
}

// With a certificate all is encrypted, the Host may be what it is for, and another one in the files is shown from then on.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key, pool := makeCertificate(t, dir, "box.example")
	certificate, err := api.LoadCertificate(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	address := serveAccess(t, &apitest.Engine{}, api.Access{Certificate: certificate})
	get := func(pool *x509.CertPool, host string, headers ...string) (int, error) {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
		request, err := http.NewRequest("GET", "https://"+address+"/v1/status", nil)
		if err != nil {
			return 0, err
		}
		request.Host = host
		for i := 0; i < len(headers); i += 2 {
			request.Header.Set(headers[i], headers[i+1])
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			return 0, err
		}
		defer response.Body.Close()
		return response.StatusCode, nil
	}
	for host, want := range map[string]int{"box.example": 200, "box.example:9180": 200, "localhost": 200, "evil.example": 403, "192.0.2.1": 403} {
		if status, err := get(pool, host); status != want || err != nil {
			t.Errorf("host %s: %d, %v", host, status, err)
		}
	}
	for origin, want := range map[string]int{"https://box.example": 200, "http://box.example": 403, "https://evil.example": 403} {
		if status, err := get(pool, "box.example", "Origin", origin); status != want || err != nil {
			t.Errorf("origin %s: %d, %v", origin, status, err)
		}
	}
	if status, _ := ask(t, "GET", "http://"+address+"/v1/status"); status != http.StatusBadRequest {
		t.Errorf("without TLS: %d", status)
	}
	if err := os.WriteFile(key, []byte("half a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := certificate.Refresh(); err == nil || !strings.Contains(err.Error(), "key.pem") {
		t.Errorf("half a key: %v", err)
	}
	if status, err := get(pool, "box.example"); status != 200 || err != nil {
		t.Errorf("with the one before: %d, %v", status, err)
	}
	_, _, next := makeCertificate(t, dir, "box.example")
	if err := certificate.Refresh(); err != nil {
		t.Fatal(err)
	}
	if status, err := get(next, "box.example"); status != 200 || err != nil {
		t.Errorf("with the next one: %d, %v", status, err)
	}
	if _, err := get(pool, "box.example"); err == nil {
		t.Error("the old certificate is shown")
	}
}

// A stream ends when its token is revoked.
func TestRevokedStream(t *testing.T) {
	engine := endless{&apitest.Engine{}}
	token, err := engine.CreateToken(t.Context(), api.TokenRequest{Name: "ci", Scope: api.ScopeRead})
	if err != nil {
		t.Fatal(err)
	}
	address := serveTCP(t, engine)
	request, err := http.NewRequest("GET", "http://"+address+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token.Secret)
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := engine.RevokeToken(t.Context(), "ci"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatal(err)
	}
	var problem api.Problem
	if err := json.Unmarshal([]byte(response.Trailer.Get(api.ProblemTrailer)), &problem); err != nil || problem.Code != api.CodeNoToken {
		t.Errorf("it ended with %v, %v", response.Trailer, err)
	}
}

// endless has events as long as somebody takes them.
type endless struct{ *apitest.Engine }

func (e endless) Events(ctx context.Context, _ api.EventWish, yield func(api.Event, bool) error) error {
	for {
		if err := yield(api.Event{Time: apitest.Now, Kind: api.EventApply}, false); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Millisecond):
		}
	}
}
