package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"gardu/ctl/api"
	"gardu/ctl/api/apitest"
)

// The secret is on stdout and nowhere else; what a token is, is told beside it.
func TestToken(t *testing.T) {
	serve(t, &apitest.Engine{})
	r := gardu(t, "token", "create", "ci", "--scope", "operate", "--for", "90d")
	if r.code != exitDone || r.stdout != "gardu_ci\n" || !strings.Contains(r.stderr, "token ci with the scope operate is good until 2027-02-21T12:00:00Z") {
		t.Errorf("%+v", r)
	}
	if r := gardu(t, "token", "list", "-o", "csv"); r.code != exitDone || !strings.Contains(r.stdout, "ci,operate,2026-11-23T12:00:00Z,") || strings.Contains(r.stdout, "gardu_") {
		t.Errorf("%+v", r)
	}
	if r := gardu(t, "token", "revoke", "ci"); r.code != exitDone || r.stdout != "revoked ci\n" {
		t.Errorf("%+v", r)
	}
	for args, want := range map[string]string{
		"revoke ci":                  `there is no token "ci"`,
		"create Ci":                  `"Ci" is no name of a token`,
		"create ci --scope socket":   `a token's scope is read, operate or configure, not "socket"`,
		"create ci --scope anything": `not "anything"`,
	} {
		if r := gardu(t, append([]string{"token"}, strings.Fields(args)...)...); r.code != exitFailed || !strings.Contains(r.stderr, want) {
			t.Errorf("%s: %+v", args, r)
		}
	}
	for _, args := range []string{"", "create", "create a b", "create a --for soon", "revoke", "make a"} {
		if r := gardu(t, append([]string{"token"}, strings.Fields(args)...)...); r.code != exitUsage {
			t.Errorf("%q: %+v", args, r)
		}
	}
}

// A command asks by TCP with a token that is in a file, and says what to do without.
func TestServer(t *testing.T) {
	engine := &apitest.Engine{}
	if _, err := engine.CreateToken(t.Context(), api.TokenRequest{Name: "ci", Scope: api.ScopeOperate}); err != nil {
		t.Fatal(err)
	}
	access := func() api.Access { return api.Access{} }
	server := httptest.NewServer(api.OverTCP(access, engine, http.NotFoundHandler(), slog.New(slog.DiscardHandler)))
	defer server.Close()
	t.Setenv("GARDU_SERVER", server.URL)
	if r := gardu(t, "rules"); r.code != exitDone || !strings.Contains(r.stdout, "ssh") {
		t.Errorf("%+v", r)
	}
	if r := gardu(t, "block", "203.0.113.7"); r.code != exitFailed || !strings.Contains(r.stderr, "GARDU_TOKEN_FILE") {
		t.Errorf("%+v", r)
	}
	t.Setenv("GARDU_TOKEN_FILE", write(t, "ci.token", "gardu_ci\n"))
	if r := gardu(t, "block", "203.0.113.7"); r.code != exitDone || len(engine.Blocked()) != 1 {
		t.Errorf("%+v", r)
	}
	if r := gardu(t, "rollback"); r.code != exitFailed || !strings.Contains(r.stderr, "that of the token ci is operate") {
		t.Errorf("%+v", r)
	}
	server.Close()
	if r := gardu(t, "rules"); r.code != exitUnreachable || !strings.Contains(r.stderr, "does "+server.URL+" name a daemon") {
		t.Errorf("%+v", r)
	}
	if r := gardu(t, "rules", "--server", "http://192.0.2.1:9180"); r.code != exitFailed || !strings.Contains(r.stderr, "https is for other machines") {
		t.Errorf("%+v", r)
	}
}
