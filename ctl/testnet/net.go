package testnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ErrBusy is returned by New when another process has a network of that name.
var ErrBusy = errors.New("in use by another process")

// lockDir holds a lock file for each network, by which a later New finds and removes what a crashed process left.
const lockDir = "/run/gardu-testnet"

// Net is a number of nodes that are removed as one. Its methods may be called concurrently.
type Net struct {
	name string
	lock *os.File

	mu    sync.Mutex
	nodes []*Node
}

// New returns an empty network. Its namespaces are called NAME-NODE. A "*" in the name is replaced so that it is
// unique, as in os.CreateTemp. What networks of dead processes left behind is removed first.
func New(name string) (*Net, error) {
	if before, after, ok := strings.Cut(name, "*"); ok {
		name = before + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(time.Now().UnixNano()%1e9, 36) + after
	}
	if err := os.MkdirAll(lockDir, 0o755); err != nil {
		return nil, fmt.Errorf("make network %s: %w", name, err)
	}
	// One New at a time, or one's sweep could hold the lock that the other is about to take.
	turn, err := os.Open(lockDir)
	if err != nil {
		return nil, fmt.Errorf("make network %s: %w", name, err)
	}
	defer turn.Close()
	if err := unix.Flock(int(turn.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("make network %s: lock %s: %w", name, lockDir, err)
	}
	if err := sweep(); err != nil {
		return nil, fmt.Errorf("remove what an earlier run left: %w", err)
	}
	lock, err := acquire(filepath.Join(lockDir, name))
	if err != nil {
		return nil, fmt.Errorf("make network %s: %w", name, err)
	}
	return &Net{name: name, lock: lock}, nil
}

// Close kills the processes in all nodes and removes the namespaces, and with them all links.
func (n *Net) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, node := range n.nodes {
		errs = append(errs, node.close())
	}
	n.nodes = nil
	errs = append(errs, os.Remove(n.lock.Name()), n.lock.Close())
	return errors.Join(errs...)
}

// Node adds a network namespace with its loopback up. IPv6 addresses are usable at once, and the reverse path filter
// is off, whatever this machine's defaults are.
func (n *Net) Node(name string) (*Node, error) {
	full := n.name + "-" + name
	node := &Node{name: name, namespace: full}
	err := onNewThread(func() error {
		handle, err := netns.NewNamed(full)
		if err != nil {
			return err
		}
		node.ns = handle
		return node.prepare()
	})
	if err != nil {
		if node.ns > 0 {
			node.close()
		}
		return nil, fmt.Errorf("make namespace %s: %w", full, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes = append(n.nodes, node)
	return node, nil
}

// End is one end of a link.
type End struct {
	Node      *Node
	Name      string         // of the interface
	Addresses []netip.Prefix // with the host part
}

// Connect joins two nodes by a veth pair, up, with the default offloads. mtu 0 means 1500.
func (n *Net) Connect(a, b End, mtu int) error {
	if mtu == 0 {
		mtu = 1500
	}
	err := a.Node.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = a.Name, mtu
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     attrs,
			PeerName:      b.Name,
			PeerMTU:       uint32(mtu),
			PeerNamespace: netlink.NsFd(b.Node.ns),
		})
	})
	if err != nil {
		return fmt.Errorf("connect %s:%s to %s:%s: %w", a.Node.name, a.Name, b.Node.name, b.Name, err)
	}
	for _, end := range []End{a, b} {
		if err := end.Node.up(end.Name); err != nil {
			return err
		}
		for _, addr := range end.Addresses {
			if err := end.Node.AddAddress(end.Name, addr); err != nil {
				return err
			}
		}
	}
	return nil
}

// acquire opens and locks a file, or fails with ErrBusy.
func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrBusy
		}
		return nil, err
	}
	return f, nil
}

// sweep removes the namespaces of networks whose process died.
func sweep() error {
	entries, err := os.ReadDir(lockDir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(lockDir, entry.Name())
		lock, err := acquire(path)
		if errors.Is(err, ErrBusy) {
			continue
		}
		if err != nil {
			return err
		}
		stale, _ := filepath.Glob(filepath.Join("/run/netns", entry.Name()+"-*"))
		for _, namespace := range stale {
			if err := netns.DeleteNamed(filepath.Base(namespace)); err != nil {
				lock.Close()
				return fmt.Errorf("delete namespace %s: %w", filepath.Base(namespace), err)
			}
		}
		os.Remove(path)
		lock.Close()
	}
	return nil
}
