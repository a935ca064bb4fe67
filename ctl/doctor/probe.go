package doctor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gardu/ctl/lb"
	"gardu/ctl/netdev"
	"gardu/ctl/pkt"
)

// Answer is what came back of a probe.
type Answer struct {
	Kind AnswerKind
	Text string // of an error message: who sent it, and what it says
}

// AnswerKind is the sort of an Answer.
type AnswerKind uint8

const (
	NotAsked AnswerKind = iota
	Answered
	Refused // by a TCP reset
	Silent
	Error // an ICMP error about the probe
)

// Legs is what became of probes through a service's path to one of its backends, and back. They leave this machine as the data plane would
// send them, and are seen coming back before the kernel or gardu drops anything but at XDP.
type Legs struct {
	Service Answer // a SYN for the service, or without a TCP port an echo request to its address
	Large   Answer // the same, as large as a client's packets can be
	Ping    Answer // an echo request to the service's address
	Inside  Answer // an echo request to the backend's own address, wrapped
	Own     Answer // the same, not wrapped
}

// prober sends probes to a backend.
type prober struct {
	*Backend
	socket int
	source netip.Addr // that answers come back to
}

// probe asks along the service's path, and where nothing comes back asks for less and less.
func (b *Backend) probe(links *netdev.Handle) error {
	if mode, _ := lb.FindMode(b.Forward); !mode.Checks {
		return nil // with nat, to connect tells
	}
	source, err := b.answeredAt(links)
	if err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))))
	if err != nil {
		return fmt.Errorf("open a socket to probe %s: %w", b.Address, err)
	}
	defer unix.Close(socket)
	tick := unix.NsecToTimeval((20 * time.Millisecond).Nanoseconds())
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tick); err != nil {
		return fmt.Errorf("set up a socket to probe %s: %w", b.Address, err)
	}
	return (&prober{b, socket, source}).walk()
}

// answeredAt is the address of this machine that probes come from.
func (b *Backend) answeredAt(links *netdev.Handle) (netip.Addr, error) {
	if b.Hop.Source.Is4() == b.For.Is4() {
		return b.Hop.Source, nil
	}
	own, err := links.Addresses()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, p := range own {
		if p.Addr().Is4() == b.For.Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("this machine has no address that a server at %s could answer to", b.For)
}

func (p *prober) walk() (err error) {
	ask := func(to *Answer, packet string, wrapped bool) {
		if err == nil {
			*to, err = p.ask(packet, wrapped)
		}
	}
	if p.Port == 0 {
		ask(&p.Legs.Service, p.echo(p.For, 0), true)
	} else {
		ask(&p.Legs.Service, p.syn(0), true)
	}
	switch p.Legs.Service.Kind {
	case Answered, Refused:
		if p.LargestClient > 0 && p.LargestClient+p.overhead() <= p.Hop.MTU {
			if p.Port == 0 {
				ask(&p.Legs.Large, p.echo(p.For, p.LargestClient), true)
			} else {
				ask(&p.Legs.Large, p.syn(p.LargestClient), true)
			}
		}
		return err
	case Error:
		return err
	}
	if p.Port != 0 {
		if ask(&p.Legs.Ping, p.echo(p.For, 0), true); p.Legs.Ping.Kind != Silent {
			return err
		}
	}
	if p.overhead() > 0 && p.Address.Is4() == p.source.Is4() {
		if ask(&p.Legs.Inside, p.echo(p.Address, 0), true); p.Legs.Inside.Kind != Silent {
			return err
		}
	}
	if p.Address.Is4() == p.source.Is4() {
		ask(&p.Legs.Own, p.echo(p.Address, 0), false)
	}
	return err
}

// syn begins a connection to the service, in so many bytes of IP; 0: as few as it takes.
func (p *prober) syn(size int) string {
	from := netip.AddrPortFrom(p.source, uint16(20000+rand.N(10000))) // outside of the kernel's own
	return fmt.Sprintf("tcp %s > %s syn seq %d%s", from, netip.AddrPortFrom(p.For, p.Port), rand.Uint32(), p.filling(size, 20))
}

func (p *prober) echo(to netip.Addr, size int) string {
	kind := "icmp"
	if !to.Is4() {
		kind = "icmpv6"
	}
	return fmt.Sprintf("%s %s > %s echo-request id %d echoseq 1%s", kind, p.source, to, rand.N(1<<16), p.filling(size, 8))
}

// filling are the options of an inner packet: its length.
func (p *prober) filling(size, header int) string {
	text := ""
	if p.source.Is4() {
		text, header = " df", header+20
	} else {
		header += 40
	}
	if size > header {
		text += fmt.Sprintf(" len %d", size-header)
	}
	return text
}

// frame is the packet as it leaves this machine.
func (p *prober) frame(packet string, wrapped bool) ([]byte, error) {
	macs := fmt.Sprintf(" mac %s > %s", hardware(p.Hop.SrcMAC), hardware(p.Hop.DstMAC))
	if !wrapped || p.overhead() == 0 {
		return pkt.Parse(packet + macs)
	}
	from, to := p.Hop.Source.String(), p.Address.String()
	if p.Forward == "gue" {
		from = netip.AddrPortFrom(p.Hop.Source, uint16(20000+rand.N(10000))).String()
		to = netip.AddrPortFrom(p.Address, guePort).String()
	}
	df := ""
	if p.Address.Is4() {
		df = " df"
	}
	return pkt.Parse(fmt.Sprintf("%s %s > %s%s%s carries %s", p.Forward, from, to, df, macs, packet))
}

const guePort = 6080

func hardware(mac [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5])
}

