package api

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// DefaultSocket is where daemon and client meet when nobody says otherwise.
const DefaultSocket = "/run/gardu/gardu.sock"

// Group may use the socket besides root, where such a group exists.
const Group = "gardu"

// ErrInUse is returned by Listen when a living daemon holds the socket.
var ErrInUse = errors.New("another daemon answers on this socket")

// Listen makes the API's Unix socket: mode 0660, root and the group gardu. The socket of a dead daemon gives way, that
// of a living one doesn't: ErrInUse. It appears under its name only with its final owner and mode, so that there is no
// moment at which others could connect. Closing the listener removes it.
func Listen(path string) (net.Listener, error) {
	listener, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return listener, nil
}

func listen(path string) (net.Listener, error) {
	if err := checkFree(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	private, err := os.MkdirTemp(filepath.Dir(path), ".s") // mode 0700
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	hidden := filepath.Join(private, "s")
	unix, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, err
	}
	unix.SetUnlinkOnClose(false)
	info, err := publish(hidden, path)
	if err != nil {
		unix.Close()
		return nil, err
	}
	return &listener{UnixListener: unix, path: path, info: info}, nil
}

// checkFree makes sure that there is nothing at path, or a socket that nobody listens on.
func checkFree(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return errors.New("something that is not a socket is in the way")
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		conn.Close()
		return ErrInUse
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		return nil
	}
	return err
}

// publish gives the socket its owner and mode, then its name.
func publish(hidden, path string) (os.FileInfo, error) {
	if group, err := user.LookupGroup(Group); err == nil && os.Geteuid() == 0 {
		gid, err := strconv.Atoi(group.Gid)
		if err != nil {
			return nil, err
		}
		if err := os.Chown(hidden, 0, gid); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(hidden, 0o660); err != nil {
		return nil, err
	}
	if err := os.Rename(hidden, path); err != nil {
		return nil, err
	}
	return os.Lstat(path)
}

// listener removes its socket when it is closed, unless another one has taken the name.
type listener struct {
	*net.UnixListener
	path string
	info os.FileInfo
}

func (l *listener) Close() error {
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.info) {
		os.Remove(l.path)
	}
	return l.UnixListener.Close()
}
