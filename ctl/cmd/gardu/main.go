// Command gardu filters, balances and counts packets in the kernel: the daemon, and the client that asks it.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// sameSignal is how long after a signal to end another one is taken for the same: timeout(1) sends two, and so does a
// terminal together with who relays its signals.
const sameSignal = time.Second

// SIGINT and SIGTERM end a command in an orderly way; a second one, later than sameSignal, ends it at once. Signals stay
// caught until the exit, so that what ended well is seen to have.
func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() { time.AfterFunc(sameSignal, stop) })
	os.Exit(Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Main runs one command line until ctx ends and returns its exit code: 0 done, 1 failed, 2 wrong usage, 3 the daemon can't
// be reached, 4 plan --exit-code found that something would change.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return newApp(stdin, stdout, stderr).execute(ctx, args)
}