// ask sends a probe, and once more, and waits for an answer.
func (p *prober) ask(packet string, wrapped bool) (Answer, error) {
	frame, err := p.frame(packet, wrapped)
	if err != nil {
		return Answer{}, fmt.Errorf("make a probe of %s: %w", p.Address, err)
	}
	inner, err := pkt.Parse(packet)
	if err != nil {
		return Answer{}, err
	}
	to := &unix.SockaddrLinklayer{Ifindex: p.Hop.Ifindex, Halen: 6}
	copy(to.Addr[:], p.Hop.DstMAC[:])
	room := make([]byte, 1<<16)
	for range 2 {
		if err := unix.Sendto(p.socket, frame, 0, to); err != nil && !errors.Is(err, unix.ENOBUFS) { // lost, as by a veth whose peer takes none so large
			return Answer{}, fmt.Errorf("send a probe of %d bytes to %s: %w", len(frame), p.Address, err)
		}
		for deadline := time.Now().Add(patience / 2); time.Now().Before(deadline); {
			n, from, err := unix.Recvfrom(p.socket, room, 0)
			if link, ok := from.(*unix.SockaddrLinklayer); err != nil || !ok || link.Pkttype == unix.PACKET_OUTGOING {
				continue // nothing within the tick
			}
			if answer := answerTo(packet, inner, room[:n]); answer.Kind != NotAsked {
				return answer, nil
			}
		}
	}
	return Answer{Kind: Silent}, nil
}

// answerTo says what a frame that came in has to do with a probe: NotAsked, nothing.
func answerTo(packet string, inner, frame []byte) Answer {
	words := strings.Fields(packet) // KIND FROM > TO ...
	text := pkt.Describe(frame)
	if rest, ok := strings.CutPrefix(text, fmt.Sprintf("%s %s > %s ", words[0], words[3], words[1])); ok {
		switch {
		case words[0] == "tcp" && strings.Contains(" "+rest, " rst"):
			return Answer{Kind: Refused}
		case words[0] == "tcp", strings.HasPrefix(rest, "echo-reply") && strings.Contains(rest, fmt.Sprintf(" id %s ", words[6])):
			return Answer{Kind: Answered}
		}
	}
	// An error message has the probe's addresses and ports, which stand one behind the other.
	quoted := inner[14:]
	if inner[12] == 8 { // IPv4
		quoted = quoted[12:24]
	} else {
		quoted = quoted[8:44]
	}
	if said := strings.Fields(text); strings.HasPrefix(text, "icmp") && !strings.Contains(text, " echo-") && bytes.Contains(frame, quoted) {
		said := said[:min(len(said), 8)]
		for i, word := range said {
			if word == "dscp" || word == "data" || word == "carries" || len(word) > 40 {
				said = said[:i]
				break
			}
		}
		return Answer{Error, strings.Join(said, " ")}
	}
	return Answer{}
}
