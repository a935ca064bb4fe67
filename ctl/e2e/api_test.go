package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/api/apitest"
	"gardu/ctl/testnet"
)

const served = `
interfaces:
  client0: {path: tc}
flows: {max: 10000}
filter:
  rules:
    - {name: nine, match: {proto: udp, dport: 9}, action: drop}
    - {name: discard, match: {proto: udp, dport: 10}, action: drop}
services:
  web:
    address: 192.0.2.10
    port: 80
    proto: tcp
    forward: dsr
    backends: [{name: b1, address: 10.0.1.11}]
`

// answered is what curl got.
type answered struct {
	code, kind string // HTTP status, content type
	etag       string
	body       string
}

// ask has a node ask with curl.
func (w *world) ask(node *testnet.Node, url string, args ...string) answered {
	w.Helper()
	body := w.path("body")
	w.must(os.WriteFile(body, nil, 0o600))
	out, err := node.Output(w.Context(), "curl", append([]string{"-sS", "--max-time", "10", "-o", body,
		"-w", "%{http_code}\n%{content_type}\n%header{etag}", url}, args...)...)
	if err != nil {
		return answered{code: err.Error()}
	}
	text, err := os.ReadFile(body)
	w.must(err)
	said := strings.Split(string(out), "\n")
	return answered{said[0], said[1], said[2], string(text)}
}

// token makes one by the command, and returns the header that shows it.
func (w *world) token(name, scope string, args ...string) (secret, header string) {
	w.Helper()
	out, err := w.box.Output(w.Context(), binary, append([]string{"--socket", w.path("gardu.sock"), "token", "create", name, "--scope", scope}, args...)...)
	w.must(err)
	secret = strings.TrimSpace(string(out))
	return secret, "Authorization: Bearer " + secret
}

