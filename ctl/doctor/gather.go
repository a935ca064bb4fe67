package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/compile"
	"gardu/ctl/dataplane"
	"gardu/ctl/model"
	"gardu/ctl/netdev"
)

const (
	// patience is how long a neighbour or a backend may take to answer.
	patience = time.Second
	// together is how many backends are asked at once.
	together = 64
)

// Gather looks at this machine. A nil snapshot: at everything that gardu could need, on all Ethernet interfaces that are up.
func Gather(snapshot *model.Snapshot) (Facts, error) {
	links, err := netdev.Open()
	if err != nil {
		return Facts{}, err
	}
	defer links.Close()
	facts := Facts{Machine: machine()}
	features := compile.AllFeatures()
	if snapshot != nil {
		ids, _, err := compile.IDs{}.Assign(snapshot)
		if err != nil {
			return facts, err
		}
		tables, err := compile.Compile(snapshot, ids)
		if err != nil {
			return facts, err
		}
		features = tables.Features
		facts.Machine.Services = len(snapshot.Services) > 0
		if facts.Machine.Needed, err = needed(tables.Cost, snapshot.Flows); err != nil {
			return facts, err
		}
		facts.Backends = backends(links, snapshot)
	}
	facts.Machine.load(features)
	facts.Interfaces, err = interfaces(links, snapshot, facts.Backends)
	return facts, err
}

func machine() Machine {
	m := Machine{
		RPFilter: setting("net.ipv4.conf.all.rp_filter"), CPUs: runtime.NumCPU(), Lockdown: lockdown(), Available: available(),
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Release = unix.ByteSliceToString(name.Release[:])
	}
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	m.BTF = err == nil
	var fs unix.Statfs_t
	m.BPFFS = unix.Statfs("/sys/fs/bpf", &fs) == nil && fs.Type == unix.BPF_FS_MAGIC
	m.Capabilities = effective()
	return m
}

// effective are the capabilities of this process: CapEff of proc_pid_status(5).
func effective() uint64 {
	bits, _ := strconv.ParseUint(field("/proc/self/status", "CapEff:"), 16, 64)
	return bits
}

func available() uint64 {
	kilobytes, _ := strconv.ParseUint(field("/proc/meminfo", "MemAvailable:"), 10, 64)
	return kilobytes << 10
}

// field is the word that follows a name at the beginning of a line.
func field(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == name {
			return words[1]
		}
	}
	return ""
}

// lockdown reads "none [integrity] confidentiality".
func lockdown() string {
	text, _ := os.ReadFile("/sys/kernel/security/lockdown")
	_, rest, _ := strings.Cut(string(text), "[")
	mode, _, _ := strings.Cut(rest, "]")
	return mode
}

