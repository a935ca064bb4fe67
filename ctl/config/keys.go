package config

import (
	"net/netip"
	"time"

	"gardu/ctl/lb"
	"gardu/ctl/model"
)

// What can be written, object by object. A row is a key with its kind and bounds, its place in the model, its help
// and its default. All of it is read-only.

// document is the whole file.
type document struct {
	interfaces []model.Interface
	sets       []model.Set
	filter     filter
	services   []model.Service
	nat        model.NATTable
	flows      model.Flows
	api        model.API
}

// filter is the filter before filter.allow is resolved to a set.
type filter struct {
	model.Filter
	allow model.Condition
}

var root = object[document]{
	what: "the configuration",
	keys: []key[document]{
		in("interfaces", named(interfaceName, interfaces, func(i *model.Interface) *string { return &i.Name }),
			func(d *document) *[]model.Interface { return &d.interfaces },
			"the network interfaces to attach to, by name"),
		in("sets", named(name, sets, func(s *model.Set) *string { return &s.Name }),
			func(d *document) *[]model.Set { return &d.sets },
			"named groups of prefixes or ports, which rules name as @NAME"),
		in("filter", filters.kind(), func(d *document) *filter { return &d.filter },
			"which packets may pass").orDefaults(),
		in("services", named(name, services, func(s *model.Service) *string { return &s.Name }),
			func(d *document) *[]model.Service { return &d.services },
			"virtual addresses whose packets go to backends, by name"),
		in("nat", natTables.kind(), func(d *document) *model.NATTable { return &d.nat },
			"the table of translations of all services with forward: nat").orDefaults(),
		in("flows", enabled(flows.kind()), func(d *document) *model.Flows { return &d.flows },
			"the flow table; flows are recorded when this key is present or there is a service").orDefaults(),
		in("api", apis.kind(), func(d *document) *model.API { return &d.api },
			"how clients reach the daemon").orDefaults(),
	},
}

var interfaces = object[model.Interface]{
	what: "an interface",
	pos:  func(i *model.Interface) *model.Position { return &i.Pos },
	keys: []key[model.Interface]{
		in("path", choiceOf([]model.Path{model.PathAuto, model.PathXDP, model.PathXDPGeneric, model.PathTC}),
			func(i *model.Interface) *model.Path { return &i.Path },
			"where received packets are handled; auto takes xdp where it is safe and else tc").or("auto"),
		in("egress", boolean, func(i *model.Interface) *bool { return &i.Egress },
			"whether to see at tc egress what the kernel sends, for both directions of flows").or("false"),
	},
}

var sets = object[model.Set]{
	what: "a set",
	pos:  func(s *model.Set) *model.Position { return &s.Pos },
	keys: []key[model.Set]{
		in("file", filePath, func(s *model.Set) *string { return &s.File },
			"a file with an entry a line, relative to this file; re-read when it changes"),
		in("format", choiceOf(setFormats), func(s *model.Set) *model.SetFormat { return &s.Format },
			"how the file is written: an entry a line, comma-separated values with the entry in the first column, or JSON lines; auto goes by its first line").or("auto"),
		in("kind", choice([]string{"addresses", "ports", "pairs"}, []model.SetKind{model.Addresses, model.Ports, model.Pairs}),
			func(s *model.Set) *model.SetKind { return &s.Kind },
			"what the file holds").or("addresses"),
		in("max-shrink", percent, func(s *model.Set) *int { return &s.MaxShrink },
			"how much of its entries the file may lose at once, 0% to 100%; if it would lose more, what it held before stays in force").or("50%"),
		in("entries", list(prefix, false, "a list of addresses and prefixes"),
			func(s *model.Set) *[]netip.Prefix { return &s.Prefixes },
			"addresses and prefixes of both families"),
		in("ports", list(ports, false, "a list of ports and ranges of ports"),
			func(s *model.Set) *[]model.Range { return &s.Ports },
			"ports, 1 to 65535, and ranges of ports"),
		in("pairs", list(addressPort, false, "a list of addresses with a port"),
			func(s *model.Set) *[]netip.AddrPort { return &s.Pairs },
			"an address and a port, which src and dst take together"),
	},
}

var filters = object[filter]{
	what: "the filter",
	pos:  func(f *filter) *model.Position { return &f.Pos },
	keys: []key[filter]{
		in("default", defaultAction, func(f *filter) *model.Action { return &f.Default },
			"what happens to an IPv4 or IPv6 packet that no rule decides").or("pass"),
		in("allow", allow, func(f *filter) *model.Condition { return &f.allow },
			"sources that pass whatever blocks and rules say: @SET, or addresses and prefixes"),
		in("rules", list(rules.kind(), true, "a list of rules"), func(f *filter) *[]model.Rule { return &f.Rules },
			"rules from top to bottom; the first that matches decides"),
	},
}

