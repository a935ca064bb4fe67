package lint

import (
	"fmt"
	"os"

	"gardu/ctl/config"
	"gardu/ctl/model"
)

// LocalPorts are the ports that the kernel of this machine takes for its own connections; the zero value: not known.
func LocalPorts() (r model.Range) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return r
	}
	if _, err := fmt.Sscan(string(text), &r.Lo, &r.Hi); err != nil {
		return model.Range{}
	}
	return r
}

// SharedPorts finds services whose translations have ports that this machine's own connections may have as well: answers to one would be
// taken for answers to the other.
func SharedPorts(s *model.Snapshot, local model.Range, text []byte) []config.Warning {
	var warnings []config.Warning
	for _, service := range s.Services {
		ports := service.NAT.Ports
		if ports.Hi == 0 || local.Hi == 0 || ports.Hi < local.Lo || local.Hi < ports.Lo {
			continue
		}
		msg := fmt.Sprintf("nat.ports %d-%d of %s overlap %d-%d, which this machine takes for its own connections (sysctl net.ipv4.ip_local_port_range)",
			ports.Lo, ports.Hi, service.Name, local.Lo, local.Hi)
		warnings = append(warnings, config.Warning{Pos: service.Pos, Msg: msg, Line: config.LineOf(text, service.Pos.Line)})
	}
	return warnings
}
