package dataplane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"gardu/ctl/abi"
	"gardu/ctl/model"
)

// decapCounters is the map of tc/decap.c; its pin is named like the hook's.
const (
	decapCounters      = "decap_counters"
	decapPin      kind = "counters"
)

// DecapOptions say where to strip the outer header that a balancer put on packets.
type DecapOptions struct {
	Name    string
	Ifindex int
	Path    model.Path // tc unless it is xdp or xdp-generic
	Replace bool       // take a foreign XDP program off first
	MSS     uint16     // bytes of a TCP segment that clients may send by IPv4, 20 less by IPv6; 0: as this host says itself
	Pin     string     // directory as in Options.Dir, to stay attached after Close; "" = go with Close
	Netlink Netlink    // nil: no fall-back to clsact
}

// Decap is the decapsulation program on one interface.
type Decap struct {
	attachment attachment
	counters   *ebpf.Map
}

// DecapCounts is what became of packets with an outer header, summed over CPUs; bytes are frame lengths.
type DecapCounts struct {
	Done      abi.Counter
	Congested abi.Counter // dropped: congestion was marked that the inner header can't carry (RFC 6040)
	Failed    abi.Counter // dropped: the kernel refused
	Clamped   abi.Counter // SYN+ACK that asked for longer segments
}

// AttachDecap puts the decapsulation program on an interface of the calling thread's network namespace. One that was pinned
// for this interface before is replaced. Errors are those of Open and Attach.
func AttachDecap(o DecapOptions) (_ *Decap, err error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, permission("raise RLIMIT_MEMLOCK", err)
	}
	dir := ""
	if o.Pin != "" {
		if err := DetachDecap(o.Pin, o.Name, o.Netlink); err != nil && !errors.Is(err, ErrNotAttached) {
			return nil, err
		}
		if _, err := makeDir(o.Pin, decapDir); err != nil {
			return nil, err
		}
		dir = filepath.Join(o.Pin, decapDir)
	}
	spec, err := loadDecap()
	if err != nil {
		return nil, err
	}
	if err := spec.Variables["decap_mss"].Set(o.MSS); err != nil {
		return nil, fmt.Errorf("set decap_mss: %w", err)
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, permission("load the decapsulation program", err)
	}
	defer collection.Close()
	d := &Decap{
		attachment: attachment{Attachment: Attachment{Name: o.Name}},
		counters:   collection.DetachMap(decapCounters),
	}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if o.Path != model.PathXDP && o.Path != model.PathXDPGeneric {
		o.Path = model.PathTC
	}
	placing := placement{
		AttachOptions: AttachOptions{Name: o.Name, Ifindex: o.Ifindex, Path: o.Path, Egress: o.MSS != 0, Replace: o.Replace},
		program: func(k kind) (*ebpf.Program, error) {
			name := map[Hook]string{HookXDP: "decap_xdp", HookIngress: "decap_tc", HookEgress: "decap_clamp"}[k.hook()]
			return collection.Programs[name], nil
		},
		dir: dir, netlink: o.Netlink,
	}
	if err := placing.place(&d.attachment); err != nil {
		return nil, err
	}
	if dir == "" {
		return d, nil
	}
	return d, repin(d.counters, filepath.Join(dir, pinName(o.Name, decapPin)))
}

// Attachment tells how it is attached.
func (d *Decap) Attachment() Attachment { return d.attachment.Attachment }

// Counts reads what became of packets so far.
func (d *Decap) Counts() (DecapCounts, error) {
	all, err := counters[abi.Counter](d.counters, firstIDs(4))
	if err != nil {
		return DecapCounts{}, fmt.Errorf("read the counters of decapsulation: %w", err)
	}
	return DecapCounts{Done: all[0], Congested: all[1], Failed: all[2], Clamped: all[3]}, nil
}

// Close takes the program off, unless it is pinned.
func (d *Decap) Close() error { return errors.Join(d.attachment.close(), d.counters.Close()) }

// DetachDecap takes a pinned decapsulation program off an interface; ErrNotAttached when there is none.
func DetachDecap(dir, name string, netlink Netlink) error {
	parent := dir
	dir = filepath.Join(dir, decapDir)
	hooks, err := openHooks(dir, netlink)
	if err != nil {
		return err
	}
	found := false
	var errs []error
	for _, h := range hooks {
		if h.name != name {
			errs = append(errs, h.close())
			continue
		}
		found = true
		errs = append(errs, h.detach())
	}
	if !found {
		errs = append(errs, fmt.Errorf("decapsulation on %s: %w", name, ErrNotAttached))
	}
	if err := os.Remove(filepath.Join(dir, pinName(name, decapPin))); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, permission("unpin the counters", err))
	}
	if os.Remove(dir) == nil { // when it was the last one
		os.Remove(parent)
	}
	return errors.Join(errs...)
}
