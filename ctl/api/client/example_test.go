package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"gardu/ctl/api"
	"gardu/ctl/api/apitest"
	"gardu/ctl/api/client"
	"gardu/ctl/config"
	"gardu/ctl/model"
)

// daemon answers as one would with an example in force, until stop is called.
func daemon(engine *apitest.Engine) (socket string, stop func()) {
	dir, err := os.MkdirTemp("", "gardu-example-*")
	if err != nil {
		log.Fatal(err)
	}
	socket = filepath.Join(dir, "gardu.sock")
	listener, err := api.Listen(socket)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.Serve(ctx, listener, engine, slog.New(slog.DiscardHandler)) }()
	return socket, func() {
		cancel()
		if err := errors.Join(<-done, os.RemoveAll(dir)); err != nil {
			log.Fatal(err)
		}
	}
}

func Example() {
	socket, stop := daemon(&apitest.Engine{}) // yours is at api.DefaultSocket
	defer stop()
	gardu := client.New(socket)
	defer gardu.Close()
	ctx := context.Background()

	status, err := gardu.Status(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("revision", status.Revision)
	for _, i := range status.Interfaces {
		fmt.Println(i.Name, "attached:", i.Attached)
	}
	// Output:
	// revision 7
	// eth0 attached: true
	// eth1 attached: true
	// wan0 attached: false
}

func ExampleClient_Block() {
	socket, stop := daemon(&apitest.Engine{})
	defer stop()
	gardu := client.New(socket)
	defer gardu.Close()

	blocks, err := gardu.Block(context.Background(), []api.BlockRequest{
		{Prefix: netip.MustParsePrefix("203.0.113.7/32"), For: api.Duration(10 * time.Minute), Why: "scan"},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(blocks[0].Prefix, "until", blocks[0].Expires.Format(time.TimeOnly))
	// Output: 203.0.113.7/32 until 12:10:00
}

func ExampleClient_Flows() {
	socket, stop := daemon(&apitest.Engine{})
	defer stop()
	gardu := client.New(socket)
	defer gardu.Close()

	query := api.FlowQuery{Filter: "proto tcp", Sort: "bytes", Limit: 10}
	err := gardu.Flows(context.Background(), query, func(f api.Flow) error {
		fmt.Println(netip.AddrPortFrom(f.Src, f.Sport), "to", netip.AddrPortFrom(f.Dst, f.Dport), f.Verdict)
		return nil // an error ends it
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// 198.51.100.7:40000 to 192.0.2.10:443 forward
	// 203.0.113.9:50000 to 192.0.2.1:22 drop
}

// Two programs that change the configuration don't overwrite each other: who comes second is told, and reads again.
func ExampleClient_Apply() {
	socket, stop := daemon(&apitest.Engine{})
	defer stop()
	gardu := client.New(socket)
	defer gardu.Close()
	ctx := context.Background()

	now, err := gardu.Snapshot(ctx)
	if err != nil {
		log.Fatal(err)
	}
	request := api.ApplyRequest{Name: now.Config, Dir: now.Dir, YAML: now.YAML + "# and more\n", IfMatch: now.Tag}
	result, err := gardu.Apply(ctx, request)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("revision", result.Revision, "is in force")

	request.IfMatch = "6-of-last-week"
	_, err = gardu.Apply(ctx, request)
	if problem, ok := errors.AsType[*api.Problem](err); ok && problem.Code == api.CodeStale {
		fmt.Println("revision", problem.Current.Revision, "is by", problem.Current.Author)
	}
	// Output:
	// revision 8 is in force
	// revision 7 is by anna
}

// A configuration that is wrong comes back with the place of each error.
func ExampleClient_Apply_wrong() {
	socket, stop := daemon(&apitest.Engine{Fail: config.Errors{
		{Pos: model.Position{File: "gardu.yaml", Line: 3, Column: 5}, Msg: `unknown key "defualt" in the filter`, Line: "    defualt: pass"},
	}})
	defer stop()
	gardu := client.New(socket)
	defer gardu.Close()

	_, err := gardu.Apply(context.Background(), api.ApplyRequest{Name: "gardu.yaml", YAML: "..."})
	if wrong, ok := errors.AsType[config.Errors](err); ok {
		for _, e := range wrong {
			fmt.Println(e.Pos, e.Msg)
		}
	}
	// Output: gardu.yaml:3:5 unknown key "defualt" in the filter
}

func ExampleNewTCP() {
	_, err := client.NewTCP(client.TCP{URL: "http://gardu.example:9180", Token: os.Getenv("GARDU_TOKEN")})
	fmt.Println(err)
	// Output: http://gardu.example:9180: others could read the token, and what is answered: https is for other machines
}
