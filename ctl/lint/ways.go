package lint

import (
	"fmt"
	"net/netip"

	"gardu/ctl/config"
	"gardu/ctl/lb"
	"gardu/ctl/model"
)

// Ways finds backends that this machine knows no way to, and ways that are too narrow for what goes there. room gives the MTU of a way;
// largest is how many bytes of IP clients send at once. Of a service's ways the narrowest is told.
func Ways(s *model.Snapshot, room func(netip.Addr) (int, error), largest int, text []byte) []config.Warning {
	var warnings []config.Warning
	warn := func(pos model.Position, format string, args ...any) {
		warnings = append(warnings, config.Warning{Pos: pos, Msg: fmt.Sprintf(format, args...), Line: config.LineOf(text, pos.Line)})
	}
	for _, service := range s.Services {
		mode, _ := lb.FindMode(service.Forward)
		var narrow *model.Backend
		least, told := 0, ""
		for i, b := range service.Backends {
			mtu, err := room(b.Address)
			if err != nil {
				warn(b.Pos, "no packet gets from this machine to %s of %s: %v", b.Name, service.Name, err)
				continue
			}
			left := mtu - mode.Overhead(b.Address)
			if text := mode.Narrow(service.Address, b.Address, mtu, largest); text != "" && (narrow == nil || left < least) {
				narrow, least, told = &service.Backends[i], left, text
			}
		}
		if narrow != nil {
			warn(narrow.Pos, "the way to %s of %s is narrow: %s", narrow.Name, service.Name, told)
		}
	}
	return warnings
}
