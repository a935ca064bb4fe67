package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"gardu/ctl/lb"
	"gardu/ctl/model"
	"gardu/ctl/netdev"
)

// Facts is what was seen of a machine.
type Facts struct {
	Machine    Machine
	Interfaces []Interface
	Backends   []Backend
}

// Machine is the kernel and what it lets this process do.
type Machine struct {
	Release      string
	BTF, BPFFS   bool
	Capabilities uint64        // effective, as bits
	Lockdown     string        // of the kernel: none, integrity, confidentiality; "" when it has no such thing
	Load         error         // of the programs that the snapshot needs
	LoadTime     time.Duration // how long the verifier and the JIT took
	Interpreted  bool          // there was no JIT
	Available    uint64        // bytes of memory
	Needed       uint64        // bytes, estimated, of all tables; 0: not known
	CPUs         int
	Services     bool   // the snapshot has some
	RPFilter     string // net.ipv4.conf.all.rp_filter
}

// Interface is one that gardu is to be attached to, or that packets leave by.
type Interface struct {
	netdev.Link
	Missing    error // why it can't be looked at
	Attached   bool  // packets are received there, else only sent
	Want       model.Path
	Tags       string // rule that asks for VLAN tags
	Program    string // name of the XDP program that is there; "" when there is none
	Queues     int    // for what is received
	RPFilter   string // net.ipv4.conf.IFACE.rp_filter
	Forwarding [2]string
	FromXDP    bool // what XDP programs send leaves by it
}

// Backend is what is known of the way to one.
type Backend struct {
	Service, Name string
	For           netip.Addr // the service's
	Address       netip.Addr
	Port          uint16 // of a service of TCP; 0: it has several, or isn't of TCP
	Forward       model.Mode
	Hop           netdev.Hop
	HopError      error
	LargestClient int // bytes of IP that clients send at once; 0: not known
	Connect       error
	Connected     bool   // a connection was tried
	Legs          Legs   // of probes through the service's path
	LegsError     error  // why there are none
	State, Why    string // by the health checks of a running gardu; "" without
}

// ours is what gardu's XDP program is called.
const ours = "gardu_xdp"

// Judge says what the facts mean.
func Judge(facts Facts) []Finding {
	all := judgeMachine(facts.Machine)
	for _, i := range facts.Interfaces {
		all = append(all, judgeInterface(i, facts.Machine)...)
	}
	for _, b := range facts.Backends {
		all = append(all, judgeBackend(b))
	}
	return all
}

// capability numbers of include/uapi/linux/capability.h.
var capabilities = []struct {
	name string
	bit  int
}{{"CAP_NET_ADMIN", 12}, {"CAP_PERFMON", 38}, {"CAP_BPF", 39}}

func judgeMachine(m Machine) []Finding {
	f := findings{area: "machine"}
	if m.BTF {
		f.add(OK, "btf", "the kernel has its type information", "")
	} else {
		f.add(Fail, "btf", "the kernel has no type information (/sys/kernel/btf/vmlinux)", "use a kernel built with CONFIG_DEBUG_INFO_BTF; every Debian, Ubuntu, Fedora and RHEL kernel of the last years is")
	}
	var lacks []string
	for _, c := range capabilities {
		if m.Capabilities>>c.bit&1 == 0 {
			lacks = append(lacks, c.name)
		}
	}
	if len(lacks) > 0 {
		f.add(Fail, "capabilities", "lacks "+strings.Join(lacks, ", "), "run gardu as root, or grant them to its unit or container")
	} else {
		f.add(OK, "capabilities", "may load programs and attach them", "")
	}
	if m.Lockdown == "confidentiality" {
		f.add(Fail, "lockdown", "the kernel is locked down for confidentiality, and refuses BPF programs that read packets", "boot with lockdown=integrity or none")
	}
	if m.Load != nil {
		f.add(Fail, "programs", "Linux "+m.Release+" doesn't take the programs: "+firstLine(m.Load.Error()), "gardu needs Linux 6.1 or newer with BPF and clsact")
	} else {
		f.add(OK, "programs", fmt.Sprintf("Linux %s takes the programs, in %v", m.Release, m.LoadTime.Round(time.Millisecond)), "")
	}
	switch {
	case m.Load != nil:
	case m.Interpreted:
		f.add(Warn, "jit", "programs are interpreted, which is about ten times slower", "sysctl -w net.core.bpf_jit_enable=1, then start gardu anew")
	default:
		f.add(OK, "jit", "programs are compiled to machine code", "")
	}
	if m.BPFFS {
		f.add(OK, "bpffs", "mounted at /sys/fs/bpf: what is attached outlives the daemon", "")
	} else {
		f.add(Warn, "bpffs", "not mounted at /sys/fs/bpf", "gardu run mounts it; to have it before that: mount -t bpf bpf /sys/fs/bpf")
	}
	switch need := fmt.Sprintf("the tables take about %s of %s that are available", megabytes(m.Needed), megabytes(m.Available)); {
	case m.Needed == 0:
	case m.Needed > m.Available:
		f.add(Fail, "memory", need, "lower flows.max, or give the machine more memory")
	case m.Needed > m.Available/2:
		f.add(Warn, "memory", need, "a change holds two generations of what changes: lower flows.max, or give the machine more memory")
	default:
		f.add(OK, "memory", need, "")
	}
	return f.list
}

