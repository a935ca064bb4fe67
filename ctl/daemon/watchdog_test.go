package daemon

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestLateLoops(t *testing.T) {
	var p pulses
	for l := range loopCount {
		p.beat(l, 10*time.Second)
	}
	if late := p.late(30*time.Second, 20*time.Second); late != "" {
		t.Errorf("%s is late in time", late)
	}
	p.beat(loopNetwork, 11*time.Second)
	if late := p.late(31*time.Second, 20*time.Second); late != "housekeeping, watching configuration and set files" {
		t.Errorf("late: %q", late)
	}
}

func TestWatchdogPeriod(t *testing.T) {
	for _, tc := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"", "", 0},
		{"60000000", "", time.Minute},
		{"60000000", fmt.Sprint(os.Getpid()), time.Minute},
		{"60000000", "1", 0},
		{"-1", "", 0},
		{"9223372036854775807", "", 0},
		{"often", "", 0},
	} {
		t.Setenv("WATCHDOG_USEC", tc.usec)
		t.Setenv("WATCHDOG_PID", tc.pid)
		if got := watchdogPeriod(); got != tc.want {
			t.Errorf("WATCHDOG_USEC=%s WATCHDOG_PID=%s: %s, want %s", tc.usec, tc.pid, got, tc.want)
		}
	}
}

// The service manager hears that the daemon is ready, then that it lives, and that it ends.
func TestNotifies(t *testing.T) {
	w := newWorld(t)
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: w.path("notify"), Net: "unixgram"})
	w.must(err)
	defer socket.Close()
	w.env = []string{"NOTIFY_SOCKET=" + w.path("notify"), "WATCHDOG_USEC=400000"}
	w.write("gardu.yaml", base)
	w.start()
	hear := func() string {
		w.must(socket.SetReadDeadline(time.Now().Add(patience)))
		text := make([]byte, 256)
		n, _, err := socket.ReadFrom(text)
		w.must(err)
		return string(text[:n])
	}
	if first := hear(); first != "READY=1" {
		t.Errorf("heard %q first", first)
	}
	for range 3 {
		if said := hear(); said != "WATCHDOG=1" {
			t.Errorf("heard %q", said)
		}
	}
	w.must(w.process.Stop(patience))
	last := hear()
	for last == "WATCHDOG=1" {
		last = hear()
	}
	if !strings.HasPrefix(last, "STOPPING=1") {
		t.Errorf("heard %q last", last)
	}
}