var defaultAction = choiceOf([]model.Action{model.Pass, model.Drop})

var rules = object[model.Rule]{
	what: "a rule",
	pos:  func(r *model.Rule) *model.Position { return &r.Pos },
	keys: []key[model.Rule]{
		in("name", name, func(r *model.Rule) *string { return &r.Name },
			"its name, unique among rules; its counters follow the name").must(),
		in("match", match, func(r *model.Rule) *[]model.Condition { return &r.Match },
			"what it matches: all keys must hold, one value of each; {} is every packet").must(),
		action,
		in("count", boolean, func(*model.Rule) *bool { return new(bool) },
			"says that counting is what the rule is for; all rules count").or("false"),
		in("direction", choiceOf([]model.Direction{model.In, model.Out}), func(r *model.Rule) *model.Direction { return &r.Direction },
			"in: received packets; out: what the kernel sends, its own and what it routes, at tc egress").or("in"),
		in("shadow", boolean, func(r *model.Rule) *bool { return &r.Shadow },
			"true: the rule decides nothing and counts what it would have done").or("false"),
		in("limit", ruleLimit, func(r *model.Rule) **model.Limit { return &r.Limit },
			"the rule concerns only what comes faster than this; the rest goes on to the next rule"),
		in("log", oneOf, func(r *model.Rule) *uint32 { return &r.Log },
			"1/N: one of N packets that the rule concerns becomes an event, see gardu events"),
		in("sample", oneOf, func(r *model.Rule) *uint32 { return &r.Sample },
			"likewise, as a sample of the traffic"),
	},
}

var services = object[model.Service]{
	what: "a service",
	pos:  func(s *model.Service) *model.Position { return &s.Pos },
	keys: []key[model.Service]{
		in("address", serviceAddress, func(s *model.Service) *netip.Prefix { return &s.Prefix },
			"the address that clients use, or a prefix of such addresses").must(),
		in("port", servicePorts, func(s *model.Service) *model.Range { return &s.Port },
			"a port, 1 to 65535, a range such as 8000-8099, or any").must(),
		in("proto", choice([]string{"tcp", "udp", "sctp", "any"}, []uint8{model.ProtoTCP, model.ProtoUDP, model.ProtoSCTP, model.ProtoAny}),
			func(s *model.Service) *uint8 { return &s.Proto },
			"the protocol: tcp, udp, sctp, or any (all but ICMP); with forward: nat tcp or udp").must(),
		in("forward", choiceOf(modeNames()), func(s *model.Service) *model.Mode { return &s.Forward },
			"how packets reach a backend: dsr rewrites the destination MAC, ipip wraps in IPv4 or IPv6, gue in UDP too, nat translates addresses and ports").must(),
		in("nat", natPools.kind(), func(s *model.Service) *model.NAT { return &s.NAT },
			"of forward: nat: what packets come from on their way to backends").orDefaults(),
		in("quic", as(quics.kind(), func(q model.QUIC) *model.QUIC { return &q }), func(s *model.Service) **model.QUIC { return &s.QUIC },
			"what connection IDs of QUIC look like, so that a client stays on its backend when its address or port changes; {} takes the defaults"),
		in("affinity", choiceOf([]model.Affinity{model.AffinityFlow, model.AffinitySource}),
			func(s *model.Service) *model.Affinity { return &s.Affinity },
			"what stays on one backend: a flow (5-tuple), or all flows of a source address").or("flow"),
		in("announce", as(announces.kind(), func(a announce) bool { return a.arp }),
			func(s *model.Service) *bool { return &s.ARP },
			"how the address becomes known").orDefaults(),
		in("backends", list(backends.kind(), false, "a list of backends"),
			func(s *model.Service) *[]model.Backend { return &s.Backends },
			"the hosts that serve it, at least one").must(),
		in("health", as(healths.kind(), func(h model.Health) *model.Health { return &h }),
			func(s *model.Service) **model.Health { return &s.Health },
			"how to find out which backends are up; without it all are"),
		in("on-down", choiceOf([]model.OnDown{model.DownMove, model.DownDrop, model.DownReset}),
			func(s *model.Service) *model.OnDown { return &s.OnDown },
			"what becomes of TCP flows whose backend is down: they move to another one, are dropped until they begin anew, or their clients are sent a reset too; other flows move").or("move"),
		in("slow-start", period(time.Second, time.Hour), func(s *model.Service) *time.Duration { return &s.SlowStart },
			"how long a backend that comes up takes to get its whole share of new flows, in ten steps, 1s to 1h; without it, it gets all at once"),
		in("ring", ringSize, func(s *model.Service) *int { return &s.Ring },
			"slots of the table by which flows choose a backend, a prime from 251 to 1048573 and at least 20 a backend; more make shares more exact, and take longer to build").or("65537"),
	},
}

