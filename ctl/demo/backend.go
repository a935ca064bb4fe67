package demo

import (
	"fmt"
	"net/http"
	"net/netip"

	"gardu/ctl/testnet"
)

// backend is a web server in a namespace of its own, which answers with its name.
type backend struct {
	node    *testnet.Node
	address netip.Addr
	server  *http.Server
}

func (b *backend) start() error {
	listener, err := b.node.Listen("tcp", ":80")
	if err != nil {
		return fmt.Errorf("start web server on %s: %w", b.node.Name(), err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, b.node.Name()) })
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	b.server = &http.Server{Handler: mux}
	go b.server.Serve(listener)
	return nil
}

// stop ends the server as the death of its process would: nobody listens any more, and all connections end.
func (b *backend) stop() {
	if b.server != nil {
		b.server.Close()
	}
}
