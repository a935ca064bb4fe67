package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gardu/ctl/abi"
	"gardu/ctl/lb"
	"gardu/ctl/model"
	"gardu/ctl/rule"
)

// How much of each the data plane has room for; id 0 is none.
const (
	maxServices = int(abi.ServiceIds) - 1
	maxBackends = int(abi.BackendIds) - 1
)

func (d *decoder) checkServices(s *model.Snapshot) {
	if len(s.Services) > maxServices {
		d.fail(s.Services[maxServices].Pos, "", "there are %d services; at most %d fit", len(s.Services), maxServices)
	}
	for i := range s.Services {
		settle(&s.Services[i])
		d.settleQUIC(s.Services[i].QUIC)
	}
	owners := ownersOf(s.Services)
	if n := len(owners.lengths); n > int(abi.ServiceLevels) {
		d.fail(d.valueAt(owners.last.Pos, "address"), "", "the prefixes of services have %d lengths with this one; at most %d fit", n, int(abi.ServiceLevels))
	}
	backends := 0
	for _, service := range s.Services {
		d.checkShape(service)
		d.checkBackends(service, owners)
		d.checkNAT(service)
		d.checkQUIC(service)
		if service.Health != nil {
			d.checkHealth(service)
		}
		if backends += len(service.Backends); backends > maxBackends && backends-len(service.Backends) <= maxBackends {
			d.fail(service.Pos, "", "there are more than %d backends up to here; no more fit", maxBackends)
		}
	}
	d.checkOverlaps(s.Services)
}

// settle tells a prefix from an address, and finds out which address of it stands for it.
func settle(s *model.Service) {
	if !s.Prefix.IsValid() {
		return
	}
	s.Address = s.Prefix.Addr()
	switch left := s.Address.BitLen() - s.Prefix.Bits(); {
	case left == 0:
		s.Prefix = netip.Prefix{}
	case left > 1: // the first one is the network's (RFC 950), and with IPv6 its routers' (RFC 4291, section 2.6.1)
		s.Address = s.Address.Next()
	}
}

// owners knows the services by their addresses.
type owners struct {
	services map[netip.Prefix]string
	lengths  []addressLength // of prefixes, those of addresses aside
	last     model.Service   // the one that brought the last of them
}

type addressLength struct {
	is4  bool
	bits int
}

func ownersOf(services []model.Service) owners {
	o := owners{services: make(map[netip.Prefix]string, len(services))}
	for _, service := range services {
		if !service.Address.IsValid() {
			continue
		}
		o.services[service.Addresses()] = service.Name
		length := addressLength{service.Address.Is4(), service.Prefix.Bits()}
		if service.Prefix.IsValid() && !slices.Contains(o.lengths, length) {
			o.lengths, o.last = append(o.lengths, length), service
		}
	}
	return o
}

// of returns the service that has an address.
func (o owners) of(addr netip.Addr) (service string, ok bool) {
	if service, ok = o.services[netip.PrefixFrom(addr, addr.BitLen())]; ok {
		return service, ok
	}
	for _, length := range o.lengths {
		if length.is4 != addr.Is4() {
			continue
		}
		prefix, _ := addr.Prefix(length.bits)
		if service, ok = o.services[prefix]; ok {
			return service, ok
		}
	}
	return "", false
}

// checkShape: which protocols and ports go together.
func (d *decoder) checkShape(service model.Service) {
	if !located(service) {
		return
	}
	if service.Proto == model.ProtoAny && service.Port != model.AnyPort {
		d.fail(d.valueAt(service.Pos, "port"), "port: any, or proto: tcp, udp or sctp", "not every protocol of proto: any has ports")
	}
	if service.Forward == lb.ModeNAT && service.Proto != model.ProtoTCP && service.Proto != model.ProtoUDP {
		d.fail(d.valueAt(service.Pos, "proto"), "tcp or udp, or forward: dsr, ipip or gue", "forward: nat translates no proto: %s",
			rule.ServiceProtocol(service.Proto))
	}
}

