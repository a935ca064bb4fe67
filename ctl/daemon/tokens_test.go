package daemon

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gardu/ctl/api"
)

// tokenDaemon is one that has nothing but tokens.
func tokenDaemon(t *testing.T, dir string) *Daemon {
	t.Helper()
	return newDaemon(Options{StateDir: dir, Log: slog.New(slog.DiscardHandler)})
}

func TestTokensAreKept(t *testing.T) {
	dir := t.TempDir()
	d := tokenDaemon(t, dir)
	made, err := d.CreateToken(t.Context(), api.TokenRequest{Name: "ci", Scope: api.ScopeOperate, For: api.Duration(time.Hour)})
	if err != nil || len(made.Secret) < 40 || !strings.HasPrefix(made.Secret, "gardu_") {
		t.Fatalf("%+v, %v", made, err)
	}
	if _, err := d.CreateToken(t.Context(), api.TokenRequest{Name: "ci", Scope: api.ScopeRead}); err == nil || !strings.Contains(err.Error(), "there is a token ci already") {
		t.Errorf("the same name again: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, tokensFile))
	if err != nil || strings.Contains(string(text), made.Secret) || strings.Contains(string(text), "last_used") {
		t.Errorf("%v: %s", err, text)
	}
	next := tokenDaemon(t, dir) // the one after it
	if token, ok := next.FindToken(made.Secret); !ok || token.Name != "ci" || token.Scope != api.ScopeOperate {
		t.Errorf("%+v, %t", token, ok)
	}
	for _, wrong := range []string{"", "gardu_", made.Secret + "x", hashOf(made.Secret)} {
		if _, ok := next.FindToken(wrong); ok {
			t.Errorf("%q is taken", wrong)
		}
	}
	if _, ok := next.tokens.find(made.Secret, made.Expires); ok {
		t.Error("it has expired, and is taken")
	}
	if err := next.RevokeToken(t.Context(), "ci"); err != nil {
		t.Error(err)
	}
	if _, ok := next.FindToken(made.Secret); ok {
		t.Error("it was revoked, and is taken")
	}
	if err := next.RevokeToken(t.Context(), "ci"); err == nil {
		t.Error("revoked twice")
	}
}

// A file that makes no sense gives no tokens, isn't written over, and is told of.
func TestDamagedTokens(t *testing.T) {
	for _, text := range []string{"", "nonsense", `{"version":2,"tokens":[]}`} {
		dir := t.TempDir()
		path := filepath.Join(dir, tokensFile)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d := tokenDaemon(t, dir)
		_, err := d.CreateToken(t.Context(), api.TokenRequest{Name: "ci", Scope: api.ScopeRead})
		if now, _ := os.ReadFile(path); err == nil || !strings.Contains(err.Error(), path) || string(now) != text {
			t.Errorf("%q: %v, then %q", text, err, now)
		}
		if _, err := d.Tokens(context.Background()); err == nil {
			t.Errorf("%q: a list", text)
		}
		if told := strings.Join(d.faults.all(), "\n"); !strings.Contains(told, "no token is taken") {
			t.Errorf("%q: status says %q", text, told)
		}
	}
}

// A token that can't be saved is none.
func TestTokenNotSaved(t *testing.T) {
	dir := t.TempDir()
	d := tokenDaemon(t, filepath.Join(dir, "state"))
	if err := os.WriteFile(filepath.Join(dir, "state"), nil, 0o600); err != nil { // where a directory should be
		t.Fatal(err)
	}
	if _, err := d.CreateToken(t.Context(), api.TokenRequest{Name: "ci", Scope: api.ScopeRead}); err == nil || !strings.Contains(err.Error(), "save tokens") {
		t.Errorf("%v", err)
	}
	if list, err := d.Tokens(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}