// TestAPIByTCP asks a daemon with curl for what it must refuse, and for what it must not.
func TestAPIByTCP(t *testing.T) {
	w := newWorld(t, 1)
	w.listen = "127.0.0.1:9180"
	w.start(served)
	const at = "http://127.0.0.1:9180"
	large := w.path("large")
	w.must(os.WriteFile(large, []byte(`{"yaml":"`+strings.Repeat("x", api.MaxRequest)+`"}`), 0o644))
	explain := w.path("explain")
	w.must(os.WriteFile(explain, []byte(`{"packet":"`+strings.Repeat("x", 70<<10)+`"}`), 0o644))
	next, err := json.Marshal(api.ApplyRequest{Name: "next.yaml", YAML: strings.Replace(served, "dport: 9}", "dport: 19}", 1) + w.apiConfig()})
	w.must(err)
	wrong, err := json.Marshal(api.ApplyRequest{Name: "next.yaml", YAML: strings.Replace(served, "dport: 9}", "dport: 99999}", 1) + w.apiConfig()})
	w.must(err)
	readSecret, read := w.token("dashboard", "read")
	_, operate := w.token("oncall", "operate", "--for", "1d")
	configureSecret, configure := w.token("deploy", "configure")
	tag := w.ask(w.box, at+"/v1/snapshot", "-H", read).etag

	block := []string{"-d", `[{"prefix":"203.0.113.7/32"}]`}
	apply := []string{"-X", "PUT", "-d", string(next)}
	for _, c := range []struct {
		what, path string
		args       []string
		code, want string // HTTP status, and what the answer says
	}{
		{"look without a token", "/v1/rules", nil, "200", `"nine"`},
		{"block without a token", "/v1/blocks", block, "401", "gardu token create NAME --scope operate"},
		{"apply without a token", "/v1/snapshot", apply, "401", "--scope configure"},
		{"read the configuration without a token", "/v1/snapshot", nil, "401", "--scope read"},
		{"a token that is none", "/v1/rules", []string{"-H", "Authorization: Bearer gardu_x"}, "401", "there is no such token"},
		{"another way to log in", "/v1/rules", []string{"-u", "root:" + readSecret}, "401", "there is no such token"},
		{"block with read", "/v1/blocks", append(block, "-H", read), "403", "that of the token dashboard is read"},
		{"apply with operate", "/v1/snapshot", append(apply, "-H", operate), "403", "that of the token oncall is operate"},
		{"make a token with configure", "/v1/tokens", []string{"-d", `{"name":"x","scope":"read"}`, "-H", configure}, "403", "Unix socket alone"},
		{"list tokens with configure", "/v1/tokens", []string{"-H", configure}, "403", "Unix socket alone"},
		{"a name of somebody else", "/v1/rules", []string{"-H", "Host: evil.example"}, "403", "which is not this machine"},
		{"such a name with a token", "/v1/rules", []string{"-H", "Host: evil.example", "-H", configure}, "403", "which is not this machine"},
		{"a page of somebody else", "/v1/rules", []string{"-H", "Origin: http://evil.example", "-H", configure}, "403", "a page of"},
		{"a large configuration", "/v1/snapshot", []string{"-X", "PUT", "--data-binary", "@" + large, "-H", configure}, "413", "larger than 33554432 bytes"},
		{"a large packet", "/v1/explain", []string{"--data-binary", "@" + explain, "-H", read}, "413", "larger than 65536 bytes"},
		{"a parameter that isn't there", "/v1/rules?verbose=1", nil, "400", `no parameter \"verbose\"`},
		{"read the configuration", "/v1/snapshot", []string{"-H", read}, "200", `"yaml":"\ninterfaces:`},
		{"block with operate", "/v1/blocks", append(block, "-H", operate), "200", `"prefix":"203.0.113.7/32"`},
		{"a wrong configuration", "/v1/snapshot", []string{"-X", "PUT", "-d", string(wrong), "-H", configure}, "422",
			`{"file":"next.yaml","line":7,"column":47,"message":"99999 is larger than 65535"`},
		{"apply what was read", "/v1/snapshot", append(apply, "-H", configure, "-H", "If-Match: "+tag), "200", `"revision":2`},
		{"apply what was read before", "/v1/snapshot", append(apply, "-H", configure, "-H", "If-Match: "+tag), "412",
			"revision 2 is in force now (apply by token deploy from 127.0.0.1 at "},
		{"a page of a list", "/v1/rules?limit=1&after=nine", nil, "200", `[{"name":"discard"`},
		{"server-sent events", "/v1/events?filter=kind+apply&last=1", []string{"-H", "Accept: text/event-stream"}, "200", "data: {\"id\":"},
	} {
		got := w.ask(w.box, at+c.path, c.args...)
		if got.code != c.code || !strings.Contains(got.body, c.want) || c.code >= "400" && got.kind != "application/problem+json" {
			t.Errorf("%s: %.1500v, not %s with %s", c.what, got, c.code, c.want)
		}
	}

	// Tokens outlive a daemon that dies, expire, and end when they are revoked. Nothing that is written has their secrets.
	info, err := os.Stat(w.path("state/tokens.json"))
	w.must(err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("tokens are in a file of mode %v", info.Mode())
	}
	w.must(w.daemon.Signal(syscall.SIGKILL))
	<-w.daemon.Done()
	w.daemon = nil
	w.start(served)
	_, brief := w.token("brief", "read", "--for", "1s")
	w.until("the token has expired", func() error {
		if got := w.ask(w.box, at+"/v1/rules", "-H", brief); got.code != "401" {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	if got := w.ask(w.box, at+"/v1/snapshot", "-H", read); got.code != "200" {
		t.Errorf("after the daemon died: %+v", got)
	}
	_, err = w.gardu("token", "revoke", "dashboard")
	w.must(err)
	if got := w.ask(w.box, at+"/v1/snapshot", "-H", read); got.code != "401" {
		t.Errorf("a token that was revoked: %+v", got)
	}
	log, err := os.ReadFile(w.path("gardu.log"))
	w.must(err)
	for _, want := range []string{`"path":"/v1/snapshot","outcome":"stale","by":"token deploy from 127.0.0.1"`, `"path":"/v1/tokens","outcome":"done","by":"root","uid":0,"gid":0,"pid":`} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the log doesn't say %s:\n%s", want, log)
		}
	}
	w.must(filepath.WalkDir(w.dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		for _, secret := range []string{readSecret, configureSecret} {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s has a secret", path)
			}
		}
		return err
	}))
}

// Every answer of a daemon to who looks is one that the document of the API promises.
func TestAnswersFitTheDocument(t *testing.T) {
	w := newWorld(t, 1)
	w.listen = "127.0.0.1:9180"
	w.startWeb()
	w.start(served + "\n")
	w.ready()
	w.must(w.answers("192.0.2.10"))
	_, err := w.gardu("block", "203.0.113.7", "--for", "10m")
	w.must(err)
	document, err := apitest.LoadDocument()
	w.must(err)
	plan, err := json.Marshal(api.PlanRequest{Name: "next.yaml", YAML: strings.Replace(served, "dport: 9}", "dport: 19}", 1) + w.apiConfig()})
	w.must(err)
	socket := []string{"--unix-socket", w.path("gardu.sock")}
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/v1/status", ""}, {"GET", "/v1/rules", ""}, {"GET", "/v1/sets", ""}, {"GET", "/v1/services", ""}, {"GET", "/v1/backends", ""},
		{"GET", "/v1/blocks", ""}, {"GET", "/v1/flows", ""}, {"GET", "/v1/flows?group=src", ""}, {"GET", "/v1/events", ""}, {"GET", "/v1/snapshot", ""},
		{"GET", "/v1/revisions", ""}, {"GET", "/v1/revision?number=1", ""}, {"GET", "/v1/tokens", ""}, {"GET", "/v1/openapi.json", ""},
		{"POST", "/v1/plan", string(plan)}, {"POST", "/v1/explain", `{"packet":"tcp 198.51.100.7:40000 > 192.0.2.10:80 syn"}`},
		{"POST", "/v1/rollback", "{}"}, {"POST", "/v1/drains", `{"service":"web","backend":"b1"}`}, {"DELETE", "/v1/drains?service=web&backend=b1", ""},
		{"PUT", "/v1/weights", `{"service":"web","backend":"b1","weight":7}`}, {"PUT", "/v1/snapshot", string(plan)}, {"POST", "/v1/rollback", "{}"},
		{"DELETE", "/v1/blocks?prefix=203.0.113.7/32", ""}, {"GET", "/v1/history?since=2026-01-02T15:04:05Z", ""}, {"POST", "/v1/confirm", "{}"},
	} {
		args := append([]string{"-X", c.method}, socket...)
		if c.body != "" {
			args = append(args, "-d", c.body)
		}
		got := w.ask(w.box, "http://gardu"+c.path, args...)
		var status int
		fmt.Sscan(got.code, &status)
		if err := document.Fits(c.method, c.path, status, got.kind, []byte(got.body)); err != nil {
			t.Error(err)
		}
	}
}

