package rule

import "gardu/ctl/model"

// RejectInfo describes an answer that a rule can give to what it rejects.
type RejectInfo struct {
	Code model.RejectCode
	Help string
}

// Rejects returns a row for each member of enum reject in bpf/abi.h but the first, in its order.
func Rejects() []RejectInfo {
	return []RejectInfo{
		{model.RejectReset, "a TCP reset; the rule must be for TCP alone"},
		{model.RejectPort, "ICMP port unreachable"},
		{model.RejectHost, "ICMP host unreachable, ICMPv6 address unreachable"},
		{model.RejectNet, "ICMP net unreachable, ICMPv6 no route"},
		{model.RejectAdmin, "ICMP communication administratively prohibited"},
	}
}

// OnlyTCP tells whether all packets that the rule matches are TCP.
func OnlyTCP(r model.Rule) bool {
	for _, c := range r.Match {
		if c.Field == "proto" && !c.Not && len(c.Ranges) == 1 && c.Ranges[0] == (model.Range{Lo: model.ProtoTCP, Hi: model.ProtoTCP}) {
			return true
		}
	}
	return false
}
