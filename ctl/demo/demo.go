package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"gardu/ctl/api/client"
	"gardu/ctl/testnet"
)

// Options of a demo.
type Options struct {
	Out    io.Writer // what happens, for people
	Keep   bool      // stay after the report until ctx ends
	Binary string    // the gardu program; "" is the one that runs
}

// ErrNotObserved is wrapped by the error of a demo that ran but didn't see all it should have seen.
var ErrNotObserved = errors.New("not observed")

// What a demo uses on this machine, all of it removed in the end.
const (
	name       = "gardu-demo" // of the namespaces, with a node's name behind it
	directory  = "/run/gardu-demo"
	bpffs      = "/sys/fs/bpf/gardu-demo"
	socketPath = directory + "/gardu.sock" // as configs/examples/demo.yaml has it
	configPath = directory + "/demo.yaml"
	statePath  = directory + "/state"
	logPath    = directory + "/gardu.log"
)

// demo is a run.
type demo struct {
	out    io.Writer
	binary string
	begin  time.Time

	network  *testnet.Net
	client   *testnet.Node
	hostile  *testnet.Node
	box      *testnet.Node // where gardu is
	backends []*backend
	daemon   *testnet.Process
	log      *os.File
	api      *client.Client

	pace  time.Duration   // between the requests of a conversation
	talks []*conversation // long-lived connections
}

// step is one thing to be observed. run returns what was seen; an error says what was seen instead.
type step struct {
	title string // as announced
	claim string // as reported
	run   func(*demo, context.Context) (seen string, err error)
}

func steps() []step {
	return []step{
		{"Requests are spread over the backends by weight: 100, 100, 50", "spread by weight", (*demo).spread},
		{"A hostile client is in a set of the configuration", "blocked by a set", (*demo).blockedBySet},
		{"A hostile client that nobody knew is blocked by hand", "blocked by hand", (*demo).blockedByHand},
		{"The daemon is killed (kill -9) while connections are open", "daemon killed", (*demo).killDaemon},
		{"A backend is killed while connections are open", "backend killed", (*demo).killBackend},
		{"Flows are recorded", "flows counted", (*demo).flows},
	}
}

// Run builds the network, does all steps, prints a report and removes everything, also when ctx ends before. It
// returns an error that wraps ErrNotObserved when a step saw something else than it should, and needs root.
func Run(ctx context.Context, o Options) (err error) {
	if o.Binary == "" {
		if o.Binary, err = os.Executable(); err != nil {
			return fmt.Errorf("find the gardu program: %w", err)
		}
	}
	d := &demo{out: o.Out, binary: o.Binary, begin: time.Now(), pace: spacing}
	defer func() { err = errors.Join(err, d.close()) }()
	d.introduce()
	if err := d.setUp(ctx); err != nil {
		return d.interrupted(ctx, err)
	}
	var findings []finding
	for i, s := range steps() {
		d.printf("\n%d. %s\n", i+1, s.title)
		seen, err := s.run(d, ctx)
		if ctx.Err() != nil {
			return d.interrupted(ctx, err)
		}
		f := finding{s.claim, seen, err}
		d.say("%s", f)
		findings = append(findings, f)
	}
	missing := d.report(findings)
	if o.Keep {
		d.invite()
		<-ctx.Done()
	}
	if len(missing) > 0 {
		d.lastWords()
		return fmt.Errorf("demo: %s: %w", strings.Join(missing, ", "), ErrNotObserved)
	}
	return nil
}

// interrupted tells an error of ours from the end of ctx, and shows the daemon's last words in the first case.
func (d *demo) interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		d.printf("\nInterrupted.\n")
		return fmt.Errorf("demo: %w", context.Cause(ctx))
	}
	d.lastWords()
	return fmt.Errorf("demo: %w", err)
}

// lastWords shows the end of the daemon's log.
func (d *demo) lastWords() {
	if tail := d.logTail(); tail != "" {
		d.printf("\nThe daemon's last words (%s):\n%s", logPath, tail)
	}
}

// close removes everything. The daemon first, while its interfaces are still there for it to leave.
func (d *demo) close() error {
	var errs []error
	for _, talk := range d.talks {
		talk.stop()
	}
	for _, b := range d.backends {
		b.stop()
	}
	if d.daemon != nil {
		_ = d.daemon.Stop(5 * time.Second) // how it ended is of no interest any more
	}
	if d.network != nil {
		errs = append(errs, d.network.Close(), os.RemoveAll(bpffs), os.RemoveAll(directory))
	}
	if d.log != nil {
		d.log.Close()
	}
	if d.api != nil {
		d.api.Close()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	if d.network != nil {
		d.printf("\nCleaned up: no namespace, program or file is left.\n")
	}
	return nil
}