// certify writes a certificate of its own and its key.
func (w *world) certify(serial int64) (cert, key string) {
	w.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "box"}, DNSNames: []string{"box.example"},
		IPAddresses: []net.IP{net.IPv4(198, 51, 100, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	w.must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	w.must(err)
	cert, key = w.path("cert.pem"), w.path("key.pem")
	w.must(os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	w.must(os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	w.must(os.Chown(key, 65534, 65534)) // of somebody else, as a tool that renews certificates leaves it
	return cert, key
}

// TestAPIFromOtherMachines serves them by TLS alone, and shows the next certificate when its files are replaced.
func TestAPIFromOtherMachines(t *testing.T) {
	w := newWorld(t, 1)
	w.start(served)
	const address = "198.51.100.1:9180"
	open := w.path("open.yaml")
	w.listen = address
	w.must(os.WriteFile(open, []byte(served+w.apiConfig()), 0o644))
	for _, command := range []string{"check", "plan", "apply"} {
		if r := w.try(binary, "--socket", w.path("gardu.sock"), command, open); r.code != 1 ||
			!strings.Contains(r.stderr, "open.yaml:17:") || !strings.Contains(r.stderr, address+" can be reached from other machines") ||
			!strings.Contains(r.stderr, "tls: {cert: FILE, key: FILE}") {
			t.Errorf("%s without TLS: %+v", command, r)
		}
	}
	cert, key := w.path("cert.pem"), w.path("key.pem")
	w.listen = fmt.Sprintf("%q, tls: {cert: %s, key: %s}, anonymous: none", address, cert, key)
	_, err := w.api.Apply(t.Context(), api.ApplyRequest{Name: "e2e.yaml", YAML: served + w.apiConfig()})
	if problem, ok := errors.AsType[*api.Problem](err); !ok || len(problem.Errors) != 1 || !strings.Contains(problem.Errors[0].Message, cert) || problem.Errors[0].Line != 17 {
		t.Errorf("without the files: %v", err)
	}
	if _, err := w.api.Plan(t.Context(), api.PlanRequest{Name: "e2e.yaml", YAML: served + w.apiConfig()}); err == nil || !strings.Contains(err.Error(), "invalid") {
		t.Errorf("plan without the files: %v", err)
	}
	w.certify(1)
	w.apply(served)
	_, read := w.token("dashboard", "read")
	trust := []string{"--cacert", cert}
	get := func(args ...string) answered {
		w.Helper()
		return w.ask(w.client, "https://"+address+"/v1/rules", append(args, trust...)...)
	}
	w.until("it is served", func() error {
		if got := get("-H", read); got.code != "200" || !strings.Contains(got.body, `"nine"`) {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	if got := get(); got.code != "401" {
		t.Errorf("without a token: %+v", got)
	}
	if got := get("-H", read, "-H", "Host: evil.example"); got.code != "403" {
		t.Errorf("by a name of somebody else: %+v", got)
	}
	if got := get("-H", read, "-H", "Origin: https://evil.example"); got.code != "403" {
		t.Errorf("from a page of somebody else: %+v", got)
	}
	if got := w.ask(w.client, "https://box.example:9180/v1/rules", append(trust, "-H", read, "--connect-to", "::"+address)...); got.code != "200" {
		t.Errorf("by its name: %+v", got)
	}
	if got := w.ask(w.client, "http://"+address+"/v1/rules", "-H", read); got.code != "400" {
		t.Errorf("without TLS: %+v", got)
	}
	if got := w.ask(w.client, "https://"+address+"/healthz", trust...); got.code != "200" {
		t.Errorf("/healthz: %+v", got)
	}
	w.certify(2)
	w.until("the next certificate is shown", func() error {
		if got := get("-H", read); got.code != "200" {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	w.must(os.WriteFile(key, []byte("nonsense"), 0o600))
	w.until("the daemon tells of the key that is none", func() error {
		if text := strings.Join(w.status().Warnings, "\n"); !strings.Contains(text, "read api.tls again: ") {
			return fmt.Errorf("warnings: %s", text)
		}
		return nil
	})
	if got := get("-H", read); got.code != "200" {
		t.Errorf("with a key that is none: %+v", got)
	}
}
