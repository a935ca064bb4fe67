package api

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Certificate is one in files, with its key. It is safe for concurrent use.
type Certificate struct {
	cert, key string
	current   atomic.Pointer[tls.Certificate]

	mu     sync.Mutex
	stamps [2]stamp // of the files as they were read
}

// stamp tells whether a file is another one.
type stamp struct {
	modified time.Time
	size     int64
	inode    uint64
}

func stampOf(path string) (stamp, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return stamp{}, &os.PathError{Op: "read", Path: path, Err: err}
	}
	return stamp{time.Unix(stat.Mtim.Unix()), stat.Size, stat.Ino}, nil
}

// LoadCertificate reads it.
func LoadCertificate(cert, key string) (*Certificate, error) {
	c := &Certificate{cert: cert, key: key}
	return c, c.Refresh()
}

// Refresh reads the files again when they have changed. When that fails, what was read before stays, and the next call tries again.
func (c *Certificate) Refresh() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var stamps [2]stamp
	for i, path := range []string{c.cert, c.key} {
		var err error
		if stamps[i], err = stampOf(path); err != nil {
			return err
		}
	}
	if stamps == c.stamps {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("%s with %s: %w", c.cert, c.key, err)
	}
	c.current.Store(&pair)
	c.stamps = stamps
	return nil
}

// Same tells whether it is that of these files.
func (c *Certificate) Same(cert, key string) bool { return c != nil && c.cert == cert && c.key == key }

// Expires is when clients take it no more.
func (c *Certificate) Expires() time.Time { return c.current.Load().Leaf.NotAfter }

// isFor tells whether it is for a name or address.
func (c *Certificate) isFor(host string) bool {
	return c.current.Load().Leaf.VerifyHostname(host) == nil
}

func (c *Certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}