func judgeInterface(i Interface, m Machine) []Finding {
	f := findings{area: "interface"}
	name := i.Name
	if i.Missing != nil {
		f.add(Fail, name, firstLine(i.Missing.Error()), "ip link lists the interfaces of this machine")
		return f.list
	}
	if !i.Up {
		f.add(Warn, name, "it is down", "ip link set "+name+" up")
	}
	if i.Attached {
		judgePath(&f, i)
		judgeQueues(&f, i, m)
	}
	if i.FromXDP && i.XDPSend == netdev.XDPNone {
		f.add(Fail, name, "what XDP programs send out of it is lost: it takes no frames from other interfaces' XDP",
			"choose path: tc on the interfaces that receive; a veth takes frames once GRO is on at its peer's end (ethtool -K PEER gro on)")
	}
	if m.Services && i.Attached {
		if strict(m.RPFilter, i.RPFilter) {
			f.add(Warn, name, "rp_filter is strict: what comes from a service address by it, as answers to health checks do, may be dropped by the kernel",
				"sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf."+name+".rp_filter=2")
		}
		if i.Forwarding[0] == "0" {
			f.add(Warn, name, "IPv4 forwarding is off: the kernel doesn't tell programs the way to a backend that the daemon hasn't found out yet",
				"sysctl -w net.ipv4.conf."+name+".forwarding=1")
		}
	}
	return f.list
}

// strict: the kernel takes the larger of the two (Documentation/networking/ip-sysctl.rst).
func strict(all, one string) bool { return max(all, one) == "1" }

func judgePath(f *findings, i Interface) {
	path, why := netdev.ChoosePath(i.Link)
	path, corrected := netdev.PathForTags(i.Link, path, i.Tags)
	if corrected != "" {
		why = corrected
	}
	switch {
	case i.Want == model.PathXDP && i.XDP == netdev.XDPNone:
		f.add(Fail, i.Name, "path: xdp, but driver "+i.Driver+" has no native XDP", "path: auto, tc or xdp-generic")
	case i.Want == model.PathXDP && path == model.PathTC:
		f.add(Warn, i.Name, "path: xdp, though auto would choose tc. "+why, "path: auto, unless you know better")
	case i.Want == model.PathXDPGeneric:
		f.add(Warn, i.Name, "path: xdp-generic, which is slower than tc", "path: auto")
	case i.Want == model.PathAuto || i.Want == "":
		f.add(OK, i.Name, fmt.Sprintf("auto chooses %s. %s", path, why), "")
	default:
		f.add(OK, i.Name, fmt.Sprintf("path: %s, as configured", i.Want), "")
	}
	onXDP := i.Want == model.PathXDP || i.Want == model.PathXDPGeneric || (i.Want == model.PathAuto || i.Want == "") && path == model.PathXDP
	if i.Program != "" && i.Program != ours && onXDP {
		f.add(Fail, i.Name, "another XDP program is attached: "+i.Program, "take it off (ip link set "+i.Name+" xdp off), or gardu run --replace")
	}
	if i.LRO && onXDP {
		f.add(Warn, i.Name, "LRO is on, and most drivers refuse XDP beside it", "ethtool -K "+i.Name+" lro off")
	}
}

