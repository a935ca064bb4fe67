package daemon

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"gardu/ctl/api"
)

const (
	tokensFile    = "tokens.json"
	maxTokens     = 1000
	secretBytes   = 32
	secretPrefix  = "gardu_" // so that who finds one knows what it is
	tokensVersion = 1
)

// tokens are those of the API, in a file that only root reads. It holds a hash of each secret: nobody guesses 32 bytes, so it takes no
// slow one.
type tokens struct {
	path string

	mu     sync.Mutex
	kept   []keptToken // by name
	broken error       // the file can't be read: there are no tokens, and none are written over it
}

type keptToken struct {
	api.Token
	Hash string `json:"hash"` // SHA-256 of the secret
}

type tokensOnDisk struct {
	Version int         `json:"version"`
	Tokens  []keptToken `json:"tokens"`
}

// loadTokens reads what the daemon before left. Without it nobody asks by a token, which is no reason not to run.
func loadTokens(dir string) *tokens {
	t := &tokens{path: filepath.Join(dir, tokensFile)}
	data, err := os.ReadFile(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return t
	}
	var disk tokensOnDisk
	if err == nil {
		err = json.Unmarshal(data, &disk)
	}
	if err == nil && disk.Version != tokensVersion {
		err = fmt.Errorf("it has version %d, this gardu reads %d", disk.Version, tokensVersion)
	}
	if err != nil {
		t.broken = fmt.Errorf("read tokens from %s: %w; no token is taken: remove it to make new ones", t.path, err)
		return t
	}
	t.kept = disk.Tokens
	return t
}

// change puts another list in force once it is on disk. t.mu is held.
func (t *tokens) change(next []keptToken) error {
	if t.broken != nil {
		return t.broken
	}
	onDisk := slices.Clone(next)
	for i := range onDisk {
		onDisk[i].Used = time.Time{}
	}
	data, err := json.Marshal(tokensOnDisk{tokensVersion, onDisk})
	if err == nil {
		err = replaceFile(t.path, data)
	}
	if err != nil {
		return fmt.Errorf("save tokens: %w", err)
	}
	t.kept = next
	return nil
}

func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// find returns the token of a secret, and notes that it was used.
func (t *tokens) find(secret string, now time.Time) (api.Token, bool) {
	hash := hashOf(secret) // compared as such, the time it takes tells nothing of the secret
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.kept, func(k keptToken) bool { return k.Hash == hash })
	if i < 0 || !t.kept[i].Expires.IsZero() && !now.Before(t.kept[i].Expires) {
		return api.Token{}, false
	}
	t.kept[i].Used = now
	return t.kept[i].Token, true
}

func (t *tokens) list() []api.Token {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]api.Token, len(t.kept))
	for i, k := range t.kept {
		list[i] = k.Token
	}
	return list
}

func (t *tokens) byName(name string) (int, bool) {
	return slices.BinarySearchFunc(t.kept, name, func(k keptToken, name string) int { return cmp.Compare(k.Name, name) })
}

// CreateToken makes a token.
func (d *Daemon) CreateToken(ctx context.Context, request api.TokenRequest) (api.NewToken, error) {
	var random [secretBytes]byte
	rand.Read(random[:]) // never fails
	secret := secretPrefix + base64.RawURLEncoding.EncodeToString(random[:])
	token := api.Token{Name: request.Name, Scope: request.Scope, Created: time.Now().Round(0), Author: api.Author(ctx)}
	if request.For > 0 {
		token.Expires = token.Created.Add(time.Duration(request.For))
	}
	t := d.tokens
	t.mu.Lock()
	defer t.mu.Unlock()
	i, taken := t.byName(token.Name)
	switch {
	case taken:
		return api.NewToken{}, api.NewProblem(api.CodeConflict, "there is a token %s already: revoke it first, or take another name", token.Name)
	case len(t.kept) >= maxTokens:
		return api.NewToken{}, api.NewProblem(api.CodeFull, "there are %d tokens, and no room for more: revoke some", len(t.kept))
	}
	if err := t.change(slices.Insert(slices.Clone(t.kept), i, keptToken{token, hashOf(secret)})); err != nil {
		return api.NewToken{}, err
	}
	d.log.Info("token made", "name", token.Name, "scope", token.Scope, "by", token.Author)
	d.happened(api.Event{Kind: api.EventToken, Text: fmt.Sprintf("%s, with the scope %s, was made by %s", token.Name, token.Scope, token.Author)})
	return api.NewToken{Token: token, Secret: secret}, nil
}

// Tokens lists them by name.
func (d *Daemon) Tokens(context.Context) ([]api.Token, error) {
	if d.tokens.broken != nil {
		return nil, d.tokens.broken
	}
	return d.tokens.list(), nil
}

// RevokeToken ends a token: requests that come from now on are refused, and streams end.
func (d *Daemon) RevokeToken(ctx context.Context, name string) error {
	t := d.tokens
	t.mu.Lock()
	defer t.mu.Unlock()
	i, found := t.byName(name)
	if !found {
		return api.NewProblem(api.CodeNotFound, "there is no token %q", name)
	}
	if err := t.change(slices.Delete(slices.Clone(t.kept), i, i+1)); err != nil {
		return err
	}
	d.log.Info("token revoked", "name", name, "by", api.Author(ctx))
	d.happened(api.Event{Kind: api.EventToken, Text: fmt.Sprintf("%s was revoked by %s", name, api.Author(ctx))})
	return nil
}

// FindToken returns the token of a secret.
func (d *Daemon) FindToken(secret string) (api.Token, bool) { return d.tokens.find(secret, time.Now()) }
