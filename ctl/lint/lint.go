package lint

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"gardu/ctl/config"
	"gardu/ctl/explain"
	"gardu/ctl/model"
	"gardu/ctl/pkt"
)

// Peer is somebody on the network with whom the box must be able to talk.
type Peer struct {
	What          string // in an error text: "the name server"
	Proto         string // tcp or udp
	Local, Remote netip.AddrPort
	Opened        bool   // by the box
	Interface     string // that it is reached by; "" when not known
}

// Router tells the way to an address: the interface, and the address that the box sends from.
type Router interface {
	Way(to netip.Addr) (ifname string, from netip.Addr, err error)
}

// Session returns the peer of an SSH session, from the value of SSH_CONNECTION in its environment. ok is false when that
// isn't one, or one that doesn't come from outside.
func Session(connection string, router Router) (p Peer, ok bool) {
	words := strings.Fields(connection)
	if len(words) != 4 {
		return Peer{}, false
	}
	p = Peer{What: "the SSH connection that you work on", Proto: "tcp"}
	var err [2]error
	p.Remote, err[0] = addrPort(words[0], words[1])
	p.Local, err[1] = addrPort(words[2], words[3])
	if err[0] != nil || err[1] != nil || p.Remote.Addr().Is4() != p.Local.Addr().Is4() || p.Remote.Addr().IsLoopback() {
		return Peer{}, false
	}
	if ifname, _, err := router.Way(p.Remote.Addr()); err == nil {
		p.Interface = ifname
	}
	return p, true
}

func addrPort(addr, port string) (netip.AddrPort, error) {
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	a, err := netip.ParseAddr(addr)
	return netip.AddrPortFrom(a.WithZone("").Unmap(), uint16(number)), err
}

// NameServers returns the name servers of a resolv.conf that are on the network.
func NameServers(resolvConf string, router Router) []Peer {
	const (
		domain    = 53
		ephemeral = 40000 // any port that a resolver may ask from
	)
	var peers []Peer
	for line := range strings.Lines(resolvConf) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(words[1])
		if err != nil || addr.IsLoopback() {
			continue
		}
		addr = addr.WithZone("").Unmap()
		ifname, from, err := router.Way(addr)
		if err != nil || !from.IsValid() || from.Is4() != addr.Is4() {
			continue
		}
		peers = append(peers, Peer{What: "the name server", Proto: "udp", Opened: true, Interface: ifname,
			Local: netip.AddrPortFrom(from, ephemeral), Remote: netip.AddrPortFrom(addr, domain)})
	}
	return peers
}

// resolvConfs are where the resolver's name servers stand. The first may name a stub on this machine alone.
var resolvConfs = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// Around returns the peers of this machine, and that of an SSH session unless connection is "".
func Around(connection string, router Router) []Peer {
	var peers []Peer
	if session, ok := Session(connection, router); ok {
		peers = append(peers, session)
	}
	for _, path := range resolvConfs {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if servers := NameServers(string(text), router); servers != nil {
			return append(peers, servers...)
		}
	}
	return peers
}

// CutOff returns a warning for each peer whose packets a snapshot would not let pass. text is what the snapshot was read from.
func CutOff(s *model.Snapshot, peers []Peer, text []byte) []config.Warning {
	var warnings []config.Warning
	for _, p := range peers {
		if !p.seen(s) {
			continue
		}
		for _, c := range p.conversations() {
			if w, cut := p.cut(c, s, text); cut {
				warnings = append(warnings, w)
				break
			}
		}
	}
	return warnings
}

// Ends says whether a snapshot would end what goes on with a peer, and how. That nothing new could begin is no such end.
func Ends(s *model.Snapshot, p Peer, text []byte) (config.Warning, bool) {
	if !p.seen(s) {
		return config.Warning{}, false
	}
	return p.cut(p.conversations()[0], s, text)
}

// seen says whether packets of the peer pass gardu.
func (p Peer) seen(s *model.Snapshot) bool {
	attached := slices.ContainsFunc(s.Interfaces, func(i model.Interface) bool { return i.Name == p.Interface })
	return len(s.Interfaces) > 0 && (p.Interface == "" || attached)
}

// cut says whether a conversation would not get through.
func (p Peer) cut(c conversation, s *model.Snapshot, text []byte) (config.Warning, bool) {
	out, err := c.judge(s)
	if err != nil || out.Verdict == explain.Pass {
		return config.Warning{}, false
	}
	pos, by := blame(s, out)
	msg := fmt.Sprintf("%s, %s, %s %s", p.What, p.text(), c.what, by)
	return config.Warning{Pos: pos, Msg: msg, Line: config.LineOf(text, pos.Line)}, true
}

func (p Peer) text() string {
	if p.Opened {
		return p.Remote.Addr().String()
	}
	return fmt.Sprintf("from %s to port %d", p.Remote, p.Local.Port())
}

// segment is a packet of a peer's, or of the box to the peer.
type segment struct {
	text string
	sent bool
}

// conversation is what must get through: each of the segments, one after the other.
type conversation struct {
	what     string // what it means if they don't, and what they are
	segments []segment
}

// conversations are what must be possible with the peer after an apply. What the box sends may make established what it
// is sent, as it will.
func (p Peer) conversations() []conversation {
	from := fmt.Sprintf("%s %s > %s", p.Proto, p.Remote, p.Local)
	to := fmt.Sprintf("%s %s > %s", p.Proto, p.Local, p.Remote)
	if p.Opened {
		return []conversation{{"would be cut off: questions and answers", []segment{{to, true}, {from, false}}}}
	}
	return []conversation{
		{"would be cut off: its packets", []segment{{to + " ack", true}, {from + " ack", false}}},
		{"could not be made again: the packets of a new one", []segment{{from + " syn", false}, {to + " syn ack", true}, {from + " ack", false}}},
	}
}

// judge returns what becomes of the first segment that doesn't get through, else of the last one.
func (c conversation) judge(s *model.Snapshot) (out explain.Outcome, err error) {
	m := &explain.Model{Ifindex: 1}
	m.Apply(s)
	for _, segment := range c.segments {
		frame, err := pkt.Parse(segment.text)
		if err != nil {
			return out, err
		}
		if segment.sent {
			out = m.JudgeSent(frame)
		} else {
			out = m.Judge(frame)
		}
		if out.Verdict != explain.Pass {
			return out, nil
		}
	}
	return out, nil
}

// blame says who has the word on a packet, and where it stands.
func blame(s *model.Snapshot, out explain.Outcome) (model.Position, string) {
	what := map[string]string{explain.Drop: "drops", explain.Redirect: "redirects", "reject": "rejects"}[out.Verdict]
	for _, r := range s.Filter.Rules {
		if r.Name == out.Rule {
			return r.Pos, fmt.Sprintf("meet the rule %s, which %s them", r.Name, what)
		}
	}
	for _, service := range s.Services {
		if service.Name == out.Service {
			return service.Pos, fmt.Sprintf("go to the backends of the service %s", service.Name)
		}
	}
	return s.Filter.Pos, fmt.Sprintf("meet no rule, and filter.default %s them", what)
}