// setting is a sysctl whose parts are given one by one, for names of interfaces may hold dots; "" when it can't be read.
func setting(name string, more ...string) string {
	parts := append(strings.Split(name, "."), more...)
	text, err := os.ReadFile(filepath.Join(append([]string{"/proc/sys"}, parts...)...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// needed estimates the memory of tables, of which there are two while one replaces the other, and of flows.
func needed(cost compile.Cost, flows model.Flows) (uint64, error) {
	var bytes uint64
	for _, n := range cost.Bytes {
		bytes += 2 * uint64(n)
	}
	if !flows.Enabled {
		return bytes, nil
	}
	memory, err := dataplane.FlowMemory(flows.Max)
	return bytes + memory, err
}

// load has the kernel verify the programs, and throws them away.
func (m *Machine) load(features compile.Features) {
	start := time.Now()
	plane, err := dataplane.OpenPrivate(features, 1)
	if err != nil {
		m.Load = err
		return
	}
	if err = plane.LoadAll(); err == nil {
		m.LoadTime = time.Since(start)
		m.Interpreted, err = plane.Interpreted()
	}
	m.Load = errors.Join(err, plane.Close())
}

// interfaces are those of the snapshot, and the ways out to backends and for rules.
func interfaces(links *netdev.Handle, snapshot *model.Snapshot, backends []Backend) ([]Interface, error) {
	if snapshot == nil {
		return everyInterface(links)
	}
	var list []Interface
	xdp := false
	for _, want := range snapshot.Interfaces {
		i := look(links, want.Name)
		i.Attached, i.Want, i.Tags = true, want.Path, want.Tags
		chosen, _ := netdev.ChoosePath(i.Link)
		xdp = xdp || want.Path == model.PathXDP || want.Path == model.PathAuto && chosen == model.PathXDP
		list = append(list, i)
	}
	out := map[string]bool{}
	for _, rule := range snapshot.Filter.Rules {
		if rule.Action == model.Redirect && rule.Direction != model.Out {
			out[rule.Interface] = true
		}
	}
	for _, b := range backends {
		index := b.Hop.Ifindex
		if b.Hop.Parent != 0 { // with a tag, by the interface below
			index = b.Hop.Parent
		}
		if link, err := links.LinkByIndex(index); err == nil {
			out[link.Name] = true
		}
	}
	for name := range out {
		at := slices.IndexFunc(list, func(i Interface) bool { return i.Name == name })
		if at < 0 {
			at = len(list)
			list = append(list, look(links, name))
		}
		list[at].FromXDP = xdp
	}
	slices.SortFunc(list, func(a, b Interface) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func everyInterface(links *netdev.Handle) ([]Interface, error) {
	all, err := links.Links()
	if err != nil {
		return nil, err
	}
	var list []Interface
	for _, link := range all {
		if link.Up && link.Ethernet && !link.Loopback {
			i := look(links, link.Name)
			i.Attached = true
			list = append(list, i)
		}
	}
	return list, nil
}

func look(links *netdev.Handle, name string) Interface {
	link, err := links.Link(name)
	if err != nil {
		return Interface{Link: netdev.Link{Name: name}, Missing: err}
	}
	i := Interface{
		Link: link, RPFilter: setting("net.ipv4.conf", name, "rp_filter"),
		Forwarding: [2]string{setting("net.ipv4.conf", name, "forwarding"), setting("net.ipv6.conf", name, "forwarding")},
	}
	if id, err := links.XDPProgram(link.Index); err == nil && id != 0 {
		i.Program = dataplane.ProgramName(id)
	}
	queues, _ := filepath.Glob(filepath.Join("/sys/class/net", name, "queues", "rx-*"))
	i.Queues = len(queues)
	return i
}

// backends looks along the way to each, many at a time.
func backends(links *netdev.Handle, snapshot *model.Snapshot) []Backend {
	var list []Backend
	largest := links.FromClients(snapshot)
	for _, service := range snapshot.Services {
		for _, b := range service.Backends {
			one := Backend{Service: service.Name, Name: b.Name, For: service.Address, Address: b.Address, Forward: service.Forward, LargestClient: largest}
			if service.Proto == model.ProtoTCP && service.Port.Lo == service.Port.Hi {
				one.Port = uint16(service.Port.Lo)
			}
			list = append(list, one)
		}
	}
	var wait sync.WaitGroup
	places := make(chan struct{}, together)
	for i := range list {
		places <- struct{}{}
		wait.Go(func() {
			list[i].walk(links)
			<-places
		})
	}
	wait.Wait()
	return list
}

// walk resolves the next hop, which takes a packet that somebody sends, probes the service's path, and connects to the backend's own address.
func (b *Backend) walk(links *netdev.Handle) {
	if b.Hop, b.HopError = links.NextHop(b.Address); errors.Is(b.HopError, netdev.ErrUnresolved) {
		b.resolve(links)
	}
	if b.HopError != nil {
		return
	}
	if b.LegsError = b.probe(links); b.Port == 0 {
		return
	}
	conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(b.Address, b.Port).String(), patience)
	b.Connected, b.Connect = true, err
	if err == nil {
		b.Connect = conn.Close()
	}
}

// resolve sends a datagram to nobody (RFC 863: port 9 discards it), so that the kernel asks for the neighbour.
func (b *Backend) resolve(links *netdev.Handle) {
	conn, err := net.Dial("udp", netip.AddrPortFrom(b.Address, 9).String())
	if err != nil {
		b.HopError = fmt.Errorf("send to %s: %w", b.Address, err)
		return
	}
	defer conn.Close()
	deadline := time.Now().Add(patience)
	for errors.Is(b.HopError, netdev.ErrUnresolved) && time.Now().Before(deadline) {
		conn.Write(nil) // an error of the last one may be told by this
		time.Sleep(patience / 50)
		b.Hop, b.HopError = links.NextHop(b.Address)
	}
}