func judgeQueues(f *findings, i Interface, m Machine) {
	if i.Kind != "" || i.Loopback || i.Queues == 0 || m.CPUs == 1 {
		return
	}
	if i.Queues < m.CPUs {
		f.add(Warn, i.Name, fmt.Sprintf("packets come in by %d of %d CPUs: it has that many receive queues", i.Queues, m.CPUs),
			fmt.Sprintf("ethtool -L %s combined %d, if the NIC has them (ethtool -l %s)", i.Name, m.CPUs, i.Name))
		return
	}
	f.add(OK, i.Name, fmt.Sprintf("%d receive queues for %d CPUs", i.Queues, m.CPUs), "")
}

// judgeBackend walks along the way to a backend and tells of the first leg that fails.
func judgeBackend(b Backend) Finding {
	f := findings{area: "backend"}
	subject := b.Service + "/" + b.Name
	switch {
	case errors.Is(b.HopError, netdev.ErrLocal):
		f.add(Fail, subject, b.Address.String()+" is an address of this machine", "a backend is another machine")
	case errors.Is(b.HopError, netdev.ErrUnresolved):
		f.add(Fail, subject, fmt.Sprintf("leg to the next hop: %s doesn't answer ARP or neighbour solicitations", b.Hop.Neighbour),
			"is it up, in the same network, and does its firewall let ARP through?")
	case b.HopError != nil:
		f.add(Fail, subject, "leg to the next hop: "+firstLine(b.HopError.Error()), "ip route get "+b.Address.String())
	case b.narrow() != "":
		need := b.LargestClient + b.overhead()
		f.add(Warn, subject, "leg to the backend: "+b.narrow(),
			fmt.Sprintf("an MTU of %d on the way, or a smaller MSS on the backends (ip route change ... advmss %d)", need, b.Hop.MTU-b.overhead()-60))
	case b.LegsError != nil:
		f.add(Warn, subject, "not probed: "+firstLine(b.LegsError.Error()), "run it as root, where gardu is to run")
	case b.Legs.failed():
		result := Fail
		if b.State == "up" { // by a check that doesn't take this way, or by none
			result = Warn
		}
		found, advice := b.failedLeg()
		f.add(result, subject, found, advice)
	case b.State == "down":
		f.add(Fail, subject, "the health check of the running gardu fails: "+orUnknown(b.Why), b.unhealthy())
	case b.Connected && b.Connect != nil && b.State != "up" && b.Legs.Service.Kind == NotAsked:
		f.add(Warn, subject, fmt.Sprintf("leg to the process: %s port %d: %s", b.Address, b.Port, firstLine(b.Connect.Error())),
			"is the server running? One that listens on the service's address alone is fine: a health check through the service tells")
	default:
		f.add(OK, subject, b.well(), "")
	}
	return f.list[0]
}

func (b Backend) overhead() int {
	mode, _ := lb.FindMode(b.Forward)
	return mode.Overhead(b.Address)
}

// narrow is what doesn't fit the way.
func (b Backend) narrow() string {
	if b.LargestClient == 0 {
		return ""
	}
	mode, _ := lb.FindMode(b.Forward)
	return mode.Narrow(b.For, b.Address, b.Hop.MTU, b.LargestClient)
}

func (b Backend) unhealthy() string {
	switch {
	case b.Connected && b.Connect == nil && b.overhead() > 0:
		return "it answers at its own address: look whether it unwraps packets (gardu decap) and owns the service address"
	case b.Connected && b.Connect == nil:
		return "it answers at its own address: look whether it owns the service address (ip addr add ... dev lo)"
	}
	return "look at the server and its firewall"
}

func (b Backend) well() string {
	text := fmt.Sprintf("next hop %s, MTU %d", b.Hop.Neighbour, b.Hop.MTU)
	if b.Legs.Service.Kind == Answered {
		text += fmt.Sprintf("; answers through %s, from %s", b.Forward, b.For)
	} else if b.Connected && b.Connect == nil {
		text += fmt.Sprintf("; port %d answers", b.Port)
	}
	if b.State != "" {
		text += "; gardu has it " + b.State
	}
	return text
}

func orUnknown(text string) string {
	if text == "" {
		return "it doesn't say why"
	}
	return text
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

func megabytes(n uint64) string { return fmt.Sprintf("%d MB", (n+1<<19)>>20) }
