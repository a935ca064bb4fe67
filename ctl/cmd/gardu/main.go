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

func main() {
	os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// sameSignal is how long after a signal to end another one is taken for the same: timeout(1) sends two, and so does a
// terminal together with who relays its signals.
const sameSignal = time.Second

// Main runs one command line and returns its exit code: 0 done, 1 failed, 2 wrong usage, 3 the daemon can't be reached.
// SIGINT and SIGTERM end it in an orderly way; a second one, later than sameSignal, ends it at once.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { time.AfterFunc(sameSignal, stop) })
	return newApp(stdin, stdout, stderr).execute(ctx, args)
}