func modeNames() []model.Mode {
	var names []model.Mode
	for _, mode := range lb.Modes() {
		names = append(names, mode.Name)
	}
	return names
}

// announce is the value of a service's key of that name.
type announce struct{ arp bool }

var announces = object[announce]{
	what: "announce",
	keys: []key[announce]{
		in("arp", boolean, func(a *announce) *bool { return &a.arp },
			"whether the data plane answers ARP requests and neighbour solicitations for the address, and announces it; of a prefix up to 16 addresses are announced").or("true"),
	},
	later: []string{"bgp"},
}

var natPools = object[model.NAT]{
	what: "nat",
	pos:  func(n *model.NAT) *model.Position { return &n.Pos },
	keys: []key[model.NAT]{
		in("pool", list(hostAddress, false, "a list of addresses"), func(n *model.NAT) *[]netip.Addr { return &n.Pool },
			"addresses that lead back to this machine, up to 256; default: the address of the interface towards the backend"),
		in("ports", ports, func(n *model.NAT) *model.Range { return &n.Ports },
			"source ports, which the kernel of this machine must not use itself").or("1024-32767"),
	},
}

var quics = object[model.QUIC]{
	what: "quic",
	pos:  func(q *model.QUIC) *model.Position { return &q.Pos },
	keys: []key[model.QUIC]{
		in("format", choiceOf([]model.QUICFormat{model.QUICLB, model.KatranV2, model.KatranV3}), func(q *model.QUIC) *model.QUICFormat { return &q.Format },
			"quic-lb: connection IDs of draft-ietf-quic-load-balancers, plaintext; katran-v2, katran-v3: those that katran knows, with server IDs of 3 and 4 bytes").or("quic-lb"),
		in("config-id", whole[int](0, 6), func(q *model.QUIC) *int { return &q.Config },
			"of quic-lb: the first three bits of a connection ID (config rotation), 0 to 6").or("0"),
		in("server-id-length", whole[int](1, 15), func(q *model.QUIC) *int { return &q.Length },
			"of quic-lb: bytes of a server ID, 1 to 15").or("4"),
	},
}

var natTables = object[model.NATTable]{
	what: "nat",
	pos:  func(n *model.NATTable) *model.Position { return &n.Pos },
	keys: []key[model.NATTable]{
		in("max", whole[int](1000, 50_000_000), func(n *model.NATTable) *int { return &n.Max },
			"translations at once, 1000 to 50000000; each takes 240 to 480 bytes").or("200000"),
	},
}

var backends = object[model.Backend]{
	what: "a backend",
	pos:  func(b *model.Backend) *model.Position { return &b.Pos },
	keys: []key[model.Backend]{
		in("name", name, func(b *model.Backend) *string { return &b.Name },
			"its name, unique within the service; its counters follow the name").must(),
		in("address", hostAddress, func(b *model.Backend) *netip.Addr { return &b.Address },
			"its address, unique within the service").must(),
		in("port", whole[uint16](1, 65535), func(b *model.Backend) *uint16 { return &b.Port },
			"of forward: nat: the port where it listens, 1 to 65535; default: the port that the client asked for"),
		in("weight", whole[int](0, 65535), func(b *model.Backend) *int { return &b.Weight },
			"its share of new flows relative to the other backends, 0 to 65535; 0 gets none").or("100"),
		in("backup", boolean, func(b *model.Backend) *bool { return &b.Backup },
			"true: it gets new flows only while no backend without this key does").or("false"),
		in("server-id", serverID, func(b *model.Backend) *string { return &b.ServerID },
			"with quic: the bytes, in hex, by which connection IDs name it; default: the end of its address, or 0s and its address"),
	},
}

