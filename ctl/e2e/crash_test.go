package e2e

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
)

// TestKill kills the daemon, twice, in the middle of transfers: no transfer breaks, the counters go on, and the next
// daemon takes over.
func TestKill(t *testing.T) {
	w := newWorld(t, 3)
	w.startWeb()
	w.decap()
	config := allForwards("auto", len(w.backends))
	w.start(config)
	w.ready()
	// 20 MB at 5 MB/s each: four seconds, in which both kills happen.
	const size, limit = 20 << 20, "5M"
	path, sum := w.file("part", size)

	var transfers []transfer
	for i, f := range forwards {
		transfers = append(transfers,
			w.download(host(f.address), "part", fmt.Sprintf("got-%d", i), limit),
			w.upload(host(f.address), path, fmt.Sprintf("sent-%d", i), limit))
	}
	results := make(chan error, len(transfers))
	var running sync.WaitGroup
	for _, transfer := range transfers {
		running.Go(func() {
			if err := w.do(transfer, sum); err != nil {
				results <- fmt.Errorf("%v: %w", transfer.args, err)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		running.Wait()
		close(done)
	}()

	last := w.forwarded()
	grows := func() error {
		now := w.forwarded()
		if now < last {
			t.Fatalf("forwarded packets went from %d back to %d", last, now)
		}
		if now == last {
			return errors.New("the counters stand still")
		}
		last = now
		return nil
	}
	w.until("packets counted", grows)
	for range 2 {
		before := w.forwarded()
		w.daemon.Kill()
		w.daemon = nil
		if err := w.answers("192.0.2.10"); err != nil {
			t.Errorf("without a daemon: %v", err)
		}
		select {
		case <-done:
			t.Fatal("the transfers were over before the daemon was back: nothing is proven")
		default:
		}
		w.start(config)
		if after := w.forwarded(); after <= before {
			t.Errorf("%d packets were forwarded before the kill, %d after it", before, after)
		}
		last = w.forwarded()
		w.until("packets counted", grows)
	}
	<-done
	close(results)
	for err := range results {
		t.Error(err)
	}
	// 20 MB in packets of 1,448 bytes of payload, for each upload; downloads are acknowledgements only.
	if least := uint64(len(forwards) * size / 1448); w.forwarded() < least {
		t.Errorf("%d packets were forwarded, at least %d were sent", w.forwarded(), least)
	}
}

// TestStop checks that SIGTERM takes everything off, and with --keep-attached nothing.
func TestStop(t *testing.T) {
	w := newWorld(t, 2)
	w.startWeb()
	w.decap()
	config := allForwards("auto", len(w.backends))
	w.start(config, "--keep-attached")
	w.ready()
	w.stop(syscall.SIGTERM)
	if err := w.answers("192.0.2.10"); err != nil {
		t.Errorf("--keep-attached: %v", err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		w.start(config)
		w.ready()
		w.stop(sig)
		w.checkGone()
	}
}

// stop ends the daemon by a signal and expects it to end well.
func (w *world) stop(sig syscall.Signal) {
	w.Helper()
	w.must(w.daemon.Signal(sig))
	err := w.daemon.Wait()
	w.daemon = nil
	if err != nil {
		w.Errorf("the daemon ended by %s: %v", sig, err)
	}
}
