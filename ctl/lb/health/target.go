package health

import (
	"net/netip"
	"strconv"

	"gardu/ctl/lb"
	"gardu/ctl/model"
)

// Target is one backend of one service to check.
type Target struct {
	Service, Backend string         // names; together they tell targets apart
	Address          netip.AddrPort // of the backend, to connect to
	Through          netip.AddrPort // of the service, to connect to instead where the forwarding path can be gone; zero: not wanted
	Host             string         // of HTTP requests: the service's address
	Check            model.Health   // its position is of no interest
}

// Targets returns what a snapshot wants checked: the backends of services with `health`.
func Targets(s *model.Snapshot) []Target {
	var targets []Target
	for _, service := range s.Services {
		if service.Health == nil {
			continue
		}
		check := *service.Health
		check.Pos = model.Position{}
		if check.Port == 0 {
			check.Port = uint16(service.Port.Lo)
		}
		mode, _ := lb.FindMode(service.Forward)
		var through netip.AddrPort
		if mode.Checks && check.Via != model.ViaBackend {
			through = netip.AddrPortFrom(service.Address, check.Port)
		}
		for _, backend := range service.Backends {
			check := check
			if backend.Port != 0 && service.Health.Port == 0 {
				check.Port = backend.Port
			}
			targets = append(targets, Target{
				Service: service.Name,
				Backend: backend.Name,
				Address: netip.AddrPortFrom(backend.Address, check.Port),
				Through: through,
				Host:    host(service, check),
				Check:   check,
			})
		}
	}
	return targets
}

// host is what a browser would send for the service, if nothing else is wanted.
func host(s model.Service, check model.Health) string {
	if check.Host != "" {
		return check.Host
	}
	port := uint16(s.Port.Lo)
	if s.Port.Lo != s.Port.Hi {
		port = check.Port
	}
	text := s.Address.String()
	if s.Address.Is6() {
		text = "[" + text + "]"
	}
	if port == 80 && check.HTTPS == "" || port == 443 && check.HTTPS != "" {
		return text
	}
	return text + ":" + strconv.Itoa(int(port))
}

func (t Target) key() key { return key{t.Service, t.Backend} }

type key struct{ service, backend string }