var healths = object[model.Health]{
	what: "health",
	pos:  func(h *model.Health) *model.Position { return &h.Pos },
	keys: []key[model.Health]{
		in("tcp", boolean, func(h *model.Health) *bool { return &h.TCP },
			"true: a backend is up when it accepts a TCP connection").or("false"),
		in("http", requestPath, func(h *model.Health) *string { return &h.HTTP },
			"the path to GET; a backend is up when it answers with status and body as wanted"),
		in("https", requestPath, func(h *model.Health) *string { return &h.HTTPS },
			"the same over TLS; the certificate is checked when tls-name is given"),
		in("udp", probeText, func(h *model.Health) *string { return &h.UDP },
			"a text to send in a UDP packet; a backend is up when anything comes back"),
		in("dns", domainName, func(h *model.Health) *string { return &h.DNS },
			"a name to ask for over UDP; a backend is up when it answers without an error"),
		in("icmp", boolean, func(h *model.Health) *bool { return &h.ICMP },
			"true: a backend is up when it answers a ping").or("false"),
		in("status", httpStatus, func(h *model.Health) *model.Range { return &h.Status },
			"of http and https: the status that is well, 100 to 599, or a range").or("200-399"),
		in("body", probeText, func(h *model.Health) *string { return &h.Body },
			"of http and https: a text that the first 64 KiB of the answer must hold"),
		in("host", httpHost, func(h *model.Health) *string { return &h.Host },
			"of http and https: the host that is asked for; default: the address of the service"),
		in("tls-name", domainName, func(h *model.Health) *string { return &h.TLSName },
			"of https: the name that the backend's certificate must be for, by the authorities that this machine trusts; default: any certificate"),
		in("via", choiceOf([]model.Via{model.ViaService, model.ViaBackend}), func(h *model.Health) *model.Via { return &h.Via },
			"service: checks go to the service's address and reach the backend as packets of clients do; backend: to its own address; default: service"),
		in("port", whole[uint16](1, 65535), func(h *model.Health) *uint16 { return &h.Port },
			"the port to check, 1 to 65535; default: the port of the backend, or else of the service"),
		in("every", period(100*time.Millisecond, time.Hour), func(h *model.Health) *time.Duration { return &h.Every },
			"time between checks, 100ms to 1h").or("2s"),
		in("timeout", period(10*time.Millisecond, time.Minute), func(h *model.Health) *time.Duration { return &h.Timeout },
			"how long a check may take, 10ms to 1m and at most every").or("1s"),
		in("up", whole[int](1, 100), func(h *model.Health) *int { return &h.Up },
			"successes in a row that bring a backend up, 1 to 100").or("2"),
		in("down", whole[int](1, 100), func(h *model.Health) *int { return &h.Down },
			"failures in a row that take a backend down, 1 to 100").or("3"),
	},
}

var flows = object[model.Flows]{
	what: "flows",
	pos:  func(f *model.Flows) *model.Position { return &f.Pos },
	keys: []key[model.Flows]{
		in("max", whole[int](1000, 50_000_000), func(f *model.Flows) *int { return &f.Max },
			"flows expected, 1000 to 50000000; the table takes about 430 bytes for each").or("1000000"),
		in("idle", period(time.Second, time.Hour), func(f *model.Flows) *time.Duration { return &f.Idle },
			"a flow not seen for so long has ended, 1s to 1h").or("60s"),
		in("active", period(time.Second, 24*time.Hour), func(f *model.Flows) *time.Duration { return &f.Active },
			"a flow that lasts is reported at least so often, 1s to 24h").or("5m"),
		in("sample", whole[int](1, 65535), func(f *model.Flows) *int { return &f.Sample },
			"one packet of so many counts in flow records, which packets are chance: less work, less exact; 1: every one").or("1"),
		in("dropped", whole[int](0, 10_000_000), func(f *model.Flows) *int { return &f.Dropped },
			"dropped and rejected flows remembered, up to 10000000, 128 bytes each; 0: none are").or("65536"),
		in("export", list(exports.kind(), true, "a list of places such as {ipfix: 192.0.2.1:4739}"), func(f *model.Flows) *[]model.Export { return &f.Export },
			"where reports of flows go: when one ends, and every active time-out while it lasts"),
		in("history", as(histories.kind(), enabledHistory), func(f *model.Flows) *model.History { return &f.History },
			"what flows did is kept, added up, when this key is present"),
	},
}

var apis = object[model.API]{
	what: "api",
	pos:  func(a *model.API) *model.Position { return &a.Pos },
	keys: []key[model.API]{
		in("socket", socketPath, func(a *model.API) *string { return &a.Socket },
			"the Unix socket of the API, an absolute path of at most 107 bytes").or("/run/gardu/gardu.sock"),
		in("listen", listenAddress, func(a *model.API) *netip.AddrPort { return &a.Listen },
			"an address and a port where /metrics, /healthz, /readyz and the API are served, one of other machines' reach only with tls; without it nothing is"),
		in("tls", certificates.kind(), func(a *model.API) *model.Certificate { return &a.TLS },
			"what is served at listen is encrypted, with this certificate"),
		in("anonymous", choiceOf([]model.Anonymous{model.AnonymousRead, model.AnonymousNone}), func(a *model.API) *model.Anonymous { return &a.Anonymous },
			"what may be asked at listen without a token: read, what is counted; none, nothing but /healthz and /readyz").or("read"),
	},
}

var certificates = object[model.Certificate]{
	what: "tls",
	pos:  func(c *model.Certificate) *model.Position { return &c.Pos },
	keys: []key[model.Certificate]{
		in("cert", filePath, func(c *model.Certificate) *string { return &c.Cert },
			"a file with the certificate and those that it hangs on, PEM; read again when it changes").must(),
		in("key", filePath, func(c *model.Certificate) *string { return &c.Key },
			"and the file with its key").must(),
	},
}
