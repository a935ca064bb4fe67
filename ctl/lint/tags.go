package lint

import (
	"fmt"

	"gardu/ctl/config"
	"gardu/ctl/model"
)

// Untagged finds interfaces on which rules ask for VLAN tags that are gone before XDP sees the frame. strips tells whether an interface
// takes them off what it receives. Path auto needs no warning: it is tc then.
func Untagged(s *model.Snapshot, strips func(name string) bool, text []byte) []config.Warning {
	var warnings []config.Warning
	for _, i := range s.Interfaces {
		if i.Tags == "" || i.Path != model.PathXDP && i.Path != model.PathXDPGeneric || !strips(i.Name) {
			continue
		}
		msg := fmt.Sprintf("rule %s matches on vlan, but %s takes tags off before XDP sees a packet, so all look untagged: let path be auto or tc, or ethtool -K %s rxvlan off",
			i.Tags, i.Name, i.Name)
		warnings = append(warnings, config.Warning{Pos: i.Pos, Msg: msg, Line: config.LineOf(text, i.Pos.Line)})
	}
	return warnings
}
