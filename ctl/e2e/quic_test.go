package e2e

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"testing"

	"github.com/quic-go/quic-go"

	"gardu/ctl/testnet"
)

// serverIDs makes connection IDs that name a server: configuration 5, then the server ID, then chance.
type serverIDs [4]byte

func (s serverIDs) ConnectionIDLen() int { return 12 }

func (s serverIDs) GenerateConnectionID() (quic.ConnectionID, error) {
	id := make([]byte, s.ConnectionIDLen())
	if _, err := rand.Read(id); err != nil {
		return quic.ConnectionID{}, err
	}
	id[0] = 5<<5 | id[0]&0x1f
	copy(id[1:], s[:])
	return quic.ConnectionIDFromBytes(id), nil
}

// TestQUIC moves a client to other ports and addresses in the middle of a connection, which stays on its backend, also when that is drained.
func TestQUIC(t *testing.T) {
	w := newWorld(t, 4)
	config := "interfaces:\n  client0: {path: auto}\nservices:\n  h3:\n    address: 192.0.2.10\n    port: 443\n    proto: udp\n    forward: dsr\n" +
		"    quic: {config-id: 5}\n    backends:\n"
	for i, node := range w.backends {
		config += fmt.Sprintf("      - {name: %s, address: 10.0.%d.11}\n", node.Name(), i+1)
		w.serveQUIC(node, serverIDs{10, 0, byte(i + 1), 11})
	}
	w.start(config)
	w.ready()

	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	conn, err := w.clientSocket("198.51.100.10").Dial(ctx, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 10), Port: 443},
		&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"name"}}, nil)
	w.must(err)
	defer conn.CloseWithError(0, "")
	home, err := whoAnswers(ctx, conn)
	w.must(err)
	for i := range 2 { // the client has connection IDs for two moves
		if i == 1 {
			_, err := w.gardu("drain", "h3/"+home)
			w.must(err)
		}
		path, err := conn.AddPath(w.clientSocket(fmt.Sprintf("198.51.100.%d", 10+i%4)))
		w.must(err)
		w.must(path.Probe(ctx))
		w.must(path.Switch())
		now, err := whoAnswers(ctx, conn)
		w.must(err)
		if now != home {
			t.Fatalf("move %d: %s answered, the connection is with %s", i, now, home)
		}
	}
	list, err := w.api.Backends(ctx)
	w.must(err)
	for _, b := range list {
		if named := b.QUIC > 0; named != (b.Name == home) {
			t.Errorf("%d connection IDs named %s, the connection is with %s", b.QUIC, b.Name, home)
		}
	}
}

// serveQUIC tells on each stream of each connection to 192.0.2.10:443 which node it is.
func (w *world) serveQUIC(node *testnet.Node, ids serverIDs) {
	w.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	w.must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	w.must(err)
	listener, err := (&quic.Transport{Conn: w.udpSocket(node, "192.0.2.10:443"), ConnectionIDGenerator: ids}).Listen(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: private}}, NextProtos: []string{"name"},
	}, nil)
	w.must(err)
	w.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept(context.Background())
			if err != nil {
				return
			}
			go func() {
				for {
					stream, err := conn.AcceptStream(context.Background())
					if err != nil {
						return
					}
					_, _ = fmt.Fprintln(stream, node.Name())
					_ = stream.Close()
				}
			}()
		}
	}()
}

// clientSocket is a socket of the client at an address, with a port of its own.
func (w *world) clientSocket(address string) *quic.Transport {
	w.Helper()
	transport := &quic.Transport{Conn: w.udpSocket(w.client, address+":0")}
	w.Cleanup(func() { _ = transport.Close() })
	return transport
}

func (w *world) udpSocket(node *testnet.Node, address string) (conn net.PacketConn) {
	w.Helper()
	w.must(node.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", address)
		return err
	}))
	w.Cleanup(func() { _ = conn.Close() })
	return conn
}

// whoAnswers is the server's name, by a stream of its own.
func whoAnswers(ctx context.Context, conn *quic.Conn) (string, error) {
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return "", err
	}
	deadline, _ := ctx.Deadline()
	if err := stream.SetDeadline(deadline); err != nil {
		return "", err
	}
	if err := stream.Close(); err != nil { // the server sees it only then
		return "", err
	}
	line, _, err := bufio.NewReader(stream).ReadLine()
	return string(line), err
}