func (d *decoder) checkBackends(service model.Service, services owners) {
	mode, modeOK := lb.FindMode(service.Forward)
	addresses := make(map[netip.Addr]string, len(service.Backends))
	weights, broken := 0, false
	for _, backend := range service.Backends {
		weights += backend.Weight
		broken = broken || d.broken[backend.Pos]
		if !backend.Address.IsValid() {
			continue
		}
		at := d.valueAt(backend.Pos, "address")
		if other, ok := services.of(backend.Address); ok {
			d.fail(at, "an address that is not a service's", "the backend %s has the address of the service %s", backend.Name, other)
		}
		if other, ok := addresses[backend.Address]; ok {
			d.fail(at, "an address that no other backend of the service has", "the backends %s and %s have the same address", other, backend.Name)
		}
		addresses[backend.Address] = backend.Name
		if modeOK && service.Address.IsValid() && !mode.Carries(service.Address, backend.Address) {
			d.fail(at, fmt.Sprintf("an %s address, or a mode that wraps packets, such as ipip", family(service.Address)),
				"%s cannot reach an %s backend from an %s service", mode.Name, family(backend.Address), family(service.Address))
		}
	}
	d.unique(len(service.Backends), "backend", func(i int) (string, model.Position) {
		return service.Backends[i].Name, service.Backends[i].Pos
	})
	d.checkBackups(service)
	if weights == 0 && !broken && len(service.Backends) > 0 {
		d.fail(d.valueAt(service.Pos, "backends"), "a weight above 0 for at least one", "every backend of %s has weight 0", service.Name)
	}
}

// checkNAT: what is said of translations must be of a service that has some.
func (d *decoder) checkNAT(service model.Service) {
	if service.Forward != lb.ModeNAT {
		if at := d.valueAt(service.Pos, "nat"); at != service.Pos {
			d.fail(at, "the key with forward: nat", "only forward: nat translates, and this service has forward: %s", service.Forward)
		}
		for _, backend := range service.Backends {
			if backend.Port != 0 {
				d.fail(d.valueAt(backend.Pos, "port"), "the key with forward: nat",
					"%s leaves ports as they are; only forward: nat changes them", service.Forward)
			}
		}
		return
	}
	if len(service.NAT.Pool) > int(abi.NatPool) {
		d.fail(d.valueAt(service.NAT.Pos, "pool"), "", "there are %d addresses; at most %d fit", len(service.NAT.Pool), int(abi.NatPool))
	}
	for i, address := range service.NAT.Pool {
		if address.IsValid() && service.Address.IsValid() && address.Is4() != service.Address.Is4() {
			d.fail(d.valueAt(service.NAT.Pos, "pool"), fmt.Sprintf("an %s address", family(service.Address)),
				"packets of an %s service cannot come from %s", family(service.Address), address)
		}
		if slices.Contains(service.NAT.Pool[:i], address) {
			d.fail(d.valueAt(service.NAT.Pos, "pool"), "", "the address %s is in the pool twice", address)
		}
	}
}

// katranIDs are how long the server IDs in connection IDs of katran's are.
var katranIDs = map[model.QUICFormat]int{model.KatranV2: 3, model.KatranV3: 4}

// settleQUIC fills in what the format says by itself.
func (d *decoder) settleQUIC(quic *model.QUIC) {
	if quic == nil || katranIDs[quic.Format] == 0 {
		return
	}
	for _, key := range []string{"config-id", "server-id-length"} {
		if at := d.valueAt(quic.Pos, key); at != quic.Pos {
			d.fail(at, "the key with format: quic-lb", "format: %s says that itself", quic.Format)
		}
	}
	quic.Config, quic.Length = 0, katranIDs[quic.Format]
}

// checkQUIC: a server ID must name one backend.
func (d *decoder) checkQUIC(service model.Service) {
	quic := service.QUIC
	if quic == nil {
		for _, backend := range service.Backends {
			if backend.ServerID != "" {
				d.fail(d.valueAt(backend.Pos, "server-id"), "the key with quic: {} on the service", "nobody looks for server IDs in what %s gets", service.Name)
			}
		}
		return
	}
	if located(service) && service.Proto != model.ProtoUDP {
		d.fail(d.valueAt(service.Pos, "proto"), "udp, or no key quic", "QUIC goes by UDP, and %s is %s", service.Name, rule.ServiceProtocol(service.Proto))
	}
	owners := make(map[string]string, len(service.Backends))
	for _, backend := range service.Backends {
		if d.broken[backend.Pos] || d.broken[quic.Pos] || !backend.Address.IsValid() {
			continue
		}
		at := d.valueAt(backend.Pos, "server-id")
		if n := len(backend.ServerID); n != 0 && n != quic.Length {
			d.fail(at, fmt.Sprintf("%d bytes, which are %d digits", quic.Length, 2*quic.Length),
				"the server ID of %s is %d bytes long, and those of %s have %d", backend.Name, n, service.Name, quic.Length)
			continue
		}
		id := string(quic.ServerID(&backend))
		if other, ok := owners[id]; ok {
			d.fail(at, "another server-id for one of them, or a larger server-id-length", "the backends %s and %s have the same server ID %x",
				other, backend.Name, id)
		}
		owners[id] = backend.Name
	}
}

// slotsABackend is how many slots of a ring a backend gets on average at the least.
const slotsABackend = 20

