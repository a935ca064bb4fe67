package api_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gardu/ctl/api"
	"gardu/ctl/api/client"
)

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "run", "gardu.sock")
	first, err := api.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o660 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
	if _, err := api.Listen(path); !errors.Is(err, api.ErrInUse) {
		t.Errorf("a living socket: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestListenStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gardu.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	if _, err := client.New(path).Status(t.Context()); !errors.Is(err, client.ErrUnreachable) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("asking a dead daemon: %v", err)
	}
	listener, err := api.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// A daemon that ends late doesn't take the socket of its successor with it.
func TestCloseLeavesSuccessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gardu.sock")
	old, err := api.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	successor, err := api.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer successor.Close()
	old.Close()
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestListenRefusesOtherFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gardu.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Listen(path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("error is %v", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Errorf("the file is %q, %v", text, err)
	}
}

func TestUnreachable(t *testing.T) {
	_, err := client.New(filepath.Join(t.TempDir(), "none.sock")).Status(t.Context())
	if !errors.Is(err, client.ErrUnreachable) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}
