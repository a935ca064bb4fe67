package daemon

import (
	"context"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// loop is one of those that must come round for the daemon to be worth its name. Each does so at least every hopEvery.
type loop int

const (
	loopHousekeep loop = iota
	loopNetwork
	loopConfig
	loopCount
)

func (l loop) String() string {
	return [...]string{"housekeeping", "watching the network", "watching configuration and set files"}[l]
}

// pulses say when each loop came round last, as time since the daemon started.
type pulses [loopCount]atomic.Int64

func (p *pulses) beat(l loop, at time.Duration) { p[l].Store(int64(at)) }

// late names the loops that haven't come round for longer than allowed.
func (p *pulses) late(now, allowed time.Duration) string {
	var names []string
	for l := range loopCount {
		if now-time.Duration(p[l].Load()) > allowed {
			names = append(names, l.String())
		}
	}
	return strings.Join(names, ", ")
}

func (d *Daemon) beat(l loop) { d.pulses.beat(l, time.Since(d.started)) }

// watchdogPeriod is within which the service manager wants to hear of us (sd_watchdog_enabled(3)); 0: it doesn't.
func watchdogPeriod() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0 // somebody else is meant
	}
	us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || us <= 0 || us > int64(24*time.Hour/time.Microsecond) {
		return 0
	}
	return time.Duration(us) * time.Microsecond
}

// feedWatchdog tells the service manager that the daemon lives, as long as its loops do. A daemon that hangs is then killed and
// started again, and packets don't notice.
func (d *Daemon) feedWatchdog(ctx context.Context) error {
	for l := range loopCount {
		d.beat(l) // the start may have taken its time
	}
	period := watchdogPeriod()
	if period == 0 {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(period / 4)
	defer ticker.Stop()
	for {
		if late := d.pulses.late(time.Since(d.started), max(period/2, 2*hopEvery)); late != "" {
			d.log.Error("a part of the daemon hangs; the service manager will start it again", "part", late)
		} else if err := notify("WATCHDOG=1"); err != nil {
			d.log.Warn("watchdog of the service manager not told", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
