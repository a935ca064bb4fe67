package health

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// datagramLimit is how much of an answer is read, in bytes.
const datagramLimit = 4096

// exchange sends a message until ctx ends or an answer is the one that is waited for: right returns what it says, errOther for one
// that is something else.
func exchange(ctx context.Context, conn net.Conn, message []byte, right func(answer []byte) (seen string, err error)) (string, error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", err
		}
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := conn.Write(message); err != nil {
		return "", err
	}
	answer := make([]byte, datagramLimit)
	for {
		n, err := conn.Read(answer)
		if err != nil {
			return "", errors.Join(ctx.Err(), err)
		}
		if seen, err := right(answer[:n]); !errors.Is(err, errOther) {
			return seen, err
		}
	}
}

var errOther = errors.New("not the answer to this")

// datagram takes whatever comes back from the backend's port for an answer.
func datagram(ctx context.Context, c *connection, message []byte) (string, error) {
	conn, err := c.dial(ctx, "udp", "")
	if err != nil {
		return "", err
	}
	return exchange(ctx, conn, message, func(answer []byte) (string, error) {
		return fmt.Sprintf("answered, %d bytes", len(answer)), nil
	})
}

// ask asks a name server for the address of a name. That it is not there is an answer too, but not what one asks for.
func ask(ctx context.Context, c *connection, name string) (string, error) {
	question, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return "", err
	}
	id := uint16(rand.Uint32())
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: question, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	query, err := message.Pack()
	if err != nil {
		return "", err
	}
	conn, err := c.dial(ctx, "udp", "")
	if err != nil {
		return "", err
	}
	return exchange(ctx, conn, query, func(answer []byte) (string, error) {
		var parser dnsmessage.Parser
		header, err := parser.Start(answer)
		if err != nil || header.ID != id || !header.Response {
			return "", errOther
		}
		if header.RCode != dnsmessage.RCodeSuccess {
			return "", fmt.Errorf("DNS %s", rcode(header.RCode))
		}
		return "DNS answered", nil
	})
}

// rcode is the mnemonic of RFC 1035, section 4.1.1.
func rcode(code dnsmessage.RCode) string {
	names := []string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"}
	if int(code) < len(names) {
		return names[code]
	}
	return fmt.Sprintf("error %d", code)
}

// pingTries is how many identifiers are tried.
const pingTries = 4

const (
	echoRequest, echoReply   = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// ping sends an echo request (RFC 792, RFC 4443) from a raw socket, which needs CAP_NET_RAW.
func ping(ctx context.Context, c *connection) (string, error) {
	address := c.remote.Addr()
	network, proto, request, reply := "ip4:icmp", uint8(unix.IPPROTO_ICMP), byte(echoRequest), byte(echoReply)
	if address.Is6() {
		network, proto, request, reply = "ip6:ipv6-icmp", unix.IPPROTO_ICMPV6, echoRequest6, echoReply6
	}
	var id uint16
	var dialer net.Dialer
	if c.register != nil {
		if err := c.findSource(ctx); err != nil {
			return "", err
		}
	}
	for try := 1; ; try++ {
		id = uint16(1 + rand.N(65535))
		if c.register == nil {
			break
		}
		c.as.Proto, c.as.Local, c.as.Remote = proto, netip.AddrPortFrom(c.source, id), netip.AddrPortFrom(address, id)
		if err := c.tell(); err == nil {
			break
		} else if try == pingTries { // another backend's ping may have this identifier
			return "", err
		}
	}
	if c.register != nil {
		dialer.LocalAddr = &net.IPAddr{IP: c.source.AsSlice(), Zone: c.source.Zone()}
		dialer.ControlContext = func(_ context.Context, _, _ string, raw syscall.RawConn) (err error) {
			return errors.Join(raw.Control(func(fd uintptr) { err = setMark(int(fd), c.mark) }), err)
		}
	}
	conn, err := dialer.DialContext(ctx, network, address.String())
	if err != nil {
		return "", err
	}
	c.conn = conn
	message := []byte{request, 0, 0, 0, byte(id >> 8), byte(id), 0, 1}
	if address.Is4() { // the kernel sets that of ICMPv6
		sum := uint32(request)<<8 + uint32(id) + 1
		binary.BigEndian.PutUint16(message[2:], ^uint16(sum+sum>>16))
	}
	return exchange(ctx, conn, message, func(answer []byte) (string, error) {
		if address.Is4() && len(answer) > 0 { // a raw socket shows the IP header
			answer = answer[min(len(answer), int(answer[0]&15)*4):]
		}
		if len(answer) < 8 || answer[0] != reply || binary.BigEndian.Uint16(answer[4:]) != id {
			return "", errOther
		}
		return "answered the ping", nil
	})
}