func (d *decoder) checkBackups(service model.Service) {
	n := len(service.Backends)
	if n > 0 && !slices.ContainsFunc(service.Backends, func(b model.Backend) bool { return !b.Backup || d.broken[b.Pos] }) {
		d.fail(d.valueAt(service.Pos, "backends"), "at least one backend without backup: true", "every backend of %s is a backup", service.Name)
	}
	if least := slotsABackend * n; service.Ring != 0 && service.Ring < least {
		d.fail(d.valueAt(service.Pos, "ring"), fmt.Sprintf("a prime from %d on", least), "a ring of %d slots is too small for the %d backends of %s",
			service.Ring, n, service.Name)
	}
}

func (d *decoder) checkHealth(service model.Service) {
	health := service.Health
	if d.broken[health.Pos] {
		return
	}
	kinds, wantProto := 0, uint8(0)
	for _, kind := range []struct {
		used  bool
		proto uint8
	}{
		{health.TCP, model.ProtoTCP}, {health.HTTP != "", model.ProtoTCP}, {health.HTTPS != "", model.ProtoTCP},
		{health.UDP != "", model.ProtoUDP}, {health.DNS != "", model.ProtoUDP}, {health.ICMP, 0},
	} {
		if kind.used {
			kinds, wantProto = kinds+1, kind.proto
		}
	}
	if kinds != 1 {
		d.fail(health.Pos, "exactly one of tcp: true, http: /PATH, https: /PATH, udp: TEXT, dns: NAME and icmp: true", "health has to say how a backend is checked")
		return
	}
	web := health.HTTP != "" || health.HTTPS != ""
	for _, key := range []struct {
		name    string
		belongs bool
		to      string
	}{
		{"status", web, "http and https"}, {"body", web, "http and https"}, {"host", web, "http and https"},
		{"tls-name", health.HTTPS != "", "https"}, {"port", !health.ICMP, "checks other than icmp"},
	} {
		if at := d.valueAt(health.Pos, key.name); at != health.Pos && !key.belongs {
			d.fail(at, "the key with "+key.to, "%s says nothing about this check", key.name)
		}
	}
	if mode, ok := lb.FindMode(service.Forward); ok && !mode.Checks && health.Via == model.ViaService {
		d.fail(d.valueAt(health.Pos, "via"), "backend", "checks of a service with forward %s go to the backends' own addresses", mode.Name)
	}
	if health.Timeout > health.Every {
		d.fail(d.valueAt(health.Pos, "timeout"), "at most "+formatPeriod(health.Every)+", the time between checks",
			"a check would take longer than the time until the next one")
	}
	switch {
	case health.Port != 0 || !located(service) || health.ICMP:
	case service.Port.Lo != service.Port.Hi:
		d.fail(health.Pos, "the key port", "health needs a port: the service has more than one")
	case service.Proto != wantProto:
		d.fail(health.Pos, "the key port", "health needs a %s port: the service is %s",
			strings.ToUpper(rule.ProtocolName(wantProto)), rule.ServiceProtocol(service.Proto))
	}
}

// checkOverlaps reports services that claim the same packets, neither more narrowly than the other: with the same addresses, the same
// protocol and as many ports. Sorted by port, a service need only be compared with the one before it that reaches furthest.
func (d *decoder) checkOverlaps(services []model.Service) {
	sorted := slices.Clone(services)
	slices.SortStableFunc(sorted, func(a, b model.Service) int {
		return cmp.Or(compareAddresses(a, b), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Ports(), b.Ports()), cmp.Compare(a.Port.Lo, b.Port.Lo))
	})
	var furthest model.Service
	for _, service := range sorted {
		same := compareAddresses(service, furthest) == 0 && service.Proto == furthest.Proto && service.Ports() == furthest.Ports()
		if !located(service) {
			continue
		}
		if same && service.Port.Lo <= furthest.Port.Hi {
			first, second := furthest, service
			if first.Pos.Line > second.Pos.Line {
				first, second = second, first
			}
			d.fail(d.valueAt(second.Pos, "port"), "ports that no other service has at this address",
				"the services %s and %s overlap at %s %s; %s is in line %d", first.Name, second.Name,
				service.AddressText(), rule.ServiceProtocol(service.Proto), first.Name, d.valueAt(first.Pos, "port").Line)
		}
		if !same || service.Port.Hi > furthest.Port.Hi {
			furthest = service
		}
	}
}

func compareAddresses(a, b model.Service) int {
	return cmp.Or(a.Addresses().Addr().Compare(b.Addresses().Addr()), cmp.Compare(a.Addresses().Bits(), b.Addresses().Bits()))
}

// located tells whether address, port and protocol were understood.
func located(service model.Service) bool {
	return service.Address.IsValid() && service.Proto != 0 && service.Port != model.Range{}
}

func family(addr netip.Addr) string {
	if addr.Is4() {
		return "IPv4"
	}
	return "IPv6"
}
