package e2e

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
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
	// Each transfer takes about two seconds, and the next begins at once: many are under way at any moment.
	const size, limit = 20 << 20, "10M"
	path, sum := w.file("part", size)
	killed := make(chan struct{})
	var uploads, failures atomic.Int64
	var running sync.WaitGroup
	stop := sync.OnceFunc(func() {
		close(killed)
		running.Wait()
	})
	defer stop()
	for i, f := range forwards {
		running.Go(func() {
			for !closed(killed) {
				if err := w.do(w.download(host(f.address), "part", fmt.Sprintf("got-%d", i), limit), sum); err != nil {
					failures.Add(1)
					t.Errorf("download from %s: %v", f.name, err)
				}
			}
		})
		running.Go(func() {
			for !closed(killed) {
				if err := w.do(w.upload(host(f.address), path, fmt.Sprintf("sent-%d", i), limit), sum); err != nil {
					failures.Add(1)
					t.Errorf("upload to %s: %v", f.name, err)
				}
				uploads.Add(1)
			}
		})
	}

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
		w.start(config)
		if after := w.forwarded(); after <= before {
			t.Errorf("%d packets were forwarded before the kill, %d after it", before, after)
		}
		last = w.forwarded()
		w.until("packets counted", grows)
	}
	stop()
	// An upload is full packets of at most 1,460 bytes of payload; downloads are acknowledgements only.
	if least := uint64(uploads.Load()-failures.Load()) * size / 1460; w.forwarded() < least {
		t.Errorf("%d packets were forwarded, at least %d were sent", w.forwarded(), least)
	}
	t.Logf("%d uploads and as many downloads, %d packets forwarded", uploads.Load(), w.forwarded())
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
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

// stop ends the daemon by a signal, sent again and again as timeout(1) does, and expects it to end well.
func (w *world) stop(sig syscall.Signal) {
	w.Helper()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for range 100 {
		if err := w.daemon.Signal(sig); err != nil {
			break // it has ended
		}
		<-again.C
	}
	err := w.daemon.Wait()
	w.daemon = nil
	if err != nil {
		w.Errorf("the daemon ended by %s: %v", sig, err)
	}
}
